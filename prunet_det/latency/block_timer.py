"""Latency of blocks, each measured apart from the network around it, and tables of them."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from prunet_det.arch.blocks import Block
from prunet_det.arch.spec import BlockSpec
from prunet_det.latency.fusion import fusion_of
from prunet_det.latency.measure import reason_of, require_device
from prunet_det.latency.record import Conditions
from prunet_det.latency.stopwatch import Task, Timing, time_interleaved
from prunet_det.latency.table import Entry, Key, Size, Table, TableError
from prunet_det.runtime import building_device, check_runtime, make_program
from prunet_det.utils.env import driver, versions
from prunet_det.utils.errors import InputError

REPEATS = 4  # of a block in the longer of the two networks that are compared
BLOCK_RUNTIMES = ("eager", "channels_last", "cuda_graph", "onnxruntime", "tensorrt")
GROUP = 8  # blocks that are timed interleaved: what disturbs the machine hits all of them alike
WARMUP_SECONDS = 0.01
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
        seconds: Largest time to spend on each of a block's two networks.

    Raises:
        InputError: If the device is not here, or the runtime's kernels are not those of single
            blocks.
        RuntimeMissingError: If the runtime is not here.
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
        check_runtime(conditions.runtime, conditions.precision, self.device)
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

    def measure(self, keys: Sequence[Key]) -> tuple[dict[Key, Entry], dict[Key, str]]:
        """Measures blocks, interleaved.

        Args:
            keys: Blocks with the sizes (height, width) of their inputs.

        Returns:
            Entries of those that could be measured, and why the others could not.
        """
        pairs: dict[Key, tuple[Task, Task]] = {}
        failed: dict[Key, str] = {}
        additions: dict[tuple[int, Size], tuple[Task, Task]] = {}
        for key in keys:
            block, size = key
            try:
                pairs[key] = self._pair(partial(Repeated, block), (block.in_chs, *size))
                place = self._addition_of(key)
                if place and place not in self._additions and place not in additions:
                    chs, out = place
                    additions[place] = self._pair(Additions, (chs, *out))
            except Exception as e:  # whatever an exporter or a runtime raises
                pairs.pop(key, None)
                failed[key] = reason_of(e, f"{block.kind} {block.in_chs}->{block.out_chs}")
        tasks = [task for pair in (*pairs.values(), *additions.values()) for task in pair]
        timings = iter(self.time(tasks) if tasks else [])
        slopes = {key: _slope(next(timings), next(timings)) for key in pairs}
        for place in additions:
            _, difference = _slope(next(timings), next(timings))
            self._additions[place] = max(float(np.median(difference)), 0.0)
        return {key: self._entry(key, *slope) for key, slope in slopes.items()}, failed

    def time(self, tasks: Sequence[Task]) -> list[Timing]:
        """Times blocks' networks; for a timer with another clock to override."""
        return time_interleaved(tasks, self.seconds, warmup_seconds=WARMUP_SECONDS, sensors=False)

    def _pair(
        self, build: Callable[[int], nn.Module], shape: tuple[int, int, int]
    ) -> tuple[Task, Task]:
        """Tasks of two networks with 1 and REPEATS repetitions, each run once."""
        c = self.conditions
        example = torch.randn(c.batch, *shape, generator=torch.Generator().manual_seed(0))

        def task(count: int) -> Task:
            with building_device(c.runtime, self.device):
                module = build(count)
            program = make_program(
                module, example, c.runtime, c.precision, self.device, c.threads or None
            )
            made = Task(program.bind(example), program.device, program.host_clock)
            made.sample(1)
            return made

        return task(1), task(REPEATS)

    def _addition_of(self, key: Key) -> tuple[int, Size] | None:
        """Channels and size of the maps that are added up to time a block, where that costs."""
        block, size = key
        if is_chainable(block) or "add" in fusion_of(self.conditions).into_conv:
            return None
        return block.out_chs, block.output_size(size)

    def _entry(self, key: Key, one: float, difference: np.ndarray) -> Entry:
        place = self._addition_of(key)
        if place:
            difference = difference - self._additions[place]
        # A block takes some time, whatever the noise says.
        low, ms, high = np.maximum(np.percentile(difference, (10, 50, 90)), 1e-6)
        return Entry(float(ms), float(low), float(high), max(float(one - ms), 0.0))


def _slope(one: Timing, many: Timing) -> tuple[float, np.ndarray]:
    """Milliseconds of the shorter network, and those that one more repetition adds, (rounds,)."""
    short, long = (np.array(t.samples_ms) for t in (one, many))
    return float(np.median(short)), (long - short) / (REPEATS - 1)


def measure_table(
    keys: Iterable[Key],
    path: str | os.PathLike[str],
    timer: BlockTimer,
    progress: bool = True,
    failed: dict[Key, str] | None = None,
) -> Table:
    """Measures what a table file does not hold yet; the file is kept up to date on the way.

    Args:
        keys: Blocks with the sizes of their inputs.
        path: The table's file; an existing one is added to.
        timer: Timer under the conditions of the table.
        progress: Whether to show a bar with the time left.
        failed: Gets the blocks that could not be measured, and why.

    Raises:
        TableError: If the file is of other conditions; without `failed`, once the others are
            measured, if a block could not be.
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
    reasons: dict[Key, str] = {} if failed is None else failed
    saved = time.monotonic()
    table.save(path)  # fails now rather than after minutes where it cannot be written
    try:
        with tqdm(total=len(missing), desc="blocks", disable=not progress, unit="block") as bar:
            for start in range(0, len(missing), GROUP):
                group = missing[start : start + GROUP]
                entries, without = timer.measure(group)
                for key, entry in entries.items():
                    table.add(key, entry)
                reasons.update(without)
                bar.update(len(group))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    table.save(path)
                    saved = time.monotonic()
    finally:  # Ctrl-C included: what was measured is kept
        table.save(path)
    if failed is None and reasons:
        (block, size), reason = next(iter(reasons.items()))
        raise TableError(
            f"{len(reasons)} blocks could not be measured, the first {block.kind} {block.in_chs}->"
            f"{block.out_chs} at {size}: {reason}"
        )
    return table
