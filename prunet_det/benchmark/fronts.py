"""Records as points of accuracy against latency, and the best of them: the fronts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prunet_det.benchmark.analysis import front_of
from prunet_det.benchmark.records import Record
from prunet_det.latency.record import KINDS, Conditions, Latency
from prunet_det.runtime.subject import Scope
from prunet_det.utils.errors import UserError
from prunet_det.utils.plots import DARK, PALETTE

SCOPES = (Scope.E2E, Scope.DETECTOR, Scope.BACKBONE)  # of a detector: what a user pays first
# A front's area is bounded by mAP 0 and by this many times the slowest point's latency, so that
# the slowest point counts too.
REFERENCE_MARGIN = 1.1
_FIGURES = ("ms", "low", "high")


class Family(NamedTuple):
    """How a family is called and drawn: with matplotlib's marker and line."""

    title: str
    colour: str
    marker: str
    dash: str


STYLES = {
    "prunet": Family("PruNet", PALETTE["blue"], "o", "-"),
    "gpunet": Family("GPUNet", PALETTE["vermilion"], "s", "--"),
    "efficientnet": Family("EfficientNet", PALETTE["green"], "^", ":"),
    "searched": Family("searched", PALETTE["pink"], "P", "-."),
}
# Families of published figures; suites have none of the last.
PUBLISHED_STYLES = {**STYLES, "other": Family("others (timm)", DARK, "D", "-.")}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What latencies must share to stand on one axis.

    Attributes:
        kind: `measured`, `predicted` or `published`.
        conditions: What they hold for.
        scope: What part of the detector is timed, one of SCOPES.
    """

    kind: str
    conditions: Conditions
    scope: Scope

    @classmethod
    def of(cls, latency: Latency) -> Axis:
        """The axis that a latency stands on.

        Raises:
            UserError: If its scope is no detector's.
        """
        if latency.scope not in SCOPES:
            raise UserError(
                f"a latency has the scope {latency.scope}; a benchmark has "
                f"{', '.join(map(str, SCOPES))}."
            )
        return cls(kind=latency.kind, conditions=latency.conditions, scope=latency.scope)

    @property
    def title(self) -> str:
        """All of it in words."""
        return f"{self.name}: {self.conditions}"

    @property
    def name(self) -> str:
        """Kind and scope in words."""
        return f"{self.kind}, {self.scope.label}"

    @property
    def on_gpu(self) -> bool:
        """Whether the runtime is one of GPUs'."""
        return self.conditions.runtime in ("cuda_graph", "tensorrt")

    def order(self) -> tuple[Any, ...]:
        """Sorts what a user pays first: measured before predicted, end to end before its parts."""
        scope = SCOPES.index(self.scope)
        return (KINDS.index(self.kind), not self.on_gpu, str(self.conditions), scope)


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A network at an input size: its accuracy over seeds, and its latency on one axis.

    Attributes:
        model, family, input_size: Which network.
        seeds: In order.
        values: The metric of each seed, 0 to 1.
        latency: Its latency: medians over the seeds' records, which share one measurement.
    """

    model: str
    family: str
    input_size: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    latency: Latency

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)


def counted(noun: str, least: int, most: int | None = None) -> str:
    """A number, or a range of numbers, with its noun."""
    most = least if most is None else most
    numbers = str(least) if least == most else f"{least} to {most}"
    return f"{numbers} {noun}{'s' * (most != 1)}"


def axes(records: Sequence[Record]) -> list[Axis]:
    """Every axis that some record has a latency on, in the order of `Axis.order`."""
    found = {Axis.of(row) for r in records for row in r.latencies}
    return sorted(found, key=Axis.order)


def points(records: Sequence[Record], axis: Axis, metric: str = "mAP") -> list[FrontPoint]:
    """The points of an axis, families together and fast ones first.

    A record without this metric (a data set may have no large objects) or without a latency on
    this axis gives none.
    """
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for r in records:
        if r.metrics.get(metric) is not None and _rows(r, axis):
            groups[r.model, r.input_size].append(r)
    found = []
    for (model, size), group in groups.items():
        group.sort(key=lambda r: r.seed)
        rows = [row for r in group for row in _rows(r, axis)]
        middle = {k: statistics.median(getattr(row, k) for row in rows) for k in _FIGURES}
        found.append(
            FrontPoint(
                model=model,
                family=group[0].family,
                input_size=size,
                seeds=tuple(r.seed for r in group),
                values=tuple(r.metrics[metric] for r in group),  # type: ignore[misc]
                latency=replace(rows[0], **middle),
            )
        )
    return sorted(found, key=lambda p: (list(STYLES).index(p.family), p.latency.ms, p.model))


def _rows(record: Record, axis: Axis) -> list[Latency]:
    return [row for row in record.latencies if Axis.of(row) == axis]


def pareto(every: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Those that no other one beats or equals in both: latency and the metric's mean both rise."""
    return [every[i] for i in front_of([p.latency.ms for p in every], [p.mean for p in every])]


def family_fronts(every: Sequence[FrontPoint]) -> dict[str, list[FrontPoint]]:
    """The front of each family that has points, in the order of the styles."""
    own = {family: [p for p in every if p.family == family] for family in PUBLISHED_STYLES}
    return {family: pareto(found) for family, found in own.items() if found}


def reference_ms(every: Sequence[FrontPoint]) -> float:
    """The hypervolume's reference latency, of the points of all families together."""
    return REFERENCE_MARGIN * max(p.latency.ms for p in every)
