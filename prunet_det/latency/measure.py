"""Latency of networks and of blocks, measured on the machine that is here."""

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
from prunet_det.latency.record import Conditions, Latency
from prunet_det.latency.stopwatch import Task, Timing, time_interleaved
from prunet_det.latency.table import Entry, Key, Size, Table, TableError
from prunet_det.runtime import make_program
from prunet_det.runtime.outputs import Reference
from prunet_det.runtime.program import Program
from prunet_det.runtime.subject import Scope, Subject
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import device_title, driver, local_devices, versions
from prunet_det.utils.errors import InputError


@dataclass(frozen=True)
class Measurement:
    """A measured latency and how it was measured.

    Attributes:
        latency: Median, 10th and 90th percentile.
        timing: All samples.
        difference: Largest relative L2 error of an output against eager FP32 on the same device.
    """

    latency: Latency
    timing: Timing
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """One flat record: the latency's, with the timing's figures and images a second."""
        timing = self.timing.to_dict()
        return {
            **self.latency.to_dict(),
            **{k: v for k, v in timing.items() if k != "median_ms"},
            "images_per_s": 1e3 * self.latency.conditions.batch / self.latency.ms,
            "difference": self.difference,
        }


def local_conditions(
    device: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    batch: int = 1,
    threads: int | None = None,
) -> Conditions:
    """Conditions of a measurement on this machine.

    Args:
        device: A torch device; CUDA where there is one by default.
        runtime: One of `runtime.RUNTIMES`; what deployments use on the device by default.
        precision: `fp32` or `fp16`; what deployments use on the device by default.
        batch: Images at once.
        threads: Threads of a CPU, all cores by default; ignored on CUDA.

    Raises:
        InputError: If batch or threads are no positive integers.
    """
    if threads is not None:
        positive_int(threads, "the number of threads")
    device = device or local_device()
    usual = default_runtime(device)
    on_cpu = torch.device(device).type == "cpu"
    return Conditions(
        device=device_title(device),
        runtime=runtime or usual[0],
        precision=precision or usual[1],
        batch=batch,
        threads=(threads or os.cpu_count() or 1) if on_cpu else 0,
    )


def default_runtime(device: str) -> tuple[str, str]:
    """Runtime and precision that deployments use on a torch device."""
    cuda = torch.device(device).type == "cuda"
    return ("cuda_graph", "fp16") if cuda else ("onnxruntime", "fp32")


def local_device() -> str:
    """Torch device that `here` means: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_device(conditions: Conditions) -> str | None:
    """Returns the torch device that has the title in the conditions, None where it is not here.

    Of several equal GPUs it is the first; CUDA_VISIBLE_DEVICES chooses among them.
    """
    return next((k for k, title in local_devices().items() if title == conditions.device), None)


def require_device(conditions: Conditions) -> str:
    """Returns the torch device that has the title in the conditions.

    Raises:
        InputError: If this machine does not have it.
    """
    device = find_device(conditions)
    if device is None:
        raise InputError(f"{conditions.device} is not here: it cannot be measured on.")
    return device


def measure(
    subjects: Sequence[Subject],
    conditions: Conditions,
    *,
    device: str | None = None,
    seconds: float = 2.0,
    progress: str = "",
    failed: dict[str, str] | None = None,
) -> list[Measurement]:
    """Times networks interleaved, once their outputs are held to eager's.

    Args:
        subjects: Networks to time.
        conditions: What they run on and how, as `local_conditions` gives it.
        device: Torch device; the one of the conditions' title by default.
        seconds: Time to spend on each network.
        progress: Label of a progress bar; none where empty.
        failed: Gets the names of those that cannot be timed, and why; the others are timed.

    Returns:
        One measurement for each network that was timed, in order.

    Raises:
        InputError: If the device is not here or the runtime unknown; without `failed`, if outputs
            are not finite or not equal to eager's, or a network cannot be exported.
        RuntimeMissingError: If the runtime is not here.
    """
    device = device or require_device(conditions)
    kept, tasks, differences = [], [], []
    programs: dict[int, Program] = {}  # a detector and itself end to end have one network
    for subject in subjects:
        images = subject.images(conditions.batch)
        try:
            program = programs.get(id(subject.module)) or make_program(
                subject.module,
                images,
                conditions.runtime,
                conditions.precision,
                device,
                conditions.threads or None,
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
    return [
        Measurement(_latency(subject, conditions, timing), timing, difference)
        for subject, timing, difference in zip(kept, timings, differences, strict=True)
    ]


def _latency(subject: Subject, conditions: Conditions, timing: Timing) -> Latency:
    median = timing.median_ms
    return Latency(
        model=subject.name,
        input_size=subject.input_size,
        scope=subject.scope,
        conditions=conditions,
        ms=median,
        low=min(timing.percentile(10), median),
        high=max(timing.percentile(90), median),
        kind="measured",
        note=f"unstable: {timing.unstable}" if timing.unstable else "",
    )


def _difference(subject: Subject, program: Program, images: torch.Tensor) -> float:
    reference = Reference(subject.module, images, program.precision, program.device)
    name = f"{program.runtime} {program.precision} of {subject.name}"
    return reference.check(name, program(images))


def _task(subject: Subject, program: Program, images: torch.Tensor) -> Task:
    if subject.scope is not Scope.E2E:
        return Task(program.bind(images), program.device, program.host_clock)
    pixels = subject.pixels(len(images)).to(program.device)
    detector = subject.detector.to(program.device)
    part: Any = subject.module
    return Task(part.end_to_end(detector, program.bind, pixels), program.device, host_clock=True)


REPEATS = 4  # of a block in the longer of the two networks that are compared
BLOCK_RUNTIMES = ("eager", "channels_last", "cuda_graph", "onnxruntime", "tensorrt")
_SAVE_SECONDS = 20.0


class Repeated(nn.Module):
    """The same block several times, with weights of its own each time, and a mean at the end.

    A block whose output fits its own input is chained; of any other, all take the same input, and
    their outputs are added up.

    Args:
        block: Spec of the block.
        count: Number of repetitions.
    """

    def __init__(self, block: BlockSpec, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(block.padded()) for _ in range(count))
        self.chained = is_chainable(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_chs, H, W) to (N, out_chs)."""
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
        """(N, C, H, W) to (N, C)."""
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
        conditions: What the blocks run on and how, as `local_conditions` gives it.
        device: Torch device; the one of the conditions' title by default.
        seconds: Time to spend on each of a block's two networks.

    Raises:
        InputError: If the device is not here, or the runtime's kernels are not those of single
            blocks.
    """

    def __init__(
        self, conditions: Conditions, device: str | None = None, seconds: float = 0.4
    ) -> None:
        if conditions.runtime not in BLOCK_RUNTIMES:
            raise InputError(
                f"a table needs one of the runtimes {', '.join(BLOCK_RUNTIMES)}, got "
                f"{conditions.runtime!r}."
            )
        self.device = device or require_device(conditions)
        self.conditions, self.seconds = conditions, seconds
        self._additions: dict[tuple[int, Size], float] = {}

    def table(self) -> Table:
        """An empty table of these conditions, with driver, date and versions of this machine."""
        machine = {
            "driver": driver(self.device),
            "date": datetime.date.today().isoformat(),
            "versions": versions(),
        }
        return Table(self.conditions, "measured", machine=machine)

    def measure(self, block: BlockSpec, size: Size) -> Entry:
        """Measures a block.

        Args:
            block: The block.
            size: Height and width of its input.
        """
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
        """Times a pair of networks with 1 and REPEATS repetitions.

        Returns:
            Milliseconds of the shorter network, those that one more repetition adds in each round
            (rounds,), and whether the runtime fuses additions.
        """
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
        timer: Timer under the conditions of the table.
        progress: Whether to show a bar with the time left.

    Raises:
        TableError: If the file is of other conditions.
    """
    from tqdm import tqdm

    table = timer.table()
    if os.path.exists(path):
        new, table = table, Table.load(path)
        if table.title != new.title:
            raise TableError(
                f"{os.fspath(path)} is of other conditions ({table.title}, not {new.title}); give "
                "another --out."
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
