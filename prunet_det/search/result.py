"""What a search leaves: a network for every budget, its weights and the figures of how it went."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunet_det.arch.spec import ArchSpec
from prunet_det.latency.record import Conditions
from prunet_det.search.costs import Budget
from prunet_det.utils.errors import InputError, MissingFileError, UserError
from prunet_det.utils.io import PathLike, make_folder, read_json, reading, write_json, write_text
from prunet_det.zoo.containers import read_state_dict
from prunet_det.zoo.weights import save_safetensors

logger = logging.getLogger(__name__)

ARCH_FILE, RUN_FILE, WEIGHTS_FILE = "arch.json", "run.json", "weights.safetensors"
CONFIG_FILE, CARD_FILE = "config.py", "weights.json"  # of a detector
LAST_TIER = "last tier"  # a phase of run.json's seconds: that of all budgets together
TIERS_FILE = "tiers.json"  # the tiers' own network, where a last tier has chosen after them
REPORT_FILE, CHECKPOINT_FILE, MEASURED_FILE = "report.md", "search.pth", "measured.json"
# What a network measured on the device itself must lie within, of the budget.
MEASURED_RANGE = (0.92, 1.05)
METRICS = {"top1": "top-1", "mAP": "mAP"}  # figures of merit and their titles
_RUN = "run of a search"


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """The network that a search found for one budget.

    Attributes:
        spec: Architecture of the network, with its provenance.
        budget: What the network may cost.
        kind: Whether the budget's milliseconds are `predicted` or `measured`.
        ms: Milliseconds of the network, of the budget's scope, as the search priced them.
        measured_ms: Milliseconds measured on the device itself; None where that is not here.
        chooser: What chose the network: `tiers`, `uniform widths` (on their operators), `highest
            MACs`, or a number of `evolution`, `surrogate` or `random`, such as `evolution 2`.
        figures: Further figures, such as `top1` of the weights on the half of the data that they
            have not seen, and `seconds`.
        weights: Weights by name; None for a network without.
        final: Whether the search for this budget has come to its end.
        tiers: Architecture that the tiers chose, if others were compared with it.
        scope: What the budget and the milliseconds are of: `backbone`, `detector` or `e2e`.
        config: Text of the config of the detector whose weights these are; empty for a classifier.
        classes: Names of the classes.
    """

    spec: ArchSpec
    budget: Budget
    kind: str
    ms: float
    measured_ms: float | None = None
    chooser: str = "tiers"
    figures: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None
    final: bool = True
    tiers: ArchSpec | None = None
    scope: str = "backbone"
    config: str = ""
    classes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the network meets its budget: as measured where that was done, or as priced."""
        if self.measured_ms is None:
            return self.budget.fits(self.ms)
        low, high = MEASURED_RANGE
        return low <= self.measured_ms / self.budget.ms <= high

    @property
    def line(self) -> str:
        """One line for a person."""
        text = f"{self.budget.ms:g} ms: {self.ms:.4f} ms ({self.ms / self.budget.ms:.1%})"
        if self.measured_ms is not None:
            share = self.measured_ms / self.budget.ms
            text += f", measured here {self.measured_ms:.4f} ms ({share:.1%})"
        text += f", {self.budget.input_size} px" if self.config else ""
        text += f", {len(self.spec.blocks)} blocks, by {self.chooser}"
        for name, title in METRICS.items():
            if name in self.figures:
                text += f", {title} {self.figures[name]:.3f}"
        return text + ("" if self.accepted else "; does not meet the budget")

    def build(self) -> nn.Module:
        """Builds the classifier or detector with its weights, in evaluation mode.

        The search is not needed.

        Raises:
            UserError: If the network has no weights.
        """
        if self.weights is None:
            raise UserError(f"{self.spec.name} has no weights: build it by spec.build().")
        if self.config:
            from mmengine.config import Config

            from prunet_det.detection.build import build_detector

            detector = build_detector(Config.fromstring(self.config, ".py"), classes=self.classes)
            detector.load_state_dict(dict(self.weights))
            return detector.eval()
        net = self.spec.build(num_classes=self.weights["classifier.weight"].shape[0])
        net.load_state_dict(dict(self.weights))
        return net.eval()

    def measured(self) -> FoundNetwork:
        """The network with its milliseconds on the device of a measured table, if that is here."""
        if self.kind != "measured":
            return self
        from prunet_det.latency.measure import find_device
        from prunet_det.runtime.subject import Scope, load_subject
        from prunet_det.search.pricing import measured_ms

        device = find_device(self.budget.conditions)
        if device is None:
            return self
        size = self.budget.input_size
        if self.scope == Scope.BACKBONE.value:
            subject = load_subject(self.spec, input_size=size)
        else:
            from prunet_det.search.detectors import detector_subject, find_all

            subject = find_all(detector_subject(self.build(), Scope(self.scope), size))
        try:
            return replace(self, measured_ms=measured_ms(subject, self.budget.conditions, device))
        except InputError as e:
            logger.warning("%s", e)
            return self

    def to_dict(self) -> dict[str, Any]:
        """The record of the network, as JSON values."""
        return {
            "budget_ms": self.budget.ms,
            **({"scope": self.scope} if self.scope != "backbone" else {}),
            "input_size": self.budget.input_size,
            "conditions": {"kind": self.kind, **asdict(self.budget.conditions)},
            "ms": self.ms,
            "measured_ms": self.measured_ms,
            "accepted": self.accepted,
            "chooser": self.chooser,
            "final": self.final,
            "figures": dict(self.figures),
        }

    def save(self, folder: PathLike) -> None:
        """Writes arch.json, tiers.json, weights.safetensors and, last, run.json.

        Of a detector config.py as well, and weights.json with its classes.

        Args:
            folder: Folder of the network; it is made if it is missing.
        """
        folder = Path(folder)
        self.spec.save(folder / ARCH_FILE)
        if self.tiers is not None:
            self.tiers.save(folder / TIERS_FILE)
        if self.weights is not None:
            save_safetensors(dict(self.weights), folder / WEIGHTS_FILE)
        if self.config:
            write_text(folder / CONFIG_FILE, self.config)
            write_json(folder / CARD_FILE, {"config": CONFIG_FILE, "classes": list(self.classes)})
        write_json(folder / RUN_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: PathLike) -> FoundNetwork:
        """Reads what `save` wrote.

        Args:
            folder: Folder of the network.

        Raises:
            MissingFileError: If a file is missing.
            InputError, CheckpointError: If a file is damaged.
        """
        folder = Path(folder)
        path = folder / RUN_FILE
        run = read_json(path, _RUN)
        spec = ArchSpec.load(folder / ARCH_FILE)
        file = folder / WEIGHTS_FILE
        weights = read_state_dict(file) if file.is_file() else None
        tiers, config = folder / TIERS_FILE, folder / CONFIG_FILE
        classes = read_json(folder / CARD_FILE, "card")["classes"] if config.is_file() else ()
        with reading(path, _RUN):
            conditions = dict(run["conditions"])
            kind = conditions.pop("kind")
            budget = Budget(
                ms=run["budget_ms"],
                conditions=Conditions(**conditions),
                input_size=run["input_size"],
            )
            return cls(
                spec=spec,
                budget=budget,
                kind=kind,
                ms=run["ms"],
                measured_ms=run["measured_ms"],
                chooser=run["chooser"],
                figures=run["figures"],
                weights=weights,
                final=run["final"],
                tiers=ArchSpec.load(tiers) if tiers.is_file() else None,
                scope=run.get("scope", "backbone"),
                config=config.read_text(encoding="utf-8") if config.is_file() else "",
                classes=tuple(classes),
            )


def prepared_folder(folder: PathLike, resume: bool) -> Path:
    """Makes the folder of a result.

    Args:
        folder: The folder.
        resume: Whether the search that it holds is to go on.

    Raises:
        UserError: If it holds a search that is not to go on, or a result that cannot.
    """
    folder = make_folder(folder)
    has_state, has_result = ((folder / name).exists() for name in (CHECKPOINT_FILE, RUN_FILE))
    if has_result and not has_state:
        raise UserError(f"{folder} holds a result without a checkpoint; give another --out.")
    if has_state and not resume:
        raise UserError(
            f"{folder} holds a search already; go on with it by --resume, or give another --out."
        )
    if resume and not has_state:
        logger.info("%s holds no checkpoint yet; the search starts afresh.", folder)
    return folder


def network_folder(folder: PathLike, budget_ms: float) -> Path:
    """Returns the folder of one budget's network, such as `OUT/0.5ms`."""
    return Path(folder) / f"{budget_ms:g}ms"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        networks: Network of each budget, by its milliseconds in increasing order.
        run: The record of the search: its command, config, seed, digests, seconds by phase.
        folder: Folder that holds the result.
    """

    networks: Mapping[float, FoundNetwork]
    run: Mapping[str, Any]
    folder: Path

    @property
    def accepted(self) -> bool:
        """Whether all networks meet their budgets."""
        return all(network.accepted for network in self.networks.values())

    @property
    def lines(self) -> list[str]:
        """A line for each network, for a person."""
        return [network.line for network in self.networks.values()]

    def save(self, folder: PathLike | None = None) -> None:
        """Writes run.json, and a folder for each network.

        Args:
            folder: Folder of the result; its own by default.
        """
        folder = Path(folder or self.folder)
        for ms, network in self.networks.items():
            network.save(network_folder(folder, ms))
        self.save_run(folder)

    def save_run(self, folder: PathLike | None = None) -> None:
        """Writes run.json alone, where the networks are saved already; see `save`."""
        run = {**self.run, "budgets_ms": list(self.networks)}
        write_json(Path(folder or self.folder) / RUN_FILE, run)

    @classmethod
    def load(cls, folder: PathLike) -> SearchResult:
        """Reads a result.

        Args:
            folder: Folder of the search.

        Raises:
            MissingFileError: If it holds no result.
            InputError: If a file is damaged.
        """
        folder = Path(folder)
        path = folder / RUN_FILE
        if not path.is_file():
            raise MissingFileError(f"{folder} holds no result of a search: no {RUN_FILE}.")
        run = read_json(path, _RUN)
        with reading(path, _RUN):
            budgets = sorted(float(ms) for ms in run["budgets_ms"])
        networks = {ms: FoundNetwork.load(network_folder(folder, ms)) for ms in budgets}
        return cls(networks=networks, run=run, folder=folder)
