"""Latency of networks on the machine that is here."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunet_det.arch.blocks import Block
from prunet_det.arch.spec import BlockSpec
from prunet_det.latency.kernels import output_size
from prunet_det.latency.record import Latency
from prunet_det.latency.stopwatch import Task, Timing, time_interleaved
from prunet_det.latency.table import Conditions, Entry, Key, Size, Table, TableError
from prunet_det.runtime import make_program
from prunet_det.runtime.program import TOLERANCE, Program, check_outputs
from prunet_det.runtime.pytorch import as_tuple
from prunet_det.runtime.subject import Subject
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import device_title, driver, versions
from prunet_det.utils.errors import InputError


@dataclass(frozen=True)
class Measurement:
    """A measured latency and how it was measured.

    Attributes:
        latency: The record: median, 10th and 90th percentile.
        timing: All samples.
        difference: Of the outputs to eager FP32, of the largest magnitude.
    """

    latency: Latency
    timing: Timing
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """One flat record."""
        latency, timing = self.latency.to_dict(), self.timing.to_dict()
        throughput = 1e3 * self.latency.batch / self.latency.latency_ms
        return {
            **latency,
            **{k: v for k, v in timing.items() if k != "median_ms"},
            "images_per_s": throughput,
            "difference": self.difference,
        }


def local_device() -> str:
    """The torch device that `here` means: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_runtime(device: str) -> tuple[str, str]:
    """Runtime and precision that deployments use on a device."""
    return (
        ("cuda_graph", "fp16") if torch.device(device).type == "cuda" else ("onnxruntime", "fp32")
    )


def count_threads(device: str, threads: int | None) -> int:
    """Threads for the record: of a CPU, all cores by default; 0 on CUDA.

    Raises:
        InputError: Less than one.
    """
    if threads is not None:
        positive_int(threads, "the number of threads")
    if torch.device(device).type != "cpu":
        return 0
    return threads or os.cpu_count() or 1


def measure(
    subjects: Sequence[Subject],
    runtime: str,
    precision: str = "fp32",
    device: str = "cpu",
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 2.0,
    progress: str = "",
    failed: dict[str, str] | None = None,
) -> list[Measurement]:
    """Times networks interleaved, after their outputs were held to eager's.

    Args:
        subjects: What to time.
        runtime, precision: See `make_program`.
        device: A torch device.
        batch: Images at once.
        threads: On a CPU; by default all cores.
        seconds: To spend on each.
        progress: Label of a progress bar.
        failed: Gets the names of those that cannot be timed, and why; the others are timed.

    Raises:
        ValueError: An impossible batch or number of threads; without `failed`, outputs that are not
            finite or not equal to eager's, a network that cannot be exported, an unknown runtime.
        RuntimeMissingError: The runtime is not here.
    """
    positive_int(batch, "the batch")
    threads = count_threads(device, threads)
    kept, tasks, differences = [], [], []
    programs: dict[int, Program] = {}  # a detector and itself end to end have one network
    for subject in subjects:
        images = subject.images(batch)
        try:
            program = programs.get(id(subject.module)) or make_program(
                subject.module, images, runtime, precision, device, threads or None
            )
            programs[id(subject.module)] = program
            difference = _difference(subject, program, images)
            task = _task(subject, program, images)
        except InputError as e:
            if failed is None:
                raise
            failed[f"{subject.name}@{subject.input_size} {subject.scope}"] = str(e)
            continue
        kept.append(subject)
        differences.append(difference)
        tasks.append(task)
    timings = time_interleaved(tasks, seconds, progress=progress) if tasks else []
    title = device_title(device)
    return [
        Measurement(
            Latency(
                subject.name,
                title,
                runtime,
                precision,
                batch,
                subject.input_size,
                subject.scope,
                "measured",
                timing.median_ms,
                min(timing.percentile(10), timing.median_ms),
                max(timing.percentile(90), timing.median_ms),
                f"unstable: {timing.unstable}" if timing.unstable else "",
                threads,
            ),
            timing,
            difference,
        )
        for subject, timing, difference in zip(kept, timings, differences, strict=True)
    ]


def _difference(subject: Subject, program: Program, images: torch.Tensor) -> float:
    with torch.no_grad():
        expected = as_tuple(subject.module(images))
    name = f"{program.runtime} {program.precision} of {subject.name}"
    return check_outputs(name, program(images), expected, TOLERANCE[program.precision])


def _task(subject: Subject, program: Program, images: torch.Tensor) -> Task:
    if subject.scope != "e2e":
        return Task(program.bind(images), program.device, program.host_clock)
    pixels = (images * 50 + 128).clamp(0, 255).to(torch.uint8).to(program.device)
    detector = subject.detector.to(program.device)
    part: Any = subject.module
    run = part.end_to_end(detector, program.bind, pixels)
    return Task(run, program.device, host_clock=True)


REPEATS = 4  # of a block in the longer of the two networks that are compared
RUNTIMES = ("eager", "channels_last", "cuda_graph", "onnxruntime", "tensorrt")
_SAVE_SECONDS = 20.0


class Repeated(nn.Module):
    """The same block several times, with weights of its own each time, and a mean at the end.

    A block whose output fits its own input is chained; of any other, all take the same input, and
    their outputs are added up.

    Args:
        block: Its spec.
        count: How often.

    Shapes:
        (N, in_chs, H, W) to (N, out_chs).
    """

    def __init__(self, block: BlockSpec, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(block.padded()) for _ in range(count))
        self.chained = is_chainable(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.blocks[0](x)
        for block in self.blocks[1:]:
            out = block(out) if self.chained else out + block(x)
        return out.mean((2, 3))


class Additions(nn.Module):
    """A chain of additions, to find what one costs where it is a kernel of its own."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for _ in range(self.count):
            out = out + x
        return out.mean((2, 3))


def is_chainable(block: BlockSpec) -> bool:
    """Whether a block's output has the shape of its input."""
    return block.stride == 1 and block.in_chs == block.out_chs


class BlockTimer:
    """Measures blocks under one set of conditions.

    Args:
        runtime, precision, device, batch, threads: As in `measure`.
        seconds: To spend on each of a block's two networks.

    Raises:
        ValueError: An impossible batch or number of threads, a runtime whose kernels are not those
            of single blocks.
        RuntimeMissingError: The runtime is not here.
    """

    def __init__(
        self,
        runtime: str,
        precision: str = "fp32",
        device: str = "cpu",
        batch: int = 1,
        threads: int | None = None,
        seconds: float = 0.4,
    ) -> None:
        positive_int(batch, "the batch")
        if runtime not in RUNTIMES:
            raise InputError(
                f"a table needs one of the runtimes {', '.join(RUNTIMES)}, got {runtime!r}."
            )
        self.device, self.seconds = device, seconds
        self.conditions = Conditions(
            device_title(device),
            "measured",
            runtime,
            precision,
            batch,
            count_threads(device, threads),
            driver(device),
            datetime.date.today().isoformat(),
            versions(),
        )
        self._additions: dict[tuple[int, Size], float] = {}

    def measure(self, block: BlockSpec, size: Size) -> Entry:
        """What the block costs, and what a network that begins with it costs beside its blocks."""
        pair = [Repeated(block, count) for count in (1, REPEATS)]
        one, difference, fuses_add = self._slope(pair, (block.in_chs, *size))
        if not is_chainable(block) and not fuses_add:
            difference = difference - self._addition(block.out_chs, output_size(block, size))
        # A block takes some time, whatever the noise says.
        low, ms, high = np.maximum(np.percentile(difference, (10, 50, 90)), 1e-6)
        return Entry(float(ms), float(low), float(high), max(float(one - ms), 0.0))

    def time(self, tasks: Sequence[Task]) -> list[Timing]:
        """Times a block's two networks; for a timer with another clock to override."""
        return time_interleaved(tasks, self.seconds, warmup_seconds=self.seconds / 4)

    def _slope(
        self, pair: Sequence[nn.Module], shape: tuple[int, int, int]
    ) -> tuple[float, np.ndarray, bool]:
        """Milliseconds of the shorter network, those that one more repetition adds in each round,
        and whether the runtime fuses additions."""
        c = self.conditions
        example = torch.randn(c.batch, *shape, generator=torch.Generator().manual_seed(0))
        programs = [
            make_program(module, example, c.runtime, c.precision, self.device, c.threads or None)
            for module in pair
        ]
        tasks = [Task(p.bind(example), p.device, p.host_clock) for p in programs]
        timings = self.time(tasks)
        one, many = (np.array(t.samples_ms) for t in timings)
        return float(np.median(one)), (many - one) / (REPEATS - 1), programs[0].fuses_add

    def _addition(self, chs: int, size: Size) -> float:
        key = (chs, size)
        if key not in self._additions:
            pair = [Additions(count) for count in (1, REPEATS)]
            _, difference, _ = self._slope(pair, (chs, *size))
            self._additions[key] = max(float(np.median(difference)), 0.0)
        return self._additions[key]


def measure_table(
    keys: Iterable[Key],
    path: str | os.PathLike[str],
    timer: BlockTimer,
    progress: bool = True,
) -> Table:
    """Measures what a table file does not hold yet; the file is kept up to date on the way.

    Args:
        keys: Blocks with the sizes of their inputs.
        path: The table's file; an existing one is added to.
        timer: Of the conditions.
        progress: Whether to show a bar with the time left.

    Raises:
        TableError: The file is of other conditions.
    """
    from tqdm import tqdm

    table = Table(timer.conditions)
    if os.path.exists(path):
        table = Table.load(path)
        if not table.conditions.same_setting(timer.conditions):
            raise TableError(
                f"{os.fspath(path)} is of other conditions ({table.conditions}, not "
                f"{timer.conditions}); give another --out."
            )
    wanted = dict.fromkeys((block.padded(), size) for block, size in keys)
    missing = [key for key in wanted if key not in table.entries]
    saved = time.monotonic()
    table.save(path)  # fails now rather than after minutes where it cannot be written
    try:
        for key in tqdm(missing, "blocks", disable=not progress, unit="block"):
            table.add(key, timer.measure(*key))
            if time.monotonic() - saved > _SAVE_SECONDS:
                table.save(path)
                saved = time.monotonic()
    finally:  # Ctrl-C included: what was measured is kept
        table.save(path)
    return table
