"""The stopwatch against truth, against itself, and against a machine that hiccups."""

from __future__ import annotations

import time

import pytest
import torch

from prunet_det.latency.stopwatch import (
    LEAST_ROUNDS,
    WARMUP_RUNS,
    Task,
    Timing,
    time_interleaved,
)


def spin(milliseconds):
    """Work of a known duration."""

    def run():
        end = time.perf_counter_ns() + int(milliseconds * 1e6)
        while time.perf_counter_ns() < end:
            pass

    return run


def test_a_sleep_is_timed_within_2_percent():
    task = Task(lambda: time.sleep(0.04))
    (timing,) = time_interleaved([task], seconds=0.1, warmup_seconds=0.1)
    assert timing.median_ms == pytest.approx(40, rel=0.02)
    assert timing.runs_a_sample == 1 and len(timing.samples_ms) == LEAST_ROUNDS


def test_short_work_is_timed_many_times_a_sample():
    (timing,) = time_interleaved([Task(spin(0.1))], seconds=0.1, warmup_seconds=0.02)
    assert timing.runs_a_sample >= 8  # a sample lasts a millisecond or more
    assert timing.median_ms == pytest.approx(0.1, rel=0.1)


def test_the_same_work_twice_differs_by_less_than_its_spread():
    a = torch.randn(256, 256)
    tasks = {name: Task(lambda: a @ a) for name in ("one", "other")}
    one, other = time_interleaved(tasks, seconds=0.3, least_rounds=60)
    spread = max(t.percentile(90) - t.percentile(10) for t in (one, other))
    assert abs(one.median_ms - other.median_ms) < spread


def test_tasks_are_interleaved_and_warm():
    calls = []
    tasks = [Task(lambda i=i: calls.append(i) or spin(2)()) for i in range(3)]
    timings = time_interleaved(tasks, seconds=0.02, least_rounds=5, warmup_seconds=0.0)
    warm, timed = calls[: 3 * WARMUP_RUNS], calls[3 * WARMUP_RUNS :]
    assert warm == [0] * WARMUP_RUNS + [1] * WARMUP_RUNS + [2] * WARMUP_RUNS
    rounds = [timed[i : i + 3] for i in range(0, len(timed), 3)]
    assert all(sorted(r) == [0, 1, 2] for r in rounds) and len({tuple(r) for r in rounds}) > 1
    assert [len(t.samples_ms) for t in timings] == [len(rounds)] * 3


def test_a_stall_is_flagged():
    state = {"runs": 0}

    def run():
        state["runs"] += 1
        time.sleep(0.1 if state["runs"] == WARMUP_RUNS + 10 else 0.01)

    (timing,) = time_interleaved([Task(run)], seconds=0.1, least_rounds=30, warmup_seconds=0)
    assert "times the median" in timing.unstable
    assert timing.median_ms == pytest.approx(10, rel=0.1)  # which the median does not feel


def test_drift_and_spread_are_flagged():
    assert Timing(tuple([1.0] * 20)).unstable == ""
    assert Timing(tuple([1.0] * 10 + [1.08] * 10)).unstable == "drift +8%"
    assert "spread 14%" in Timing(tuple([1.0, 1.15] * 10)).unstable


def test_figures_of_a_record():
    record = Timing(tuple(float(v) for v in range(1, 102)), peak_memory_mb=3.0).to_dict()
    assert (record["median_ms"], record["p10_ms"], record["p90_ms"]) == (51, 11, 91)
    assert record["p99_ms"] == 100 and record["rounds"] == 101 and record["peak_memory_mb"] == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("host_clock", [False, True])
def test_a_spin_kernel_takes_twice_as_long_for_twice_the_cycles(host_clock):
    cycles = 20_000_000
    tasks = [
        Task(lambda n=n: torch.cuda._sleep(n), "cuda", host_clock) for n in (cycles, 2 * cycles)
    ]
    one, two = time_interleaved(tasks, seconds=0.5)
    assert two.median_ms == pytest.approx(2 * one.median_ms, rel=0.02)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"least_rounds": 1}, {"warmup_seconds": -1}])
def test_impossible_numbers(wrong):
    with pytest.raises(ValueError, match="timing needs at least one task"):
        time_interleaved([Task(spin(1))], **wrong)
    with pytest.raises(ValueError, match="timing needs at least one task"):
        time_interleaved([])
