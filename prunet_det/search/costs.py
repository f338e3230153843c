"""What the networks of a space cost on a device: milliseconds as arrays over the inner widths."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prunet_det.arch.spec import BlockSpec
from prunet_det.latency.device import device_names
from prunet_det.latency.record import Conditions
from prunet_det.latency.table import (
    Key,
    Size,
    Table,
    TableError,
    predict_table,
)
from prunet_det.search.space import Network, Operator, SearchSpace
from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import digest, read_json

FILLED = 0.97  # of its budget: what a result must spend at least
MEASURED_WIDTHS = 4  # of an operator, evenly over its range; those between follow by interpolation


class BudgetError(InputError):
    """A budget that no network of the space can meet; the sentence has the reachable range."""


def space_keys(space: SearchSpace, input_size: int, widths: int | None = None) -> list[Key]:
    """The blocks that a table of a space needs, with the sizes of their inputs.

    Args:
        space: The space.
        input_size: Side of the images that the budget is for, in pixels.
        widths: How many inner widths of an operator, evenly; all of them by default.
    """
    positive_int(input_size, "the input size")
    keys: dict[Key, None] = {(space.stem_block(), (input_size, input_size)): None}
    for layer, size in zip(space.layers, space.layer_sizes(input_size), strict=True):
        for operator in layer.operators:
            every = layer.widths_of(operator)
            if widths is not None and len(every) > widths:
                chosen = np.unique(np.linspace(0, len(every) - 1, widths).round().astype(int))
                every = tuple(every[i] for i in chosen)
            for hidden in every:
                keys[layer.block(operator, hidden), size] = None
    return list(keys)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a network's backbone may cost.

    Attributes:
        ms: Milliseconds that it may take at most, above 0.
        conditions: What the milliseconds hold for.
        input_size: Side of the square images that they are for, in pixels, whatever the search
            trains on.

    Raises:
        InputError: If the milliseconds are not above 0 and finite, or the size is impossible.
    """

    ms: float
    conditions: Conditions
    input_size: int

    def __post_init__(self) -> None:
        if not 0 < self.ms < math.inf:
            raise InputError(f"a budget must be above 0 ms, got {self.ms:g}.")
        positive_int(self.input_size, "the input size")

    @property
    def lowest_ms(self) -> float:
        """Milliseconds that a result must take at least: 0.97 of the budget."""
        return FILLED * self.ms

    def fits(self, ms: float) -> bool:
        """Whether milliseconds lie within 0.97 and 1.00 of the budget."""
        return self.lowest_ms <= ms <= self.ms

    def __str__(self) -> str:
        return f"{self.ms:g} ms at {self.input_size} px ({self.conditions})"


class SpaceCosts:
    """Latencies of everything that a space holds, under one set of conditions.

    Args:
        space: The space.
        input_size: Side of the images that the budget is for, whatever the search trains on.
        table: Holds the space's blocks.

    Raises:
        TableError: The table lacks a block of the space.
    """

    def __init__(self, space: SearchSpace, input_size: int, table: Table) -> None:
        self.space, self.input_size, self.table = space, input_size, table
        self.sizes = space.layer_sizes(input_size)
        stem = (space.stem_block(), (input_size, input_size))
        try:
            self.fixed_ms = table.overhead_ms(*stem) + self._block_ms(*stem)
            self._ms: list[dict[Operator, np.ndarray]] = [
                {
                    o: np.array(
                        [self._block_ms(layer.block(o, w), size) for w in layer.widths_of(o)]
                    )
                    for o in layer.operators
                }
                for layer, size in zip(space.layers, self.sizes, strict=True)
            ]
        except TableError as e:
            raise TableError(f"the table is of another space or input size: {e}") from e

    @property
    def conditions(self) -> Conditions:
        """What the milliseconds hold for."""
        return self.table.conditions

    def budget(self, ms: float) -> Budget:
        """A budget under the conditions and at the input size of these costs."""
        return Budget(ms=ms, conditions=self.conditions, input_size=self.input_size)

    @property
    def table_hash(self) -> str:
        """A digest of all prices."""
        entries = sorted((str(k), e.ms) for k, e in self.table.entries.items())
        return digest(entries)

    def _block_ms(self, block: BlockSpec, size: Size) -> float:
        entry = self.table.entries.get((block, size))
        if entry is not None and self.table.kind == "predicted":
            return entry.ms  # exactly what the prediction of the whole network adds up
        return self.table.ms(block, size)

    def operator_ms(self, index: int, operator: Operator) -> np.ndarray:
        """Milliseconds of a layer's operator over the inner widths that it may have."""
        return self._ms[index][operator]

    def network_ms(self, network: Network) -> float:
        """Milliseconds of a network's scope `backbone`.

        Raises:
            SpaceError: It is no point of the space.
        """
        layers = zip(self.space.layers, self._ms, network, strict=True)
        return self.fixed_ms + sum(
            float(prices[operator][layer.widths_of(operator).index(block.hidden)])
            for layer, prices, block in layers
            if block is not None
            for operator in [layer.operator_of(block)]
        )

    @cached_property
    def reachable(self) -> tuple[float, float]:
        """Least and greatest milliseconds of the space's networks."""
        low = high = self.fixed_ms
        for layer, prices in zip(self.space.layers, self._ms, strict=True):
            every = np.concatenate([*prices.values()])
            low += 0.0 if layer.skippable else float(every.min())
            high += float(every.max())
        return low, high

    def describe(self) -> str:
        """One line: the size of the space and what it reaches."""
        low, high = self.reachable
        return (
            f"space: {len(self.space.layers)} layers, 10^{self.space.log10_size:.1f} networks, "
            f"{low:.3f} to {high:.3f} ms at {self.input_size} px ({self.table.title})"
        )

    def check_budget(self, budget: Budget) -> None:
        """Refuses a budget outside of the reachable range.

        Raises:
            BudgetError: The sentence has the range.
        """
        low, high = self.reachable
        if not low <= budget.ms <= high:
            raise BudgetError(
                f"a budget of {budget.ms:g} ms cannot be met: the space reaches {low:.3f} to "
                f"{high:.3f} ms at {self.input_size} px ({self.table.title}); choose a budget in "
                "between, or another space or width_factor."
            )


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """Where milliseconds come from: `v100`, `here`, or a table's file.

    Attributes:
        device: A named device, the path of a device file or of a table, or `here`.
        batch: Images at once.
        tables: Folder in which `here` keeps what it measured.
        seconds: For each measured block.
        threads: Threads of a CPU that is measured; all cores by default.
        force: Also a table of another device.
        progress: Whether measuring shows a bar.
    """

    device: str = "v100"
    batch: int = 1
    tables: str | os.PathLike[str] = "work_dirs/tables"
    seconds: float = 0.2
    threads: int | None = None
    force: bool = False
    progress: bool = True

    def costs(self, space: SearchSpace, input_size: int) -> SpaceCosts:
        """Prices a space.

        Raises:
            ValueError, FileNotFoundError: Unknown device, no such file, a table that does not fit.
        """
        return SpaceCosts(space, input_size, self._source()(space, input_size))

    def _source(self) -> Callable[[SearchSpace, int], Table]:
        if self.device == "here":
            return self._measured
        if _is_table(self.device):
            table = Table.load(self.device, force=self.force)
            if table.conditions.batch != self.batch:
                raise TableError(
                    f"{self.device} is of batch {table.conditions.batch}; give --batch "
                    f"{table.conditions.batch}, or another table."
                )
            return lambda space, size: table
        if self.device not in device_names() and not self.device.endswith(".json"):
            raise InputError(
                f"there is no device {self.device!r}; the known ones are "
                f"{', '.join(device_names())}, `here` (measures this machine), or the path of a "
                "table or of a device file."
            )
        return lambda space, size: predict_table(space_keys(space, size), self.device, self.batch)

    def _measured(self, space: SearchSpace, input_size: int) -> Table:
        """Measures what the table of this machine lacks."""
        from prunet_det.latency.block_timer import BlockTimer, measure_table
        from prunet_det.latency.measure import local_conditions

        c = local_conditions(batch=self.batch, threads=self.threads)
        timer = BlockTimer(c, seconds=self.seconds)
        title = "".join(ch if ch.isalnum() else "_" for ch in c.device.lower())
        threads = f"_{c.threads}threads" if c.threads else ""
        name = f"{title}_{c.runtime}_{c.precision}_batch{c.batch}{threads}.json"
        keys = space_keys(space, input_size, MEASURED_WIDTHS)
        return measure_table(keys, Path(self.tables) / name, timer, self.progress)


def _is_table(path: str) -> bool:
    """Whether a file is a latency table rather than a device file."""
    if not path.endswith(".json"):
        return False
    return "entries" in read_json(path, "table or device file")
