"""Records as points of accuracy against latency, and the best of them: the fronts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prunet_det.benchmark.records import Record
from prunet_det.utils.errors import UserError

SCOPES = {"e2e": "end to end", "detector": "detector", "backbone": "backbone"}
# A front's area is bounded by mAP 0 and by this many times the slowest point's latency, so that
# the slowest point counts too.
REFERENCE_MARGIN = 1.1


@dataclass(frozen=True)
class Family:
    """How a family is called and drawn.

    Attributes:
        title: Its name.
        colour: Of Okabe and Ito, told apart by the colour-blind too.
        marker, symbol: matplotlib's and plotly's marker.
        dash, line: matplotlib's and plotly's line.
    """

    title: str
    colour: str
    marker: str
    symbol: str
    dash: str
    line: str


STYLES = {
    "prunet": Family("PruNet", "#0072B2", "o", "circle", "-", "solid"),
    "gpunet": Family("GPUNet", "#D55E00", "s", "square", "--", "dash"),
    "efficientnet": Family("EfficientNet", "#009E73", "^", "triangle-up", ":", "dot"),
}


@dataclass(frozen=True)
class Axis:
    """What latencies must share to stand on one axis.

    Attributes:
        kind: `measured`, `predicted` or `published`.
        device, runtime, precision, batch, threads: As in `prunet_det.latency.record.Latency`.
        scope: One of SCOPES.
    """

    kind: str
    device: str
    runtime: str
    precision: str
    batch: int
    threads: int
    scope: str

    @classmethod
    def of(cls, latency: Mapping[str, Any]) -> Axis:
        """The axis of a row of `Record.latencies`.

        Raises:
            UserError: The row lacks a key, or its scope is no detector's.
        """
        try:
            axis = cls(*(latency.get(k, 0) if k == "threads" else latency[k] for k in _KEYS))
        except KeyError as e:
            raise UserError(f"a latency of a record lacks {e}; run that job again.") from e
        if axis.scope not in SCOPES:
            raise UserError(
                f"a latency has the scope {axis.scope!r}; a benchmark has {', '.join(SCOPES)}."
            )
        return axis

    @property
    def conditions(self) -> str:
        """Everything but kind and scope, in words."""
        threads = f", {counted('thread', self.threads)}" if self.threads else ""
        return f"{self.device}, {self.runtime} {self.precision}, batch {self.batch}{threads}"

    @property
    def title(self) -> str:
        """All of it in words."""
        return f"{self.name}: {self.conditions}"

    @property
    def name(self) -> str:
        """Kind and scope in words."""
        return f"{self.kind}, {SCOPES[self.scope]}"

    @property
    def on_gpu(self) -> bool:
        """Whether the runtime is one of GPUs'."""
        return self.runtime in ("cuda_graph", "tensorrt")

    def order(self) -> tuple[Any, ...]:
        """Sorts what a user pays first: measured before predicted, end to end before its parts."""
        kinds = ("measured", "predicted", "published")
        scope = list(SCOPES).index(self.scope)
        return (kinds.index(self.kind), not self.on_gpu, self.conditions, scope)


_KEYS = ("kind", "device", "runtime", "precision", "batch", "threads", "scope")


@dataclass(frozen=True)
class Point:
    """A network at an input size: its accuracy over seeds, and its latency on one axis.

    Attributes:
        model, family, input_size: Which network.
        seeds: In order.
        values: The metric of each seed, 0 to 1.
        latency_ms, low_ms, high_ms: Medians over the seeds' records, which share one measurement.
        note: What a reader must know of the latency, such as that it is an extrapolation.
    """

    model: str
    family: str
    input_size: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    latency_ms: float
    low_ms: float
    high_ms: float
    note: str = ""

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
    found = {Axis.of(row) for r in records if r.status == "done" for row in r.latencies}
    return sorted(found, key=Axis.order)


def points(records: Sequence[Record], axis: Axis, metric: str = "mAP") -> list[Point]:
    """The points of an axis, families together and fast ones first.

    A record without this metric (a data set may have no large objects) or without a latency on
    this axis gives none.
    """
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for r in records:
        if r.status == "done" and r.metrics.get(metric) is not None and _rows(r, axis):
            groups[r.model, r.input_size].append(r)
    found = []
    for (model, size), group in groups.items():
        group.sort(key=lambda r: r.seed)
        rows = [row for r in group for row in _rows(r, axis)]
        ms, low, high = (
            statistics.median(row[k] for row in rows) for k in ("latency_ms", "low_ms", "high_ms")
        )
        found.append(
            Point(
                model,
                group[0].family,
                size,
                tuple(r.seed for r in group),
                tuple(r.metrics[metric] for r in group),  # type: ignore[misc]
                ms,
                low,
                high,
                rows[0].get("note", ""),
            )
        )
    return sorted(found, key=lambda p: (list(STYLES).index(p.family), p.latency_ms, p.model))


def _rows(record: Record, axis: Axis) -> list[Mapping[str, Any]]:
    return [row for row in record.latencies if Axis.of(row) == axis]


def pareto(candidates: Sequence[Point]) -> list[Point]:
    """Those that no other one beats or equals in both: latency and the metric's mean both rise."""
    front: list[Point] = []
    for p in sorted(candidates, key=lambda p: (p.latency_ms, -p.mean)):
        if not front or p.mean > front[-1].mean:
            front.append(p)
    return front


def reference_ms(candidates: Sequence[Point]) -> float:
    """The hypervolume's reference latency, of the points of all families together."""
    return REFERENCE_MARGIN * max(p.latency_ms for p in candidates)


def hypervolume(front: Sequence[Point], limit_ms: float) -> float:
    """Area between a front and the reference point (`limit_ms`, mAP 0), of that rectangle.

    It is the best mean mAP that a budget buys, averaged over budgets from 0 to `limit_ms`; a budget
    that buys no network counts as 0.
    """
    ends = [*(p.latency_ms for p in front), limit_ms]
    area = sum(p.mean * (b - a) for p, (a, b) in zip(front, pairwise(ends), strict=True))
    return area / limit_ms
