"""What is said of a search and of its networks, and where it is kept."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunet_det.arch.spec import Provenance
from prunet_det.runtime.subject import Scope
from prunet_det.search.config import SearchConfig
from prunet_det.search.costs import SpaceCosts
from prunet_det.search.result import CHECKPOINT_FILE, RUN_FILE, FoundNetwork
from prunet_det.search.space import Network
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import make_folder

logger = logging.getLogger(__name__)


def make_network(
    config: SearchConfig,
    costs: SpaceCosts,
    network: Network,
    budget_ms: float,
    data: Mapping[str, Any],
    chooser: str,
) -> FoundNetwork:
    """Names a network of a space and says what it comes from; the same search, the same bytes.

    Args:
        config: What was asked for.
        costs: Prices of the network's space.
        network: One entry a layer.
        budget_ms: Budget of the network.
        data: Name, number of classes and digest of the images that it was searched on.
        chooser: What chose it.
    """
    budget, identity = costs.budget(budget_ms), config.identity
    details = {
        "command": config.command,
        "strategy": "search",
        "budget": {
            "latency_ms": budget.ms,
            "input_size": budget.input_size,
            "scope": Scope.BACKBONE.value,
            "kind": costs.table.kind,
            **dataclasses.asdict(budget.conditions),
        },
        "seed": config.seed,
        "data": {key: value for key, value in data.items() if key != "hash"},
        "hashes": {
            "config": identity["config (digest)"],
            "space": costs.space.hash,
            "table": costs.table_hash,
            "data": data.get("hash", "none"),
        },
    }
    name, provenance = config.name_of(budget_ms), Provenance("searched", details)
    return FoundNetwork(
        spec=costs.space.to_spec(network, name, provenance, budget.input_size),
        budget=budget,
        kind=costs.table.kind,
        ms=costs.network_ms(network),
        chooser=chooser,
        final=False,
    )


def make_run(
    config: SearchConfig, identity: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The record of a search.

    Args:
        config: What was asked for.
        identity: What a continuation must agree on.
        seconds: Seconds by phase.
    """
    return {
        "command": config.command,
        "config": config.config,
        "seed": config.seed,
        "off": list(config.off),
        "weights": config.search.weights,
        "hashes": {key: value for key, value in identity.items() if "digest" in key},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        **environment(),
    }


def prepare_folder(config: SearchConfig) -> Path:
    """Makes the folder of a result.

    Raises:
        UserError: It cannot be written, or holds a search that is not to be resumed.
    """
    folder = make_folder(config.out)
    has_state, has_result = ((folder / name).exists() for name in (CHECKPOINT_FILE, RUN_FILE))
    if has_result and not has_state:
        raise UserError(f"{folder} holds a result without a checkpoint; give another --out.")
    if has_state and not config.resume:
        raise UserError(
            f"{folder} holds a search already; go on with it by --resume, or give another --out."
        )
    if config.resume and not has_state:
        logger.info("%s holds no checkpoint yet; the search starts afresh.", folder)
    return folder


def measured(network: FoundNetwork) -> FoundNetwork:
    """The network with its milliseconds on the device of a measured table, if that is here."""
    if network.kind != "measured":
        return network
    from prunet_det.latency.measure import find_device, measure
    from prunet_det.latency.record import Failure
    from prunet_det.runtime.subject import load_subject

    conditions = network.budget.conditions
    device = find_device(conditions)
    if device is None:
        return network
    subject = load_subject(network.spec, input_size=network.budget.input_size)
    (found,) = measure([subject], conditions, device=device, seconds=3.0)
    if isinstance(found, Failure):
        logger.warning("%s is not measured: %s", found.model, found.reason)
        return network
    return dataclasses.replace(network, measured_ms=found.latency.ms)
