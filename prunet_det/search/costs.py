"""What the networks of a space cost on a device, and how they come to a latency."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunet_det.arch.spec import BlockSpec
from prunet_det.latency.device import device_names
from prunet_det.latency.record import Conditions
from prunet_det.latency.table import Key, Size, Table, TableError, predict_table
from prunet_det.search.space import SearchSpace
from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import digest, read_json

Array = np.ndarray

FILLED = 0.97  # of its budget: what a result must spend at least
_SAME_MS = 1e-9  # milliseconds that are none
_ROUND_OFF = 1e-12  # of a budget: what sums in another order may differ by
_FULL = 0.99  # of a budget: such a network stays as it is
_UNEVEN = 1.25  # of the common factor: up to where a layer is widened alone, or for one step
_HALVINGS = 18  # of the range of factors, which is about e^8 at most: to 1 in 30,000
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
            count = min(widths or len(every), len(every))
            for i in np.linspace(0, len(every) - 1, count).round().astype(int):
                keys[layer.block(operator, every[i]), size] = None
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

    def fits(self, ms: float) -> bool:
        """Whether milliseconds lie within 0.97 and 1.00 of the budget."""
        return FILLED * self.ms <= ms <= self.ms


class SpaceCosts:
    """Latencies of all that a space holds, and the mechanism that brings networks to a given one.

    All inner widths are multiplied by the one factor that fits, and then single layers are widened,
    those first that are furthest behind that factor, a quarter beyond it at most unless the budget
    would not be met. Milliseconds are a staircase over the inner width, so a width is always the
    greatest of its price.

    Operators and widths are indices, (networks, layers): into `LayerSpace.operators`, -1 where the
    layer is left out, and into `LayerSpace.widths_of`. Arrays over layers, operators and widths are
    padded to equal lengths; their last operator is the layer left out, which costs nothing.

    Args:
        space: The space.
        input_size: Side of the images that the budget is for, whatever the search trains on.
        table: Holds the space's blocks.

    Attributes:
        sizes: Height and width of each layer's input.
        fixed_ms: Milliseconds of what all networks have.
        ms, hidden: Milliseconds and channels, (layers, operators + 1, widths).
        tops: The greatest width index, (layers, operators + 1).
        ends: Prices of the narrowest and of the widest block, (layers, operators) each.

    Raises:
        TableError: The table lacks a block of the space.
    """

    def __init__(self, space: SearchSpace, input_size: int, table: Table) -> None:
        self.space, self.input_size, self.table = space, input_size, table
        self.sizes = space.layer_sizes(input_size)
        layers = space.layers
        most = max(len(layer.operators) for layer in layers)
        widest = max(len(layer.widths_of(o)) for layer in layers for o in layer.operators)
        size = (len(layers), most + 1, widest)
        self.ms, self.hidden = np.zeros(size), np.zeros(size)
        self.tops = np.zeros(size[:2], int)
        stem = (space.stem_block(), (input_size, input_size))
        try:
            self.fixed_ms = table.overhead_ms(*stem) + self._block_ms(*stem)
            for i, layer in enumerate(layers):
                for j, operator in enumerate(layer.operators):
                    widths = layer.widths_of(operator)
                    blocks = (layer.block(operator, width) for width in widths)
                    ms = [self._block_ms(block, self.sizes[i]) for block in blocks]
                    rest = (0, widest - len(widths))
                    self.ms[i, j] = np.pad(ms, rest, "edge")
                    self.hidden[i, j] = np.pad(widths, rest, "edge")
                    self.tops[i, j] = len(widths) - 1
        except TableError as e:
            raise TableError(f"the table is of another space or input size: {e}") from e
        self._first = self.hidden[..., 0]  # widths are multiples of a step
        self._step = np.maximum(self.hidden[..., min(1, widest - 1)] - self._first, 1.0)
        self._rows = np.arange(len(layers))
        self._edges, self._wider = self._steps()
        self.ends = self._ends()

    def _block_ms(self, block: BlockSpec, size: Size) -> float:
        entry = self.table.entries.get((block, size))
        if entry is not None and self.table.kind == "predicted":
            return entry.ms  # exactly what the prediction of the whole network adds up
        return self.table.ms(block, size)

    def _steps(self) -> tuple[Array, Array]:
        """The greatest width index of the same price, and the next one.

        The next one is that, or the greatest of the next price; (layers, operators + 1, widths).
        """
        widest, tops = self.ms.shape[2], self.tops[..., None]
        affordable = self.ms[..., None, :] <= self.ms[..., :, None] + _SAME_MS
        edges = np.minimum(widest - 1 - affordable[..., ::-1].argmax(-1), tops)
        beyond = np.take_along_axis(edges, np.minimum(edges + 1, tops), -1)
        return edges, np.where(edges > np.arange(widest), edges, beyond)

    def _ends(self) -> tuple[Array, Array]:
        narrowest = np.take_along_axis(self.ms, self._edges[..., :1], 2)[..., 0]
        return narrowest[:, :-1], self.ms[:, :-1, -1]

    def correct(self, beyond_ms: float, factor: float = 1.0) -> None:
        """Has networks cost more or less than what their blocks add up to.

        Args:
            beyond_ms: Milliseconds that all of them take beside.
            factor: Factor of the milliseconds of all blocks.
        """
        self.ms *= factor
        self.fixed_ms = self.fixed_ms * factor + beyond_ms
        self.ends = self._ends()

    def budget(self, ms: float) -> Budget:
        """A budget under the conditions and at the input size of these costs."""
        return Budget(ms=ms, conditions=self.table.conditions, input_size=self.input_size)

    @property
    def table_hash(self) -> str:
        """A digest of all prices."""
        return digest(sorted((str(k), e.ms) for k, e in self.table.entries.items()))

    def total(self, operators: Array, widths: Array) -> Array:
        """Milliseconds of networks, (...), of indices (..., layers)."""
        # One layer after the other, as Python's sum: a layer left out, of 0 ms, then changes no
        # bit of it. ndarray.sum adds in pairs, to other last bits.
        return self.fixed_ms + self.ms[self._rows, operators, widths].cumsum(-1)[..., -1]

    def range(self, operators: Array) -> tuple[Array, Array]:
        """Least and greatest milliseconds of operators over their widths, (networks,) each."""
        ends = self._edges[self._rows, operators, 0], self.tops[self._rows, operators]
        low, high = (self.total(operators, widths) for widths in ends)
        return low, high

    def fit(
        self, operators: Array, targets: Array, limits: Array, widths: Array | None = None
    ) -> tuple[Array, Array]:
        """Scales inner widths by one factor each network, then widens layer by layer.

        Args:
            operators: Operators.
            targets: Inner widths in channels that say how the layers relate, (networks, layers);
                below 1 they count as 1.
            limits: Milliseconds of each network at most, (networks,).
            widths: Widths that the targets are, if any: they stay where they spend 0.99 to 1.00 of
                the limits.

        Returns:
            Widths, and milliseconds, (networks,), which lie above the limits where even the
            narrowest do.
        """
        rows, tops = self._rows, self.tops[self._rows, operators]
        first, step = self._first[rows, operators], self._step[rows, operators]
        targets = np.maximum(targets, 1.0)
        limits = limits * (1 - _ROUND_OFF)

        def at(log_factors: Array) -> Array:
            wanted = (np.exp(log_factors)[:, None] * targets - first) / step
            near = np.clip(np.rint(wanted), 0, tops).astype(int)
            return self._edges[rows, operators, near]

        free = tops > 0
        low = np.log(np.where(free, first / targets, 1.0).min(1))
        high = np.log(np.where(free, (first + step * tops) / targets, 1.0).max(1))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self.total(operators, at(middle)) <= limits
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        scaled = at(low)
        even = at(low + np.log(_UNEVEN))
        roofs = np.maximum(even, self._wider[rows, operators, scaled])
        scaled = self._fill(operators, scaled, roofs, targets, limits)
        short = self.total(operators, scaled) < FILLED * limits
        rest = (a[short] for a in (operators, scaled, tops, targets, limits))
        scaled[short] = self._fill(*rest)
        if widths is not None:
            before = self.total(operators, widths)
            full = (_FULL * limits <= before) & (before <= limits)
            scaled = np.where(full[:, None], widths, scaled)
        return scaled, self.total(operators, scaled)

    def _fill(
        self, operators: Array, widths: Array, tops: Array, targets: Array, limits: Array
    ) -> Array:
        """Widens layers: of the steps that fit, the one to the lowest multiple of its target."""
        widths, left = widths.copy(), np.arange(len(widths))
        while len(left):
            own, now = operators[left], widths[left]
            wider = np.minimum(self._wider[self._rows, own, now], tops[left])
            adds = self.ms[self._rows, own, wider] - self.ms[self._rows, own, now]
            fits = self.total(own, now)[:, None] + adds <= limits[left, None]
            fits &= wider > now
            reached = self.hidden[self._rows, own, wider] / targets[left]
            layer, goes_on = np.where(fits, reached, np.inf).argmin(1), fits.any(1)
            left, layer = left[goes_on], layer[goes_on]
            widths[left, layer] = wider[goes_on, layer]
        return widths


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
        return SpaceCosts(space, input_size, self._table(space, input_size))

    def _table(self, space: SearchSpace, input_size: int) -> Table:
        if self.device == "here":
            return self._measured(space, input_size)
        is_file = self.device.endswith(".json")
        if is_file and "entries" in read_json(self.device, "table or device file"):
            table = Table.load(self.device, force=self.force)
            if table.conditions.batch != self.batch:
                raise TableError(
                    f"{self.device} is of batch {table.conditions.batch}; give --batch "
                    f"{table.conditions.batch}, or another table."
                )
            return table
        if self.device not in device_names() and not is_file:
            raise InputError(
                f"there is no device {self.device!r}; the known ones are "
                f"{', '.join(device_names())}, `here` (measures this machine), or the path of a "
                "table or of a device file."
            )
        return predict_table(space_keys(space, input_size), self.device, self.batch)

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
