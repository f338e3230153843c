"""The stopwatch against a clock that tells known times: how often, in which order, what is said."""

from __future__ import annotations

import contextlib
import itertools
import math
import time

import pytest
import torch

from prunet_det.latency import stopwatch
from prunet_det.latency.stopwatch import (
    MIN_ROUNDS,
    WARMUP_RUNS,
    Task,
    Timing,
    median_ranks,
    time_interleaved,
)


class Told(Task):
    """A task whose work says itself how many milliseconds it took."""

    def sample(self, runs):
        return sum(self.run() for _ in range(runs)) / runs


def told(*milliseconds):
    """A task that takes these, one run after the other, and then the last for ever."""
    times = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))
    return Told(lambda: next(times))


def test_a_sample_is_timed_by_the_clock():
    calls = []
    task = Task(lambda: calls.append(time.sleep(0.002)))
    assert task.sample(3) >= 2.0  # milliseconds a run; a sleep takes no less
    assert len(calls) == 3


def test_short_work_is_timed_many_times_a_sample():
    (timing,) = time_interleaved([told(0.1)], seconds=0.1, warmup_seconds=0.01, uncertainty=0)
    assert timing.runs_a_sample == 10  # a sample lasts a millisecond or more
    assert timing.median_ms == pytest.approx(0.1) and len(timing.samples_ms) == 100


def test_rounds_end_when_every_median_is_known():
    def noisy(spread):
        """Runs of 2 ms and a spread, each way once in two."""
        return itertools.cycle([2.0 - spread, 2.0 + spread])

    def timed(*spreads, **kwargs):
        clocks = [noisy(s) for s in spreads]
        tasks = [Told(lambda c=c: next(c)) for c in clocks]
        found = time_interleaved(tasks, warmup_seconds=0, sensors=False, **kwargs)
        return {len(t.samples_ms) for t in found}, [t.uncertainty for t in found]

    assert timed(0.0, 0.004) == ({MIN_ROUNDS}, [0, pytest.approx(0.004, rel=0.01)])
    (rounds,), uncertainty = timed(0.0, 0.05)  # one task keeps the other waiting
    assert rounds > 900 and uncertainty == [0, pytest.approx(0.025, rel=1)]
    assert timed(0.0, 0.05, uncertainty=0.06)[0] == {MIN_ROUNDS}


@pytest.mark.parametrize("count", [6, 11, 12, 100, 999])
def test_the_interval_of_a_median_holds_it_19_times_in_20(count):
    """Against the binomial distribution of the number of samples below the median."""
    low, high = median_ranks(count)
    inside = sum(math.comb(count, below) for below in range(low + 1, high + 1)) / 2**count
    narrower = sum(math.comb(count, below) for below in range(low + 2, high)) / 2**count
    assert narrower < 0.95 <= inside and low + high == count - 1


def test_sensors_are_read_while_the_tasks_run(monkeypatch):
    """The reading takes until three samples have been run: an idle device could not end it."""
    runs, reading = [], []

    def slow(device):
        reading.append(len(runs))
        while len(runs) < reading[-1] + 3:
            time.sleep(0.001)
        return {"clock_mhz": 1980.0}

    monkeypatch.setattr(stopwatch, "readings", slow)
    task = Told(lambda: runs.append(0) or time.sleep(0.001) or 2.0)
    (timing,) = time_interleaved([task], seconds=0.01, warmup_seconds=0)
    assert timing.before == timing.after == {"clock_mhz": 1980.0} and len(reading) == 2
    assert len(timing.samples_ms) == MIN_ROUNDS < len(runs) - WARMUP_RUNS - 4
    (timing,) = time_interleaved([task], seconds=0.01, warmup_seconds=0, sensors=False)
    assert timing.before == {} and len(reading) == 2


def test_long_work_is_timed_in_the_least_number_of_rounds():
    (timing,) = time_interleaved([told(40.0)], seconds=0.1)
    assert (timing.median_ms, timing.runs_a_sample) == (40.0, 1)
    assert len(timing.samples_ms) == MIN_ROUNDS


def test_a_warm_up_lasts_as_long_as_it_is_told():
    """Ten runs of 2 ms, and what they took is in no sample."""
    task = told(*[2.0] * 10, 3.0)
    (timing,) = time_interleaved([task], seconds=0.03, warmup_seconds=0.02)
    assert set(timing.samples_ms) == {3.0}


def test_a_machine_that_slows_down_slows_all_tasks_alike():
    clock = itertools.count()
    tasks = [Told(lambda ms=ms: ms * (1 + next(clock) / 400)) for ms in (1.0, 2.0)]
    one, two = time_interleaved(tasks, 0.5, warmup_seconds=0, uncertainty=0, sensors=False)
    assert two.median_ms == pytest.approx(2 * one.median_ms, rel=0.02)
    assert "drift" in one.unstable and "drift" in two.unstable


def test_tasks_are_interleaved_and_warm():
    calls = []
    tasks = [Told(lambda i=i: calls.append(i) or 2.0) for i in range(3)]
    timings = time_interleaved(tasks, 0.02, warmup_seconds=0.0, sensors=False)
    warm, timed = calls[: 3 * WARMUP_RUNS], calls[3 * WARMUP_RUNS :]
    assert warm == [0] * WARMUP_RUNS + [1] * WARMUP_RUNS + [2] * WARMUP_RUNS
    rounds = [timed[i : i + 3] for i in range(0, len(timed), 3)]
    assert all(sorted(r) == [0, 1, 2] for r in rounds) and len({tuple(r) for r in rounds}) > 1
    assert [len(t.samples_ms) for t in timings] == [len(rounds)] * 3


def test_a_stall_is_flagged():
    task = told(*[10.0] * (WARMUP_RUNS + 10), 100.0, 10.0)
    (timing,) = time_interleaved([task], 0.3, warmup_seconds=0, uncertainty=0, sensors=False)
    assert "a run took 10.0 times the median" in timing.unstable
    assert timing.median_ms == 10  # which the median does not feel


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
def test_a_spin_kernel_takes_longer_for_ten_times_the_cycles(host_clock):
    """Cycles are what the kernel counts; the factor leaves room for clocks that change."""
    cycles = 2_000_000
    tasks = [
        Task(lambda n=n: torch.cuda._sleep(n), "cuda", host_clock) for n in (cycles, 10 * cycles)
    ]
    one, ten = time_interleaved(tasks, seconds=0.2)
    assert 3 < ten.median_ms / one.median_ms < 30


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"warmup_seconds": -1}])
def test_impossible_numbers(wrong):
    with pytest.raises(ValueError, match="timing needs at least one task"):
        time_interleaved([told(1.0)], **wrong)
    with pytest.raises(ValueError, match="timing needs at least one task"):
        time_interleaved([])


def test_a_gpu_is_the_current_one_while_its_work_is_timed(monkeypatch):
    """Events are recorded on the current device's stream, and the work is on the task's."""
    current = []

    @contextlib.contextmanager
    def device(chosen):
        current.append(chosen)
        yield
        current.pop()

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            assert current == ["cuda:1"]

        def elapsed_time(self, end):
            return 6.0

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    assert Task(lambda: None, "cuda:1").sample(3) == 2.0 and not current
