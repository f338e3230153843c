"""Ratios, intervals and verdicts, worked out again by other means."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest

from prunet_det.benchmark import fronts
from prunet_det.benchmark.analysis import hypervolume
from prunet_det.benchmark.fronts import Axis, FrontPoint, axes, points
from prunet_det.benchmark.judge import estimate_ratio, judge
from prunet_det.benchmark.suite import Candidate
from prunet_det.latency.record import Conditions, Latency
from prunet_det.runtime.subject import Scope
from prunet_det.utils.errors import UserError
from tests.benchmark.planted import CONDITIONS, Timed, runs, suite

MODELS = {"prunet": "prunet_demo", "gpunet": "gpunet_0", "efficientnet": "efficientnet_b0"}
SHIFTS = (-0.01, 0.0, 0.01)


def family(name, front, shifts=SHIFTS, **more):
    """Runs of a family whose points, (mAP, ms), are at three input sizes."""
    return [
        run
        for i, (value, ms) in enumerate(front)
        for run in runs(
            Candidate(MODELS[name], name, 128 + 64 * i), [value + s for s in shifts], ms, **more
        )
    ]


def verdict(records, scope="detector", kind="measured"):
    (axis,) = (a for a in axes(records) if (a.scope, a.kind) == (scope, kind))
    (comparison,) = judge(records, only=[axis])
    return comparison


FRONT = [(0.30, 10.0), (0.42, 20.0), (0.50, 40.0)]


def times(factor, front=FRONT):
    return [(value, factor * ms) for value, ms in front]


def test_a_known_front_gives_the_known_answer():
    # Everywhere half: no mean over the range can come out otherwise.
    found = verdict(family("prunet", FRONT) + family("gpunet", times(2.0)))
    assert found.estimate.value == pytest.approx(0.5)
    # A straight line in the logarithm against a constant one: sqrt(1 * 4) / 4.
    found = estimate_ratio([(0.2, 1.0), (0.6, 4.0)], [(0.2, 4.0), (0.6, 4.0 * (1 + 1e-12))])
    assert found.value == pytest.approx(0.5)
    assert (found.least, found.most) == pytest.approx((0.25, 1.0))


def by_loops(front, value):
    """Latency of a front at an mAP, by the two points around it."""
    for (a, t), (b, u) in pairwise(front):
        if a <= value <= b:
            share = (value - a) / (b - a)
            return t ** (1 - share) * u**share
    return None


def front_by_loops(candidates):
    """Points, (mAP, ms), that no other one beats."""
    return sorted(
        (v, t)
        for v, t in candidates
        if not any((w > v and u <= t) or (w >= v and u < t) for w, u in candidates)
    )


def ratio_by_loops(ours, theirs, steps):
    """The geometric mean as a sum over the middles of many steps."""
    a, b = front_by_loops(ours), front_by_loops(theirs)
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    middles = [low + (high - low) * (i + 0.5) / steps for i in range(steps)]
    return math.exp(statistics.mean(math.log(by_loops(a, m) / by_loops(b, m)) for m in middles))


def test_ratio_and_interval_recomputed_by_other_means():
    records = suite(5)
    found = {c.other: c for c in judge(records) if c.axis.scope == "e2e"}
    grouped: dict = {}
    for r in records:
        (row,) = (x for x in r.latencies if x.scope == "e2e")
        key = (r.family, r.input_size)
        grouped.setdefault(key, ([], row.ms))[0].append(r.metrics["mAP"])
    draw = random.Random(1)
    for other in ("gpunet", "efficientnet"):
        sides = [[v for (f, _), v in grouped.items() if f == name] for name in ("prunet", other)]
        means = [[(statistics.mean(values), ms) for values, ms in side] for side in sides]
        assert found[other].estimate.value == pytest.approx(
            ratio_by_loops(*means, 20_000), rel=1e-4
        )
        resampled = []
        for _ in range(1000):
            drawn = [
                [(statistics.mean(draw.choices(v, k=len(v))), ms) for v, ms in side]
                for side in sides
            ]
            resampled.append(ratio_by_loops(*drawn, 40))
        resampled.sort()
        low, high = resampled[25], resampled[974]
        assert found[other].interval == pytest.approx((low, high), abs=0.09 * (high - low))
        assert found[other].verdict == "faster"


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.5, "faster"), (1 / 1.5, "slower"), (1.02, "tie")]
)
def test_verdicts(factor, expected):
    found = verdict(family("prunet", FRONT) + family("gpunet", times(factor)))
    assert found.verdict == expected
    assert found.interval[0] < found.estimate.value < found.interval[1]
    assert ("a tie" in found.sentence()) == (expected == "tie")


@pytest.mark.parametrize(
    ("factor", "state"), [(1.5, "is met"), (1.1, "is missed"), (1.25, "may be met or missed")]
)
def test_the_aim_is_of_gpus_and_held_to_the_interval(factor, state):
    h100 = Conditions(device="NVIDIA H100", runtime="cuda_graph", precision="fp16")
    gpu = dict(timed=Timed(where=h100))
    found = verdict(family("prunet", FRONT, **gpu) + family("gpunet", times(factor), **gpu))
    assert found.sentence().endswith(f"; the aim of 0.8 {state}.")
    here = verdict(family("prunet", FRONT) + family("gpunet", times(factor)))
    assert "aim" not in here.sentence()


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_establish_nothing(seeds):
    records = family("prunet", FRONT) + family("gpunet", times(9.0), SHIFTS[:seeds])
    found = verdict(records)
    assert (found.verdict, found.interval) == ("not established", None)
    assert found.estimate.value < 0.2  # still shown
    assert f"not established ({seeds} seed" in found.sentence()


def test_one_point_with_too_few_seeds_is_enough_to_establish_nothing():
    records = family("prunet", FRONT) + family("gpunet", times(2.0))
    assert verdict(records).verdict == "faster"
    assert verdict(records[:-1]).verdict == "not established"


@pytest.mark.parametrize("theirs", [[(0.55, 5.0), (0.6, 9.0)], [(0.4, 9.0)], []])
def test_fronts_without_a_common_range_are_refused(theirs):
    records = family("prunet", FRONT) + family("gpunet", theirs)
    if not theirs:  # trained, but with no latency
        records += family("gpunet", FRONT, latencies=[])
    found = verdict(records)
    assert (found.verdict, found.estimate, found.interval) == ("refused", None, None)
    assert "refused" in found.sentence()


def test_nothing_is_extrapolated():
    near = family("prunet", FRONT) + family("gpunet", times(2.0, FRONT[:2]))
    far = family("prunet", [*FRONT[:2], (0.90, 1000.0)]) + family("gpunet", times(2.0, FRONT[:2]))
    assert verdict(near).estimate.high == pytest.approx(0.42)
    assert verdict(far).estimate == verdict(near).estimate


def test_seeds_that_move_fronts_apart_leave_no_interval():
    ours, theirs = [(0.30, 10.0), (0.40, 20.0)], [(0.39, 10.0), (0.50, 20.0)]
    found = verdict(
        family("prunet", ours, (-0.03, 0.0, 0.03)) + family("gpunet", theirs, (-0.03, 0.0, 0.03))
    )
    assert (found.verdict, found.interval) == ("not established", None)
    assert "share no range" in found.reason


def test_a_predicted_difference_within_the_error_band_establishes_nothing():
    wide = Timed(spread=0.2)
    records = family("prunet", FRONT, timed=wide) + family("gpunet", times(1.2), timed=wide)
    assert verdict(records).verdict == "faster"  # as measured, whose spread is another thing
    assert verdict(records, "backbone", "predicted").verdict == "not established"


def test_records_of_other_data_or_revision_are_refused():
    for key, other in {"data_hash": "x", "training_revision": 2, "config_hash": "x"}.items():
        records = family("prunet", FRONT) + family("gpunet", FRONT, **{key: other})
        with pytest.raises(UserError, match=f"(?i){key}"):
            judge(records)


def point(value, ms):
    latency = Latency(
        model="m",
        input_size=128,
        scope=Scope.DETECTOR,
        conditions=CONDITIONS,
        ms=ms,
        low=ms,
        high=ms,
        kind="measured",
    )
    return FrontPoint(
        model="m",
        family="prunet",
        input_size=128,
        seeds=(0,),
        values=(value,),
        latency=latency,
    )


def test_front_and_hypervolume_by_hand():
    every = [point(0.2, 1.0), point(0.4, 3.0), point(0.35, 4.0), point(0.4, 5.0), point(0.5, 10.0)]
    front = fronts.pareto(every[::-1])
    assert front == [every[0], every[1], every[4]]
    assert fronts.reference_ms(every) == pytest.approx(11.0)
    ms, means = [p.latency.ms for p in front], [p.mean for p in front]
    assert hypervolume(ms, means, 11.0) == pytest.approx((0.2 * 2 + 0.4 * 7 + 0.5 * 1) / 11)


def test_points_hold_their_own_axis_only():
    records = suite(2)
    found = axes(records)
    assert [a.scope for a in found] == ["e2e", "detector", "backbone", "backbone"]
    assert found[0] == Axis(kind="measured", conditions=CONDITIONS, scope=Scope.E2E)
    first = points(records, found[0])[0]
    assert (first.latency.ms, first.seeds) == (pytest.approx(9.0 * 1.3), (0, 1))
    assert points(records, found[3])[0].latency.ms == pytest.approx(9.0 / 20)
    assert points(records, found[0], "APl") == []  # a figure that no run has
