"""What a search leaves: arch.json, run.json, weights.safetensors and a report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from prunet_det.arch.network import ArchNet, reestimate_norms
from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.latency import predict
from prunet_det.runtime.subject import Scope
from prunet_det.search.costs import Budget
from prunet_det.search.derive import inherit
from prunet_det.search.old_loop import SearchLoop
from prunet_det.search.repair import Repaired
from prunet_det.search.space import Network, SearchSpace
from prunet_det.utils.env import environment
from prunet_det.utils.errors import MissingFileError, UserError
from prunet_det.utils.io import read_json, reading, write_json
from prunet_det.zoo.weights import save_safetensors

ARCH_FILE, RUN_FILE, WEIGHTS_FILE = "arch.json", "run.json", "weights.safetensors"
FOUND_FILE, FINALS_FILE = "found.json", "finals.json"  # before the last tier, and its trainings
# What a result measured on the device itself must lie within, of the budget.
MEASURED_RANGE = (0.92, 1.05)
# Tiers that can be switched off, with the flags that did so in records without `tiers_off`.
_TIERS = {
    "widths": {"--fixed-expansions", "--no-pruning"},
    "blocks": {"--no-block-pruning", "--no-pruning"},
    "layers": {"--skip-from-start", "--no-pruning"},
    "finals": {"--no-finals"},
}
_RECALIBRATION_BATCHES = 20
_SCORED_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for: everything that a result depends on, and nothing else.

    Attributes:
        command: That regenerates it.
        config: Of the search, as its digest says.
        budget: What the result may cost.
        kind: Whether the budget's milliseconds are `predicted` or `measured`.
        seed, strategy: As on the command line.
        hashes: Of config, space, table and data.
        data: Name or folder, and the number of classes.
        name: Of the network; by default prunet_ and the strategy.
        tiers_off: Tiers that were switched off, of `widths`, `blocks`, `layers` and `finals`.
    """

    command: str
    config: str
    budget: Budget
    kind: str
    seed: int
    strategy: str
    hashes: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    tiers_off: tuple[str, ...] = ()

    @property
    def conditions(self) -> dict[str, Any]:
        """The budget's conditions and the kind of its milliseconds, as JSON has them."""
        found = asdict(self.budget.conditions)
        return {"device": found.pop("device"), "kind": self.kind, **found}

    def to_dict(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "command": self.command,
            "config": self.config,
            "budget_ms": self.budget.ms,
            "input_size": self.budget.input_size,
            "seed": self.seed,
            "strategy": self.strategy,
            "tiers_off": list(self.tiers_off),
            "conditions": self.conditions,
            "hashes": dict(self.hashes),
            "data": dict(self.data),
            "name": self.name,
        }

    def provenance(self) -> Provenance:
        """For the ArchSpec; the same request gives the same bytes."""
        return Provenance(
            "searched",
            {
                "command": self.command,
                "strategy": self.strategy,
                "budget": {
                    "latency_ms": self.budget.ms,
                    "input_size": self.budget.input_size,
                    "scope": Scope.BACKBONE.value,
                    **self.conditions,
                },
                "seed": self.seed,
                "data": dict(self.data),
                "hashes": dict(self.hashes),
            },
        )

    def digest(self) -> dict[str, Any]:
        """What a resumed search must agree on."""
        # What matters of a command, a config and its tiers is in the config's hash.
        hashed = ("command", "config", "tiers_off", "hashes")
        fields = {k: v for k, v in self.to_dict().items() if k not in hashed}
        return {**fields, **{f"{k} (digest)": v for k, v in self.hashes.items()}}


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found: a network and its latencies.

    Attributes:
        spec: The network.
        repaired: How it came into the budget.
        budget: What the network may cost.
        measured_ms: On the device itself, where that is here.
        last_tier: What it kept of its finalists, in a line; empty where there was none.
    """

    spec: ArchSpec
    repaired: Repaired
    budget: Budget
    measured_ms: float | None = None
    last_tier: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the network meets the budget: as priced, and as measured where that was done."""
        priced = self.budget.fits(self.repaired.after_ms)
        if self.measured_ms is None:
            return priced
        low, high = MEASURED_RANGE
        return priced and low <= self.measured_ms / self.budget.ms <= high

    def lines(self) -> list[str]:
        """Target, before repair, predicted and measured, for a person."""
        r, of = self.repaired, self.budget.ms
        lines = [
            f"target        {of:.4f} ms",
            f"before repair {r.before_ms:.4f} ms ({r.before_ms / of - 1:+.1%})",
            f"after repair  {r.after_ms:.4f} ms ({r.after_ms / of:.1%} of the target; {r.steps} "
            f"steps changed {r.width_changed:.1%} of the summed inner width)",
        ]
        if self.last_tier:
            lines.append(f"last tier     {self.last_tier}")
        if self.measured_ms is not None:
            share = self.measured_ms / of
            lines.append(f"measured here {self.measured_ms:.4f} ms ({share:.1%} of the target)")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For run.json."""
        r = self.repaired
        return {
            "target_ms": self.budget.ms,
            "before_repair_ms": r.before_ms,
            "after_repair_ms": r.after_ms,
            "repair_steps": r.steps,
            "width_changed": r.width_changed,
            "last_tier": self.last_tier,
            "measured_ms": self.measured_ms,
            "accepted": self.accepted,
        }


def make_result(space: SearchSpace, repaired: Repaired, request: Request) -> SearchResult:
    """Names a repaired network and gives it its provenance."""
    name = request.name or f"prunet_{request.strategy}"
    spec = space.to_spec(repaired.network, name, request.provenance(), request.budget.input_size)
    return SearchResult(spec=spec, repaired=repaired, budget=request.budget)


def write_result(
    out: str | os.PathLike[str],
    result: SearchResult,
    request: Request,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes arch.json and run.json."""
    result.spec.save(Path(out) / ARCH_FILE)
    record = {**request.to_dict(), **result.to_dict(), **(extra or {}), **environment()}
    write_json(Path(out) / RUN_FILE, record)


def inherited_network(loop: SearchLoop, spec: ArchSpec, network: Network) -> ArchNet:
    """The averaged weights of a search in a network, batch norms estimated anew."""
    architecture = loop.architecture
    best = architecture.preferred()
    keys: list[str | None] = []
    for i, block in enumerate(network):
        operator = architecture.operators[best[i]]
        same = (
            block is not None
            and operator is not None
            and (operator.kind, operator.kernel, operator.act, operator.se)
            == (block.kind, block.kernel, block.act, bool(block.se))
        )
        keys.append(architecture.keys[best[i]] if same else None)
    with torch.random.fork_rng(devices=[]):  # results on the way must not change the search
        torch.manual_seed(0)
        net = inherit(loop.ema.module, spec, network, keys).to(loop.device)
    reestimate_norms(net, _images(loop, _RECALIBRATION_BATCHES))
    return net


def _images(loop: SearchLoop, batches: int) -> Any:
    """Always the same batches of the weights' half."""
    data, size = loop.dataloader.dataset, loop.dataloader.batch_size or 1
    for batch in range(batches):
        items = [data[batch * size + i]["inputs"] for i in range(size)]
        yield torch.stack(items).to(loop.device)


@torch.no_grad()
def score(loop: SearchLoop, net: ArchNet) -> float:
    """Top-1 of a network on batches of the architecture's half, augmented as in the search."""
    data, size = loop.architecture_loader.dataset, loop.architecture_loader.batch_size or 1
    right = total = 0
    for batch in range(_SCORED_BATCHES):
        items = [data[batch * size + i] for i in range(size)]
        logits = net(torch.stack([item["inputs"] for item in items]).to(loop.device))
        labels = torch.tensor([item["labels"] for item in items], device=loop.device)
        right += int((logits.argmax(1) == labels).sum())
        total += len(items)
    return right / total


def save_weights(out: str | os.PathLike[str], net: ArchNet) -> None:
    """Writes the inherited weights."""
    save_safetensors(net.state_dict(), Path(out) / WEIGHTS_FILE)


def tiers_off(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Tiers that a search did without.

    Args:
        record: What run.json says, or a row of a CSV file of `summarize`. Those without
            `tiers_off` are older: their flags are among the words of `command` or `switches`.
    """
    if "tiers_off" in record:
        off = record["tiers_off"]
        return tuple(off.split() if isinstance(off, str) else off)
    flags = set(record.get("switches", record.get("command", "")).split())
    return tuple(tier for tier, switches in _TIERS.items() if flags & switches)


def summarize(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """One flat record of a finished result.

    Its latency is that of `arch.json`, predicted anew where the device is a named one, and what
    was measured on the device itself elsewhere.

    Raises:
        FileNotFoundError: The folder holds no result.
        ValueError: Its run.json is damaged.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise MissingFileError(f"{os.fspath(folder)} holds no result: there is no {RUN_FILE}.")
    run = read_json(path, "run of a search")
    spec = ArchSpec.load(Path(folder) / ARCH_FILE)
    with reading(path, "run of a search"):
        c = run["conditions"]
        if c["kind"] == "predicted":
            found = predict(spec, c["device"], c["batch"], run["input_size"])
            ms = found.latency.ms
        else:
            ms = run["measured_ms"] or run["after_repair_ms"]
        return {
            "strategy": run["strategy"],
            "tiers_off": " ".join(tiers_off(run)),
            "config": run["config"],
            **c,
            "input_size": run["input_size"],
            "seed": run["seed"],
            "budget_ms": run["budget_ms"],
            "before_repair": run["before_repair_ms"] / run["budget_ms"],
            "repair_steps": run["repair_steps"],
            "width_changed": run["width_changed"],
            "after_repair_ms": run["after_repair_ms"],
            "latency_ms": ms,
            "of_budget": ms / run["budget_ms"],
            "blocks": len(spec.blocks),
            "last_tier": run.get("last_tier", ""),
            "inherited_top1": run.get("inherited_top1", ""),
            "search_seconds": run.get("search_seconds", 0.0),
            "commit": run["commit"],
        }


def is_finished(folder: Path, config: str, budget_ms: float) -> bool:
    """Whether a folder holds the result of a search that came to its end.

    Args:
        folder: Of the search.
        config: Its file.
        budget_ms: Its budget.

    Raises:
        UserError: It holds the result of another search.
    """
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if "inherited_top1" not in run:
            return False
        found = os.path.normpath(run["config"]), run["budget_ms"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if found != (os.path.normpath(config), budget_ms):
        raise UserError(
            f"{folder} holds another search ({found[0]}, {found[1]:g} ms); give another --out."
        )
    return True
