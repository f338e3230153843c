"""Networks of a space: drawn at random, scaled onto a latency, described.

All of it is arithmetic on arrays: a network takes a millisecond, thousands at once a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunet_det.arch.spec import BLOCK_KINDS
from prunet_det.latency.kernels import block_kernels
from prunet_det.search.costs import FILLED, Array, BudgetError, SpaceCosts
from prunet_det.search.space import LayerSpace, Operator, Shape

Span = tuple[float, float]

_FEW, _MANY = 4, 4096  # networks that are drawn at once, first and at most
# Shares of the layers that get their cheapest or dearest operator, where random ones do not fit.
_TILTS = (0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_DRAWS = 512  # networks that are drawn for each at least
_TRIES = 20  # depths for the paths of a step, or widths for one network


class Shapes:
    """The shapes of a space and what they cost.

    Where an argument is called `live`, it is a bool array (layers, most operators of a layer): the
    candidates that there still are, by default all. A layer without any is left out; the first one
    of a stage has some.

    Args:
        costs: Prices of the space.

    Attributes:
        costs, space: The same, and its space.
        counts: Number of inner widths of each layer's operators, 1 for an operator without any and
            0 where there is no such operator, (layers, most operators of a layer).
        rows, stages, places, in_chs: Number, stage, place in it and input channels of each layer,
            (layers,).
    """

    def __init__(self, costs: SpaceCosts) -> None:
        self.costs, self.space = costs, costs.space
        layers = self.space.layers
        most = max(len(layer.operators) for layer in layers)
        self.rows = np.arange(len(layers))
        self.counts = np.zeros((len(layers), most), int)
        # The last operator is a layer that is left out.
        size = (len(layers), most + 1)
        self._macs, self._fused = np.zeros((*size, 2)), np.zeros(size)
        for i, layer in enumerate(layers):
            for j, operator in enumerate(layer.operators):
                self.counts[i, j] = len(layer.widths_of(operator))
                self._macs[i, j] = _line_of_macs(layer, operator, costs.sizes[i])
                dense = not BLOCK_KINDS[operator.kind].is_depthwise
                self._fused[i, j] = operator.has_hidden and dense
        self.in_chs = np.array([layer.in_chs for layer in layers], float)
        self.stages = np.array([layer.stage for layer in layers])
        self.places = np.array([layer.index for layer in layers])

    def ms(self, shape: Shape) -> float:
        """Milliseconds of the network's scope `backbone`, as `latency predict` has them."""
        return float(self.costs.total(shape.operators, shape.widths))

    def hidden(self, shape: Shape) -> list[int]:
        """Inner width of each layer in channels, 0 where it has none or is left out."""
        found = self.costs.hidden[self.rows, shape.operators, shape.widths]
        return found.astype(int).tolist()

    def macs(self, shapes: Sequence[Shape]) -> Array:
        """Multiply-accumulates of networks without stem and tail, (shapes,)."""
        operators, widths = _stacked(shapes)
        constant, slope = np.moveaxis(self._macs[self.rows, operators], -1, 0)
        return (constant + slope * self.costs.hidden[self.rows, operators, widths]).sum(1)

    def features(self, shapes: Sequence[Shape]) -> Array:
        """What tells networks of one latency apart, for a few trainings to learn from.

        Args:
            shapes: The networks.

        Returns:
            Share of the blocks with an inner width that are dense, mean logarithm of the inner
            widths in channels, logarithm of the multiply-accumulates, (shapes, 3).
        """
        operators, widths = _stacked(shapes)
        hidden = self.costs.hidden[self.rows, operators, widths]
        inner = np.maximum((hidden > 0).sum(1), 1)
        fused = self._fused[self.rows, operators].sum(1) / inner
        log_width = np.log(np.maximum(hidden, 1)).sum(1) / inner
        log_macs = np.log(np.maximum(self.macs(shapes), 1))
        return np.stack((fused, log_width, log_macs), axis=1)

    def reachable(self, live: Array | None = None) -> Span:
        """Least and greatest milliseconds; for `live` see the class."""
        live, fixed = self._live(live), self.costs.fixed_ms
        low, high = self.costs.ends
        cheapest = np.where(live, low, np.inf).min(1)[self.places == 0]
        dearest = np.where(live, high, -np.inf).max(1)[self._kept(self._most_depths(live))]
        return float(fixed + cheapest.sum()), float(fixed + dearest.sum())

    def check(self, ms: float, live: Array | None = None) -> Span:
        """As `reachable`, but refuses a budget in `ms` that lies out of reach.

        Raises:
            BudgetError: The sentence has the range.
        """
        low, high = self.reachable(live)
        if ms < low or high < FILLED * ms:
            what = "the space" if live is None else "what is left of the space"
            raise BudgetError(
                f"a budget of {ms:g} ms cannot be met: {what} reaches {low:.3f} to {high:.3f} ms "
                f"at {self.costs.input_size} px ({self.costs.table.title}); choose a budget in "
                "between, or another space or width_factor."
            )
        return low, high

    def scale(self, shape: Shape, ms: float) -> Shape | None:
        """The same operators and depth with all inner widths times the one factor that fits.

        A shape of 0.99 to 1.00 times the milliseconds stays as it is. The result takes 0.97 to 1.00
        times them; None where these operators at this depth cannot.
        """
        return self.scale_all([shape], ms)[0]

    def closest(self, shape: Shape, ms: float) -> Shape:
        """As `scale`, but if these operators cannot take so many or so few, what comes closest."""
        operators, widths = _stacked([shape])
        targets = self.costs.hidden[self.rows, operators, widths]
        (widths,), _ = self.costs.fit(operators, targets, np.array([ms]))
        return Shape(operators[0], widths)

    def scale_all(self, shapes: Sequence[Shape], ms: float) -> list[Shape | None]:
        """`scale` of many shapes at once, one result each."""
        operators, widths = _stacked(shapes)
        targets = self.costs.hidden[self.rows, operators, widths]
        return self.fitted(operators, targets, ms, widths)

    def uniform(self, shape: Shape, ms: float) -> Shape | None:
        """The same operators and depth at one expansion, else as `scale`."""
        return self.fitted(shape.operators[None], self.in_chs[None], ms)[0]

    def nearest(self, expansion: float) -> Array:
        """Inner widths next to an expansion, in channels, (layers, most operators of a layer)."""
        hidden = self.costs.hidden[:, :-1]
        near = np.abs(hidden - expansion * self.in_chs[:, None, None]).argmin(-1)
        return np.take_along_axis(hidden, near[..., None], -1)[..., 0].astype(int)

    def fitted(
        self, operators: Array, targets: Array, ms: float, widths: Array | None = None
    ) -> list[Shape | None]:
        """Networks whose inner widths relate as given ones do, see `scale`.

        Args:
            operators: Operators, (networks, layers); -1 where the layer is left out.
            targets: Inner widths in channels up to a common factor, (networks, layers).
            ms: Milliseconds of each result, at most, and at least 0.97 times.
            widths: Width indices of the targets, which stay where they spend 0.99 of `ms`.

        Returns:
            A shape each, or None where these operators at this depth cannot.
        """
        limits = np.full(len(operators), ms)
        widths, total = self.costs.fit(operators, targets, limits, widths)
        fits = (FILLED * ms <= total) & (total <= ms)
        found = zip(operators, widths, fits, strict=True)
        return [Shape(o, w) if fit else None for o, w, fit in found]

    def random_widths(self, rng: np.random.Generator, shape: Shape, ms: float) -> Shape | None:
        """The same operators and depth at random widths, else as `scale`."""
        operators = np.tile(shape.operators, (_TRIES, 1))
        targets = self._random_targets(rng, operators)
        return next(filter(None, self.fitted(operators, targets, ms)), None)

    def random(self, rng: np.random.Generator, ms: float, live: Array | None = None) -> Shape:
        """A network within a budget: see `draw`."""
        return self.draw(rng, ms, 1, live)[0]

    def draw(
        self, rng: np.random.Generator, ms: float, count: int, live: Array | None = None
    ) -> list[Shape]:
        """Networks within a budget: uniform operators, depths and widths, the widths then scaled.

        What does not fit is drawn anew. Only where random operators do not fit, at the ends of what
        is reachable, more and more layers get their cheapest operator or their dearest. There may
        be repetitions.

        Raises:
            BudgetError: No network was found within the budget.
        """
        (low, high), live = self.check(ms, live), self._live(live)
        found: list[Shape] = []
        for tilt in _TILTS if ms < (low * high) ** 0.5 else -np.array(_TILTS):
            drawn, before, size = 0, len(found), max(_FEW, 2 * count)
            while len(found) < count and (drawn < _DRAWS or len(found) - before > drawn / 100):
                size = min(2 * size, _MANY)
                operators = self._random_operators(rng, size, live, tilt)
                targets = self._random_targets(rng, operators)
                found += filter(None, self.fitted(operators, targets, ms))
                drawn += size
        if len(found) < count:
            raise BudgetError(
                f"no network was found within {FILLED:.0%} to 100% of {ms:g} ms, although what may "
                f"be chosen reaches {low:.3f} to {high:.3f} ms; use a smaller hidden_step."
            )
        return found[:count]

    def fair(
        self, rng: np.random.Generator, count: int, ms: Span, live: Array | None = None
    ) -> list[Shape]:
        """The paths of one step, in which every candidate of a layer comes equally often.

        All have the same random depth, for else the candidates of a layer that some of the paths
        leave out would not come equally often. Widths are random, and scaled to milliseconds of
        each path's own, log-uniform where `ms` and what its operators reach overlap.

        Args:
            rng: Source of all randomness.
            count: Number of paths: at best the most live candidates that a layer has. A layer with
                a number of which this is no multiple favours none in the mean of many steps.
            ms: Least and greatest milliseconds. A path that cannot spend as little or as much
                stays as close as it can.
            live: See the class.
        """
        live = self._live(live)
        columns = [_fairly(rng, np.flatnonzero(candidates), count) for candidates in live]
        every, most = np.stack(columns, axis=1), self._most_depths(live)
        for _ in range(_TRIES):
            depths = rng.integers(1, most, endpoint=True)
            operators = np.where(self._kept(depths), every, -1)
            low, high = self.costs.range(operators)
            if (low <= ms[1]).all() and (high >= ms[0]).all():
                break
        low, high = np.clip(low, *ms), np.clip(high, *ms)
        limits = np.exp(rng.uniform(np.log(low), np.log(high)))
        targets = self._random_targets(rng, operators)
        widths, _ = self.costs.fit(operators, targets, limits)
        return [Shape(o, w) for o, w in zip(operators, widths, strict=True)]

    # Arrays: operators and widths are (networks, layers) below.

    def _live(self, live: Array | None) -> Array:
        there = self.counts > 0
        return there if live is None else there & live

    def _kept(self, depths: Array) -> Array:
        """Whether a layer is within its stage's depth; (stages,) to (layers,), or with rows."""
        return self.places < depths[..., self.stages]

    def _most_depths(self, live: Array) -> Array:
        """Layers of each stage before the first without candidates, (stages,)."""
        gone, depths = ~live.any(1), np.array(self.space.depths)
        np.minimum.at(depths, self.stages[gone], self.places[gone])
        return depths

    def _random_operators(
        self, rng: np.random.Generator, count: int, live: Array, tilt: float
    ) -> Array:
        """Uniform operators and depths; a share `tilt` is the cheapest, or the dearest below 0."""
        order, number = np.argsort(~live, axis=1, kind="stable"), live.sum(1)
        shape = (count, len(self.rows))
        operators = order[self.rows, (rng.random(shape) * number).astype(int)]
        most = self._most_depths(live)
        depths = rng.integers(1, most, (count, len(most)), endpoint=True)
        if tilt:
            prices = self.costs.ends[int(tilt < 0)] * np.sign(tilt)
            extreme = np.where(live, prices, np.inf).argmin(1)
            operators = np.where(rng.random(shape) < abs(tilt), extreme, operators)
            end = 1 if tilt > 0 else most
            depths = np.where(rng.random(depths.shape) < abs(tilt), end, depths)
        return np.where(self._kept(depths), operators, -1)

    def _random_targets(self, rng: np.random.Generator, operators: Array) -> Array:
        """Inner widths in channels, uniform among those that there are."""
        tops = self.costs.tops[self.rows, operators]
        widths = (rng.random(operators.shape) * (tops + 1)).astype(int)
        return self.costs.hidden[self.rows, operators, widths]


def _stacked(shapes: Sequence[Shape]) -> tuple[Array, Array]:
    return np.stack([s.operators for s in shapes]), np.stack([s.widths for s in shapes])


def _fairly(rng: np.random.Generator, candidates: Array, count: int) -> Array:
    """Candidates in random orders, one order after the other, -1 where there are none."""
    if not len(candidates):
        return np.full(count, -1)
    orders = [rng.permutation(candidates) for _ in range(-(-count // len(candidates)))]
    return np.concatenate(orders)[:count]


def _line_of_macs(
    layer: LayerSpace, operator: Operator, size: tuple[int, int]
) -> tuple[float, float]:
    """Multiply-accumulates of a block without and with each further channel of inner width."""
    widths = layer.widths_of(operator)
    least, most = (
        sum(kernel.macs for kernel in block_kernels(layer.block(operator, width), size))
        for width in (widths[0], widths[-1])
    )
    slope = (most - least) / max(widths[-1] - widths[0], 1)
    return least - slope * widths[0], slope
