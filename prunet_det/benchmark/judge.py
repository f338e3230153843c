"""Who needs less latency for the same accuracy, by how much, and how sure that is.

Between neighbouring points of a family's front, the logarithm of the latency is taken as linear in
the accuracy: networks of a family are scaled versions of one another, so one between two of them
can be had, and latencies of networks compare as ratios. Steps instead (the fastest measured network
that reaches an accuracy) would make the ratio depend on where each family's few sizes happen to
lie. Outside of what both fronts cover nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunet_det.benchmark.analysis import (
    LEVEL,
    RESAMPLES,
    NoCommonRangeError,
    RatioEstimate,
    estimate_ratio,
    interval,
    resampled_ratios,
)
from prunet_det.benchmark.fronts import STYLES, Axis, FrontPoint, axes, counted, pareto, points
from prunet_det.benchmark.records import Record, check_shared

OURS = "prunet"
ENOUGH_SEEDS = 3
# Resamples whose fronts share no range have no ratio; with more of them than this, no interval.
MOST_UNDEFINED = 0.05
# What this project aims at, of latencies measured on a GPU: at most so much of the other's.
AIMS = {"gpunet": 0.8, "efficientnet": 0.6}


@dataclass(frozen=True, kw_only=True)
class LatencyRatio:
    """PruNet against another family on one axis, by one metric.

    Attributes:
        axis, metric, other: What is compared.
        verdict: `faster`, `slower` or `tie` (the interval lies below, above or around 1),
            `not established` (a point estimate only) or `refused` (no estimate).
        estimate: PruNet's latency over the other's; None where refused.
        interval: Interval of the ratio, over seeds; None unless established.
        reason: Why it is refused or not established.
    """

    axis: Axis
    metric: str
    other: str
    verdict: str
    estimate: RatioEstimate | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""

    def sentence(self) -> str:
        """What may be said, in one sentence."""
        ours, other = STYLES[OURS].title, STYLES[self.other].title
        if self.estimate is None:
            return f"{ours} against {other}: refused, {self.reason}."
        r = self.estimate
        over = f"over {self.metric} {r.low:.3f} to {r.high:.3f}"
        if self.interval is None:
            return (
                f"{ours} against {other}: not established ({self.reason}); the point estimate is "
                f"{r.value:.2f} of its latency at equal {self.metric}, {over}."
            )
        sure = f"{LEVEL:.0%} interval {self.interval[0]:.2f} to {self.interval[1]:.2f}"
        needs = f"{ours} needs {r.value:.2f} of {other}'s latency at equal {self.metric}"
        tie = "; a tie, as the interval holds 1" if self.verdict == "tie" else ""
        return f"{needs} ({sure}, {over}){tie}{self._aim()}."

    def _aim(self) -> str:
        """Whether the aim is met, where it applies and an interval says so."""
        aim = AIMS.get(self.other)
        if not (aim and self.interval and self.axis.kind == "measured" and self.axis.on_gpu):
            return ""
        met, missed = self.interval[1] <= aim, self.interval[0] > aim
        state = "is met" if met else "is missed" if missed else "may be met or missed"
        return f"; the aim of {aim:g} {state}"


def compare(axis: Axis, metric: str, other: str, found: Sequence[FrontPoint]) -> LatencyRatio:
    """PruNet against another family.

    Args:
        axis, metric: What the points are of.
        other: The other family.
        found: The points of at least these two.
    """
    about: dict[str, Any] = {"axis": axis, "metric": metric, "other": other}
    sides = [[p for p in found if p.family == family] for family in (OURS, other)]
    for family, side in zip((OURS, other), sides, strict=True):
        if not side:
            reason = f"{STYLES[family].title} has no point here"
            return LatencyRatio(**about, verdict="refused", reason=reason)
    seeds = min(len(p.values) for side in sides for p in side)
    try:
        estimate = estimate_ratio(*(_knots(side) for side in sides))
    except NoCommonRangeError as e:
        return LatencyRatio(**about, verdict="refused", reason=str(e))
    reason, bounds = "", None
    if seeds < ENOUGH_SEEDS:
        reason = f"{counted('seed', seeds)} at a point, {ENOUGH_SEEDS} needed"
    else:
        ratios = resampled_ratios(*([(p.values, p.latency.ms) for p in side] for side in sides))
        undefined = 1 - len(ratios) / RESAMPLES
        if undefined > MOST_UNDEFINED:
            reason = f"in {undefined:.0%} of the resamples the fronts share no range"
        else:
            bounds = interval(ratios)
    if bounds and axis.kind == "predicted" and not bounds[0] <= 1 <= bounds[1]:
        # Both predictions of a ratio may be off.
        band = math.prod(max(p.latency.high / p.latency.ms for p in side) for side in sides)
        if bounds[0] / band <= 1 <= bounds[1] * band:
            reason = f"it is within the predictions' error band of {band - 1:.0%}"
            bounds = None
    if bounds is None:
        return LatencyRatio(**about, verdict="not established", estimate=estimate, reason=reason)
    verdict = "faster" if bounds[1] < 1 else "slower" if bounds[0] > 1 else "tie"
    return LatencyRatio(**about, verdict=verdict, estimate=estimate, interval=bounds)


def _knots(side: Sequence[FrontPoint]) -> list[tuple[float, float]]:
    return [(p.mean, p.latency.ms) for p in pareto(side)]


def judge(
    records: Sequence[Record], metrics: Sequence[str] = ("mAP",), only: Sequence[Axis] | None = None
) -> list[LatencyRatio]:
    """PruNet against every other family that is there, on every axis.

    Args:
        records: Records of one suite.
        metrics: By which accuracies.
        only: These axes; all that there are by default.

    Raises:
        UserError: The records are of several recipes, data or codes.
    """
    check_shared(records)
    others = [f for f in STYLES if f != OURS and any(r.family == f for r in records)]
    return [
        compare(axis, metric, other, points(records, axis, metric))
        for axis in (axes(records) if only is None else only)
        for metric in metrics
        for other in others
    ]
