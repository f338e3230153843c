"""The one way to time anything.

What is timed runs in rounds, every task once a round in an order drawn anew, so that clocks that
drift and neighbours that wake up hit all tasks alike. Each task warms up first, by time and count.
The rounds end when all medians are known well enough, or the time is up.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunet_det.utils.env import on_device, readings
from prunet_det.utils.errors import InputError

WARMUP_RUNS = 5
WARMUP_SECONDS = {"cpu": 0.1, "cuda": 0.02}
MIN_ROUNDS = 11
# A sample is as many runs in a row as last this long: a clock's tick and its call must not matter.
SAMPLE_MS = 1.0
# Rounds end when every median's 95 % interval (see `median_ranks`) is within this fraction of it.
# That is asked after MIN_ROUNDS, and again when there are a quarter more: whoever looks at every
# round stops too early, on a streak of luck.
UNCERTAINTY = 0.01
_LOOK_AGAIN = 1.25
# When a timing is called unstable: our choice.
MAX_SPREAD = 0.10  # between the 10th and the 90th percentile, of the median
MAX_DRIFT = 0.05  # between the medians of the first and the second half
MAX_STALL = 2.0  # the slowest sample, of the median


@dataclass(frozen=True)
class Task:
    """Something to time.

    Attributes:
        run: Does the work once.
        device: Torch device that it runs on.
        host_clock: Whether to time it with the host's clock although it runs on CUDA: for what does
            not run on PyTorch's current stream, or not on the GPU alone.
    """

    run: Callable[[], Any]
    device: str | torch.device = "cpu"
    host_clock: bool = False

    def sample(self, runs: int) -> float:
        """Returns milliseconds of one run, the mean over `runs` in a row."""
        if torch.device(self.device).type == "cpu":
            return _host(self.run, runs)
        with on_device(self.device):
            return self._sample_on_cuda(runs)

    def _sample_on_cuda(self, runs: int) -> float:
        torch.cuda.synchronize(self.device)
        if self.host_clock:
            return _host(self.run, runs, self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(runs):
            self.run()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / runs


def _host(run: Callable[[], Any], runs: int, device: str | torch.device | None = None) -> float:
    start = time.perf_counter_ns()
    for _ in range(runs):
        run()
    if device is not None:
        torch.cuda.synchronize(device)
    return (time.perf_counter_ns() - start) / 1e6 / runs


@dataclass(frozen=True)
class Timing:
    """Samples of a task, in the order of the rounds, and what they say.

    Attributes:
        samples_ms: Milliseconds of one run, a sample for each round.
        runs_a_sample: Number of runs in a row that a sample is the mean of.
        peak_memory_mb: Largest memory in MiB while the task warmed up: what PyTorch allocated on
            CUDA, the process's resident size on a CPU; None where it cannot be read.
        before: Clock, temperature and power before the first round, read while the tasks run; see
            `utils.env.readings`.
        after: The same after the last round.
    """

    samples_ms: tuple[float, ...]
    _: KW_ONLY
    runs_a_sample: int = 1
    peak_memory_mb: float | None = None
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)

    def percentile(self, q: float) -> float:
        """Returns the q-th percentile of the samples, in milliseconds; q is 0..100."""
        return float(np.percentile(self.samples_ms, q))

    @property
    def median_ms(self) -> float:
        """The middle sample: the latency."""
        return statistics.median(self.samples_ms)

    @property
    def uncertainty(self) -> float:
        """How far the ends of the median's 95 % interval lie from it, as a fraction of it."""
        return _uncertainty(self.samples_ms)

    @property
    def spread(self) -> float:
        """Distance from the 10th to the 90th percentile, as a fraction of the median."""
        return (self.percentile(90) - self.percentile(10)) / self.median_ms

    @property
    def unstable(self) -> str:
        """Why the figure is not to be trusted; empty where it is."""
        half = len(self.samples_ms) // 2
        halves = [statistics.median(s) for s in (self.samples_ms[:half], self.samples_ms[half:])]
        drift = halves[1] / halves[0] - 1
        stall = max(self.samples_ms) / self.median_ms
        reasons = []
        if self.spread > MAX_SPREAD:
            reasons.append(f"spread {self.spread:.0%}")
        if abs(drift) > MAX_DRIFT:
            reasons.append(f"drift {drift:+.0%}")
        if stall > MAX_STALL:
            reasons.append(f"a run took {stall:.1f} times the median")
        return ", ".join(reasons)

    def to_dict(self) -> dict[str, Any]:
        """Figures for a record, without the samples."""
        return {
            "median_ms": self.median_ms,
            **{f"p{q}_ms": self.percentile(q) for q in (10, 90, 99)},
            "spread": self.spread,
            "unstable": self.unstable,
            "uncertainty": self.uncertainty,
            "rounds": len(self.samples_ms),
            "runs_a_sample": self.runs_a_sample,
            "peak_memory_mb": self.peak_memory_mb,
            "before": dict(self.before),
            "after": dict(self.after),
        }


def median_ranks(count: int) -> tuple[int, int]:
    """Returns the ranks of two samples that enclose the true median 95 times in 100.

    Whatever the distribution, the number of independent samples below its median is binomial. (An
    interval by order statistics; of neighbouring samples on a busy machine it is too narrow.)

    Args:
        count: Number of samples.

    Returns:
        Ranks from 0 in the sorted samples; the first and the last of fewer than six.
    """
    below, low = 1, 0  # of 2**count equally likely outcomes, those with `low` or fewer below
    while 40 * (below + math.comb(count, low + 1)) <= 2**count:
        low += 1
        below += math.comb(count, low)
    # `low` samples or fewer lie below the median in at most one case of 40, and so above.
    return low, count - 1 - low


def _uncertainty(samples: Sequence[float]) -> float:
    """Returns how far the ends of the median's 95 % interval lie from it, as a fraction of it."""
    ordered = sorted(samples)
    low, high = median_ranks(len(ordered))
    median = statistics.median(ordered)
    return max(ordered[high] - median, median - ordered[low]) / max(median, 1e-9)


def time_interleaved(
    tasks: Mapping[str, Task] | Sequence[Task],
    seconds: float = 2.0,
    *,
    warmup_seconds: float | None = None,
    uncertainty: float = UNCERTAINTY,
    sensors: bool = True,
    progress: str = "",
) -> list[Timing]:
    """Times tasks against each other.

    Args:
        tasks: What to time; names are for the reader.
        seconds: Largest time to spend on each task after its warm-up, roughly; MIN_ROUNDS are run
            however long they take.
        warmup_seconds: Shortest warm-up of a task, which has WARMUP_RUNS runs at least; by default
            WARMUP_SECONDS of its device.
        uncertainty: Fraction of each median within which its 95 % interval must lie for the rounds
            to end before the time is up; 0 for all the time.
        sensors: Whether to read clock, temperature and power before and after.
        progress: Label of a progress bar with the time left; none where empty.

    Returns:
        A timing for each task, in their order.

    Raises:
        InputError: If there are no tasks, or numbers are impossible.
    """
    listed = list(tasks.values()) if isinstance(tasks, Mapping) else list(tasks)
    too_short = warmup_seconds is not None and warmup_seconds < 0
    if not listed or seconds <= 0 or too_short:
        raise InputError(
            "timing needs at least one task, seconds > 0, and a warm-up of no less than 0 s."
        )
    collecting = gc.isenabled()
    gc.collect(1)  # the oldest generation takes longer than the timing of a table's block
    gc.disable()
    try:
        warm = [_warm_up(task, warmup_seconds) for task in listed]
        runs = [max(1, math.ceil(SAMPLE_MS / ms)) for ms, _ in warm]
        round_seconds = sum(n * ms for n, (ms, _) in zip(runs, warm, strict=True)) / 1e3
        rounds = max(MIN_ROUNDS, math.ceil(seconds * len(listed) / round_seconds))
        before = _readings_at_work(listed, runs) if sensors else {}
        samples = _rounds(listed, runs, rounds, uncertainty, progress)
        after = _readings_at_work(listed, runs) if sensors else {}
    finally:
        if collecting:
            gc.enable()
    return [
        Timing(tuple(own), runs_a_sample=n, peak_memory_mb=memory, before=before, after=after)
        for own, n, (_, memory) in zip(samples, runs, warm, strict=True)
    ]


def _rounds(
    tasks: Sequence[Task],
    runs: Sequence[int],
    most: int,
    uncertainty: float,
    progress: str,
) -> list[list[float]]:
    """Samples of each task, from MIN_ROUNDS to `most` rounds."""
    from tqdm import tqdm

    look = MIN_ROUNDS
    samples: list[list[float]] = [[] for _ in tasks]
    order, shuffle = list(range(len(tasks))), random.Random(0).shuffle
    for done in tqdm(range(1, most + 1), progress, disable=not progress, unit="round", leave=False):
        shuffle(order)
        for i in order:
            samples[i].append(tasks[i].sample(runs[i]))
        if done >= look:
            if all(_uncertainty(own) < uncertainty for own in samples):
                break
            look = math.ceil(_LOOK_AGAIN * done)
    return samples


def _readings_at_work(tasks: Sequence[Task], runs: Sequence[int]) -> dict[str, float]:
    """Reads the sensors while the tasks run in turn: an idle device's clock says nothing."""
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(readings, tasks[0].device)
        for task, count in itertools.cycle(list(zip(tasks, runs, strict=True))):
            task.sample(count)
            if told.done():
                return told.result()
    raise AssertionError("a cycle has no end")


def _warm_up(task: Task, seconds: float | None) -> tuple[float, float | None]:
    """Runs until it is warm; milliseconds a run at the end, and the peak of memory."""
    kind = torch.device(task.device).type
    cuda = kind == "cuda"
    seconds = WARMUP_SECONDS[kind] if seconds is None else seconds
    if cuda:
        torch.cuda.reset_peak_memory_stats(task.device)
    else:
        _reset_peak()
    took: list[float] = []
    while len(took) < WARMUP_RUNS or sum(took) < seconds * 1e3:
        took.append(task.sample(1))
    memory = torch.cuda.max_memory_allocated(task.device) / 2**20 if cuda else _peak_mb()
    return max(statistics.median(took[-WARMUP_RUNS:]), 1e-6), memory


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_mb() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM")), None)
