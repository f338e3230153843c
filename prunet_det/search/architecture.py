"""What a search prefers for one budget: candidates, widths and depths, learned from whole networks.

In every step some networks are drawn, each layer's candidate, which of its Prunode's two widths,
and where the stages end, and every one of them is scaled onto the budget before the supernet says
how good it is. So nothing is ever judged at another latency: what a layer costs is what it takes
from the widths of the others.

Preferences learn by the score function: the gain of a draw times the derivative of its logarithmic
probability. Of a draw's gain, what a linear model of earlier draws explains by the *other* choices
is taken off first, which takes most of the noise away. It changes no expectation as far as choices
are independent. They nearly are: draws that do not scale onto the budget are thrown away, and where
most of them do not, some choices are not drawn but are a layer's cheapest or dearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from prunet_det.search.costs import FILLED, BudgetError
from prunet_det.search.gains import Gains, Prunodes
from prunet_det.search.schedule import Tiers, WidthRule
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape

Array = np.ndarray

_PURPOSE = 3  # of the random numbers, beside those of other parts of a search
_TRIES = 8
_MOST_LOGIT = 4.0
_ASKED, _FITTING = 48, 0.15  # draws that say whether a change leaves enough that meets the budget
_ALL_LAYERS = 0.8  # of a budget: what the narrowest network of all layers may cost at most
# What a state is made of, beside Prunodes and gains.
_ARRAYS, _NUMBERS = ("live", "logits", "gates", "gated", "gone"), ("entered", "progress")


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """A network that was drawn, and how. Arrays have an entry a layer.

    Attributes:
        shape: The network on the budget; where layers are left out, its operators are -1.
        wide: Whether the wider one of the Prunode's widths was drawn.
        asked: Whether it was drawn if the stage ends before the layer.
    """

    shape: Shape
    wide: Array
    asked: Array


class Architecture:
    """Preferences for one budget. Arrays are (layers, most operators of a layer), or (layers,).

    Args:
        shapes: Shapes of the space.
        budget_ms: What every network costs at most, and 0.97 of it at least.
        tiers: What is pruned and when.
        rule: How Prunodes move.
        seed: Seed of the draws.
        name: Name in records; the budget by default.

    Attributes:
        budget_ms, tiers, rule, name: The same.
        input_size: Side of the images that the budget is for, in pixels.
        live: Candidates that have not left.
        logits: Preferences over them.
        nodes: Prunodes.
        gains: What draws say of their choices.
        gates: Log-odds of every layer's skip.
        gated: Layers that may be skipped at the moment.
        gone: Layers that have left.

    Raises:
        BudgetError: No network of the space meets the budget.
    """

    def __init__(
        self,
        shapes: Shapes,
        budget_ms: float,
        tiers: Tiers | None = None,
        rule: WidthRule | None = None,
        seed: int = 0,
        name: str = "",
    ) -> None:
        self.shapes, self.space, self.budget_ms = shapes, shapes.space, budget_ms
        self.name, self.input_size = name or f"{budget_ms:g}", shapes.costs.input_size
        self.tiers, self.rule, self.seed = tiers or Tiers(), rule or WidthRule(), seed
        size, layers = shapes.counts.shape, len(shapes.rows)
        self.live: Array = shapes.counts > 0
        self.logits: Array = np.zeros(size)
        self.nodes = Prunodes.start(size)
        self.gates: Array = np.zeros(layers)
        self.gated: Array = np.zeros(layers, bool)
        self.gone: Array = np.zeros(layers, bool)
        self.entered = False  # whether skips have
        self.progress = 0.0
        self.gains = Gains(*size)
        self._rows, self._stages, self._in_chs = shapes.rows, shapes.stages, shapes.in_chs
        self._skippable = np.array([layer.skippable for layer in self.space.layers])
        self._has_widths = shapes.counts > 1
        self._least, self._most = shapes.costs.ends
        # Layers of a network with half of the skippable ones.
        self._half = shapes.places <= np.array(self.space.depths)[self._stages] // 2
        shapes.draw(np.random.default_rng(seed), budget_ms, 1)
        narrow, fixed = np.where(self.live, self._least, np.nan), shapes.costs.fixed_ms
        if self.tiers.layers:  # at once, if hardly a network of all layers meets the budget
            if fixed + np.nanmean(narrow, 1).sum() > _ALL_LAYERS * budget_ms:
                self._enter()
        elif fixed + np.nanmin(narrow, 1).sum() > FILLED * budget_ms:
            raise BudgetError(
                f"{budget_ms:g} ms: with all of its layers no network meets the budget; search "
                "with tier 3 (layers)."
            )

    def restrict(self, left: Array) -> None:
        """Leaves only candidates that a supernet still has, before the first step.

        Args:
            left: Candidates, bool (layers, operators); a layer without any is gone.

        Raises:
            BudgetError: If no network of them meets the budget.
        """
        empty = np.logical_not(left.any(1))
        self.gone = empty | self._behind(empty)
        self.live = np.where(self.gone[:, None], self.live, self.live & left)
        self.gated &= ~self.gone
        self.shapes.draw(np.random.default_rng(self.seed), self.budget_ms, 1, self.left)

    @property
    def left(self) -> Array:
        """Candidates that have not left, of the layers that have not."""
        return self.live & ~self.gone[:, None]

    def probabilities(self) -> Array:
        """Of every candidate in its layer; 0 where it has left."""
        return softmax(np.where(self.live, self.logits, -np.inf), axis=1)

    def skips(self) -> Array:
        """Probability that a stage that came so far ends before a layer; 1 where it is gone."""
        asked = np.where(self.gated, 1 / (1 + np.exp(-self.gates)), 0.0)
        return np.where(self.gone, 1.0, asked)

    def shape(self) -> Shape:
        """The likeliest network, on the budget.

        Where it does not meet the budget, the likeliest one of some draws that do.
        """
        fires = self.skips() > 0.5
        ended = fires | self._behind(fires)
        operators = np.where(ended, -1, self._extreme(self.logits))
        targets = self._in_chs * np.exp(self.nodes.centre[self._rows, operators])
        found = self.shapes.fitted(operators[None], targets[None], self.budget_ms)[0]
        return found or max(self.sample(-1, 64), key=self._log_probability).shape

    def sample(self, step: int, count: int) -> list[Draw]:
        """Draws networks, each scaled onto the budget; what cannot be scaled is drawn anew.

        Args:
            step: Number of the step, which alone, with the seed and the budget, gives the numbers.
            count: How many.

        Raises:
            BudgetError: What is left does not meet the budget.
        """
        numbers = (self.seed, _PURPOSE, round(self.budget_ms * 1e6), step + 1)
        rng, found = np.random.default_rng(numbers), list[Draw]()
        for attempt in range(_TRIES):
            found += self._draws(rng, 2**attempt * 2 * count, attempt / (_TRIES - 1))
            if len(found) >= count:
                return found[:count]
        raise BudgetError(
            f"{self.budget_ms:g} ms: of the candidates and layers that are left, no network meets "
            "the budget; search it without others that are far from it, or use a smaller "
            "hidden_step."
        )

    def _draws(self, rng: np.random.Generator, count: int, tilt: float) -> list[Draw]:
        """Those of some draws that meet the budget.

        Args:
            rng: Source of all randomness.
            count: Number of draws.
            tilt: Share of the choices that are a layer's cheapest or dearest, in shares that differ
                from draw to draw: where preferred networks do not fit, some of these do.
        """
        cumulative = self.probabilities().cumsum(1)
        u = rng.random((5, count, len(self._rows)))
        tilted, dear = u[3] < tilt, u[4] < rng.random((count, 1))
        extremes = np.where(dear, self._extreme(self._most), self._extreme(-self._least))
        chosen = (u[0][..., None] * cumulative[:, -1:] >= cumulative).sum(-1)
        chosen = np.where(tilted, extremes, chosen)
        wide = (u[1] < self.nodes.wide()[self._rows, chosen]) & self.tiers.widths
        fires = np.where(tilted & self.gated, ~dear, u[2] < self.skips())
        behind = self._behind(fires)
        operators = np.where(fires | behind, -1, chosen)
        positions = self.nodes.centre[self._rows, chosen]
        if self.tiers.widths:
            gap = self.rule.half_gap(self.progress)
            positions = positions + gap * np.where(wide, 1.0, -1.0)
        fitted = self.shapes.fitted(operators, self._in_chs * np.exp(positions), self.budget_ms)
        return [
            Draw(shape=shape, wide=w, asked=a)
            for shape, w, a in zip(fitted, wide, self.gated & ~behind, strict=True)
            if shape is not None
        ]

    def _behind(self, fires: Array) -> Array:
        """Whether a layer before one in its stage fires, (..., layers)."""
        before = fires.cumsum(-1) - fires
        return before > before[..., self._rows - self.shapes.places]

    def _extreme(self, values: Array) -> Array:
        """The live candidate of each layer that has the greatest value."""
        return np.where(self.live, values, -np.inf).argmax(1)

    def _log_probability(self, draw: Draw) -> float:
        p, q, kept = self.probabilities(), self.skips(), draw.shape.operators >= 0
        chosen = np.where(kept, p[self._rows, draw.shape.operators], 1.0)
        ended = np.where(draw.asked, np.where(kept, 1 - q, q), 1.0)
        return float(np.log(np.maximum(chosen * ended, 1e-300)).sum())

    def step(
        self, draws: Sequence[Draw], losses: Sequence[float] | Array, progress: float
    ) -> list[str]:
        """Learns from draws; widths move, candidates and layers leave.

        Args:
            draws: As `sample` gave them, two at least.
            losses: The supernet's losses of their networks, on the same images.
            progress: Progress of the tiers, 0..1.

        Returns:
            What happened, in sentences.
        """
        self.progress = progress
        self._learn(draws, np.asarray(losses, float))
        events = self._prune_candidates() if self.tiers.candidates else []
        return events + (self._prune_layers() if self.tiers.layers else [])

    def _learn(self, draws: Sequence[Draw], losses: Array) -> None:
        operators = np.stack([draw.shape.operators for draw in draws])
        wide = np.stack([draw.wide for draw in draws])
        asked = np.stack([draw.asked for draw in draws])
        kept = operators >= 0
        one_hot = (operators[..., None] == np.arange(self.live.shape[1])).astype(float)
        candidates, widths, layers, rest = self.gains.split(one_hot, wide, kept, losses)
        # Candidates: the rest of the gain and the choice's own part of it.
        own = kept * (rest[:, None] + candidates)
        p = self.probabilities()
        gradient = (own[..., None] * (one_hot - p)).mean(0)  # 0 of what has left
        self.logits = self.logits + self.tiers.rate * gradient
        # Skips: all that lies in the layer's stage may come from where the stage ends.
        stages = np.arange(len(self.space.depths))[:, None] == self._stages
        of_stage = (candidates + widths + layers) @ stages.T
        own = asked * (rest[:, None] + of_stage[:, self._stages])
        gradient = (own * (~kept - self.skips())).mean(0)
        gates = self.gates + self.tiers.skip_rate * gradient
        self.gates = np.clip(gates, -_MOST_LOGIT, _MOST_LOGIT)
        if self.tiers.widths:
            likely = self.nodes.wide()[self._rows, operators]
            each = (wide - likely) / (likely * (1 - likely)) * (rest[:, None] + widths)
            paths = one_hot * self._has_widths
            gains = paths * each[..., None]
            sums = paths.sum(0), gains.sum(0), (gains**2).sum(0)
            self.nodes.move(*sums, at=self.progress, rule=self.rule)

    def _range(self, live: Array, gone: Array, gated: Array) -> tuple[float, float, float]:
        """Least and greatest milliseconds, and the greatest with half of the skippable layers."""
        least = np.where(live, self._least, np.inf).min(1)
        most = np.where(live, self._most, -np.inf).max(1)
        fixed, here = self.shapes.costs.fixed_ms, ~gone
        stays = here & ~gated & (~self._skippable | self.entered | (not self.tiers.layers))
        half = here & (stays | self._half)
        return (
            fixed + float(least[stays].sum()),
            fixed + float(most[here].sum()),
            fixed + float(most[half].sum()),
        )

    def _change(self, live: Array, gone: Array, gated: Array) -> bool:
        """Makes a change, if what is left can still spend the budget and still meets it.

        Milliseconds are a staircase: few layers may meet no budget but those of their steps, which
        only draws tell.
        """
        low, high, half = self._range(live, gone, gated)
        low_now, _, half_now = self._range(self.live, self.gone, self.gated)
        ms = self.budget_ms
        if low > max(FILLED * ms, low_now) or high < ms or half < min(ms, half_now):
            return False
        before = self.live, self.gone, self.gated
        self.live, self.gone, self.gated = live, gone, gated
        rng = np.random.default_rng((self.seed, _PURPOSE))
        if len(self._draws(rng, _ASKED, 0.0)) >= _FITTING * _ASKED:
            return True
        self.live, self.gone, self.gated = before
        return False

    def _prune_candidates(self) -> list[str]:
        events, p = list[str](), self.probabilities()
        threshold = self.tiers.candidate_threshold(self.progress)
        for i, layer in enumerate(self.space.layers):
            if self.gone[i] or self.live[i].sum() < 2:
                continue
            for j in np.argsort(np.where(self.live[i], p[i], np.inf), kind="stable"):
                if not self.live[i, j] or p[i, j] >= threshold or self.live[i].sum() < 2:
                    break
                live = self.live.copy()
                live[i, j] = False
                if self._change(live, self.gone, self.gated):
                    events.append(f"layer {layer.name} loses {layer.operators[j]} at {p[i, j]:.2f}")
                    break  # one a layer and step, the least likely that may
        return events

    def _prune_layers(self) -> list[str]:
        tiers, progress, events = self.tiers, self.progress, list[str]()
        if progress < tiers.skip_enters:
            return events
        if not self.entered:
            self._enter()
            events.append("skips enter")
        q = np.where(self.gated, self.skips(), 0.0)
        likeliest = int(np.argmax(q))  # one at a time: the others' widths have changed then
        if q[likeliest] > tiers.skip_threshold(progress):
            events += self._leave(likeliest, q[likeliest])
        if progress >= tiers.skip_end and self.gated.any():
            events += self._settle(q)
        return events

    def _enter(self) -> None:
        self.entered, self.gated = True, self._skippable & ~self.gone
        self.gates[:] = np.log(self.tiers.skip_start / (1 - self.tiers.skip_start))

    def _leave(self, layer: int, probability: float) -> list[str]:
        """Lets a layer and those behind it in its stage leave, if what is left can do without."""
        behind = (self._stages == self._stages[layer]) & (self._rows >= layer) & ~self.gone
        gone, gated = self.gone | behind, self.gated & ~behind
        if not self._change(self.live, gone, gated):
            return []
        names = [self.space.layers[i].name for i in np.flatnonzero(behind)]
        return [f"layer {name} is skipped at {probability:.2f}" for name in names]

    def _settle(self, q: Array) -> list[str]:
        """The end of tier 3: layers stay, but for those without which only the budget is met."""
        events = list[str]()
        for i in np.argsort(-q, kind="stable"):
            stay = np.flatnonzero(self.gated)
            if self._change(self.live, self.gone, np.zeros_like(self.gated)):
                return [*events, *(f"layer {self.space.layers[k].name} stays" for k in stay)]
            if self.gated[i]:
                events += self._leave(int(i), float(q[i]))
        return events  # depths stay open, as long as one depth alone does not meet the budget

    def record(self) -> dict[str, Any]:
        """What is preferred now, as JSON values, for plots.

        Returns:
            `probabilities` of the candidates, (layers, most operators of a layer), 0 where one has
            left; `skips`, (layers,), 1 where a layer is gone; `pairs`, (layers, 2), both inner
            widths, in channels, of the likeliest network's Prunodes, 0 where there are none.
        """
        hidden = np.array(self.shapes.hidden(self.shape()))[:, None]
        gap = self.rule.half_gap(self.progress) if self.tiers.widths else 0.0
        pairs = np.rint(hidden * np.exp([-gap, gap])).astype(int)
        return {
            "probabilities": self.probabilities().round(4).tolist(),
            "skips": self.skips().round(4).tolist(),
            "pairs": pairs.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; exact."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**arrays, **numbers, "nodes": self.nodes.to_dict(), **self.gains.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From what `state_dict` gave, of the same space and tiers."""
        for name in _ARRAYS:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype))
        self.nodes = Prunodes.from_dict(state["nodes"])
        self.gains.load_state_dict(state)
        for name in _NUMBERS:
            setattr(self, name, state[name])
