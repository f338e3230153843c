"""What a space costs as arrays, and the one mechanism that brings networks to a latency.

All inner widths are multiplied by the one factor that fits, and then single layers are widened,
those first that are furthest behind that factor, a quarter beyond it at most unless the budget
would not be met. Milliseconds are a staircase over the inner width, so a width is always the
greatest of its price.
"""

from __future__ import annotations

import numpy as np

from prunet_det.search.costs import FILLED, SpaceCosts

Array = np.ndarray

_SAME_MS = 1e-9  # milliseconds that are none
_ROUND_OFF = 1e-12  # of a budget: what sums in another order may differ by
_FULL = 0.99  # of a budget: such a network stays as it is
_UNEVEN = 1.25  # of the common factor: up to where a layer is widened alone, or for one step
_HALVINGS = 18  # of the range of factors, which is about e^8 at most: to 1 in 30,000


class PriceArrays:
    """Milliseconds of a space's layers, operators and inner widths, padded to equal lengths.

    Operators and widths are indices, (networks, layers): into `LayerSpace.operators`, -1 where the
    layer is left out, and into `LayerSpace.widths_of`. The last operator of the arrays is the layer
    left out, which costs nothing.

    Args:
        costs: Prices of the space.

    Attributes:
        fixed_ms: Milliseconds of what all networks have.
        ms, hidden: Milliseconds and channels, (layers, operators + 1, widths).
        tops: The greatest width index, (layers, operators + 1).
        ends: Prices of the narrowest and of the widest block, (layers, operators) each.
    """

    def __init__(self, costs: SpaceCosts) -> None:
        layers, self.fixed_ms = costs.space.layers, costs.fixed_ms
        most = max(len(layer.operators) for layer in layers)
        widest = max(len(layer.widths_of(o)) for layer in layers for o in layer.operators)
        size = (len(layers), most + 1, widest)
        self.ms, self.hidden = np.zeros(size), np.zeros(size)
        self.tops = np.zeros(size[:2], int)
        self._edges = np.zeros(size, int)  # the greatest width index of the same price
        self._wider = np.zeros(size, int)  # the next one: that, or the greatest of the next price
        for i, layer in enumerate(layers):
            for j, operator in enumerate(layer.operators):
                widths, ms = layer.widths_of(operator), costs.operator_ms(i, operator)
                self.tops[i, j] = top = len(widths) - 1
                self.ms[i, j] = np.pad(ms, (0, widest - 1 - top), "edge")
                self.hidden[i, j] = np.pad(widths, (0, widest - 1 - top), "edge")
                affordable = ms[None, :] <= ms[:, None] + _SAME_MS
                edges = top - affordable[:, ::-1].argmax(1)
                beyond = edges[np.minimum(edges + 1, top)]
                self._edges[i, j, : top + 1] = edges
                self._wider[i, j, : top + 1] = np.where(edges > np.arange(top + 1), edges, beyond)
        self._first = self.hidden[..., 0]  # widths are multiples of a step
        self._step = np.maximum(self.hidden[..., min(1, widest - 1)] - self._first, 1.0)
        self.rows = np.arange(len(layers))
        narrowest = np.take_along_axis(self.ms, self._edges[..., :1], 2)
        widest_ms = np.take_along_axis(self.ms, self.tops[..., None], 2)
        self.ends = narrowest[:, :-1, 0], widest_ms[:, :-1, 0]

    def starts(self, operators: Array) -> Array:
        """Where an operator's widths begin in the flat arrays over all of them."""
        _, candidates, widths = self.ms.shape
        return (self.rows * candidates + operators % candidates) * widths

    def total(self, starts: Array, widths: Array) -> Array:
        """Milliseconds; summed one by one, as `SpaceCosts.network_ms` does."""
        return self.fixed_ms + self.ms.take(starts + widths).cumsum(-1)[..., -1]

    def range(self, operators: Array) -> tuple[Array, Array]:
        """Least and greatest milliseconds of networks over their widths, (networks,)."""
        starts = self.starts(operators)
        ends = (self._edges.take(starts), self.tops[self.rows, operators])
        low, high = (self.total(starts, widths) for widths in ends)
        return low, high

    def fit(
        self, operators: Array, targets: Array, limits: Array, widths: Array | None = None
    ) -> tuple[Array, Array]:
        """Scales inner widths by one factor each network, then widens layer by layer.

        Args:
            operators: Operators, -1 where the layer is left out.
            targets: Inner widths in channels that say how the layers relate.
            limits: Milliseconds of each network.
            widths: Width indices of the targets, which stay where they spend 0.99 of the limits.

        Returns:
            Width indices, and milliseconds, which lie above the limits where even the narrowest do.
        """
        starts, tops = self.starts(operators), self.tops[self.rows, operators]
        first, step = self._first[self.rows, operators], self._step[self.rows, operators]
        targets = np.maximum(targets, 1.0)
        limits = limits * (1 - _ROUND_OFF)

        def at(log_factors: Array) -> Array:
            wanted = (np.exp(log_factors)[:, None] * targets - first) / step
            near = np.clip(np.rint(wanted), 0, tops).astype(int)
            return self._edges.take(starts + near)

        free = tops > 0
        low = np.log(np.where(free, first / targets, 1.0).min(1))
        high = np.log(np.where(free, (first + step * tops) / targets, 1.0).max(1))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self.total(starts, at(middle)) <= limits
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        scaled = at(low)
        even = at(low + np.log(_UNEVEN))
        roofs = np.maximum(even, self._wider.take(starts + scaled))
        scaled = self._fill(scaled, starts, roofs, targets, limits)
        short = self.total(starts, scaled) < FILLED * limits
        rest = (scaled[short], starts[short], tops[short], targets[short], limits[short])
        scaled[short] = self._fill(*rest)
        if widths is not None:
            before = self.total(starts, widths)
            full = (_FULL * limits <= before) & (before <= limits)
            scaled = np.where(full[:, None], widths, scaled)
        return scaled, self.total(starts, scaled)

    def _fill(
        self, widths: Array, starts: Array, tops: Array, targets: Array, limits: Array
    ) -> Array:
        """Widens layers: of the steps that fit, the one to the lowest multiple of its target."""
        widths, rows = widths.copy(), np.arange(len(widths))
        while len(rows):
            now, start = widths[rows], starts[rows]
            wider = np.minimum(self._wider.take(start + now), tops[rows])
            adds = self.ms.take(start + wider) - self.ms.take(start + now)
            fits = self.total(start, now)[:, None] + adds <= limits[rows, None]
            fits &= wider > now
            reached = self.hidden.take(start + wider) / targets[rows]
            layer, goes_on = np.where(fits, reached, np.inf).argmin(1), fits.any(1)
            rows, layer = rows[goes_on], layer[goes_on]
            widths[rows, layer] = wider[goes_on, layer]
        return widths
