"""The architecture's own weights: what the search prefers, on the host, as flat arrays.

They are few and their rules are sequential, so they live in NumPy; the device only sees a copy of
the logits, from which it mixes, and returns one vector of gradients a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from prunet_det.search.costs import SpaceCosts
from prunet_det.search.layer import SKIP, LayerMixture, Part
from prunet_det.search.motion import MotionRule, Prunodes, move, smoothed
from prunet_det.search.old_supernet import Structure
from prunet_det.search.space import Network, Operator
from prunet_det.search.tiers import Tiers

_RMS_DECAY = 0.99
_SMOOTH = 0.8
_STEP_LIMIT = 3.0
_SPENT = 0.98  # of the budget: below it no layer leaves
_MOST_SHIFT = 1.0  # steps of a width at once, of the projection onto the budget
_SKIP_START = -1.5  # a skip that entered at 0 would halve all layers at once


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass
class _Scale:
    """Root mean square of a group's gradients, as a running mean."""

    square: float = 0.0
    updates: int = 0

    def take(self, gradient: np.ndarray) -> float:
        if len(gradient):
            self.square = _RMS_DECAY * self.square + (1 - _RMS_DECAY) * float(np.mean(gradient**2))
            self.updates += 1
        return (self.square / max(1 - _RMS_DECAY**self.updates, 1e-12)) ** 0.5


class Architecture:
    """Preferences over candidates, widths and layers of a space.

    Args:
        costs: Of the space.
        tiers: What is pruned and when.
        rule: Of the Prunodes' motion.
        expansion: Inner width at which all Prunodes start, in times the layer's input; None starts
            them in the middle of their ranges.
    """

    def __init__(
        self,
        costs: SpaceCosts,
        tiers: Tiers | None = None,
        rule: MotionRule | None = None,
        expansion: float | None = None,
    ) -> None:
        self.costs, self.space = costs, costs.space
        self.tiers, self.rule = tiers or Tiers(), rule or MotionRule()
        self.operators: list[Operator | None] = []
        self.keys: list[str] = []
        owners, tables, centres = [], [], []
        for i, layer in enumerate(self.space.layers):
            own: list[Operator | None] = list(layer.operators)
            if self.tiers.skip_from_start and layer.skippable:
                own.append(None)
            for j, operator in enumerate(own):
                owners.append(i)
                self.operators.append(operator)
                self.keys.append(str(j) if operator else SKIP)
                tables.append(self._prices(i, operator))
                wanted = (expansion or 0) * layer.in_chs
                widths = layer.widths_of(operator) if operator else (0,)
                centres.append(float(np.abs(np.array(widths) - wanted).argmin()))
        self.layer_of: np.ndarray = np.array(owners)
        count, layers = len(owners), len(self.space.layers)
        top = np.array([len(t) - 1 for t in tables], float)
        self.steps = np.array(
            [
                np.diff(self.space.layers[i].widths[:2]).sum() if o and o.has_hidden else 0
                for i, o in zip(owners, self.operators, strict=True)
            ]
        )
        # Prices as one array, so that a step looks all of them up at once.
        self.prices = np.full((count, int(top.max()) + 1), np.inf)
        for row, table in zip(self.prices, tables, strict=True):
            row[: len(table)] = table
        self.nodes = Prunodes.start(top, np.array(centres) if expansion else None)
        self.live: np.ndarray = np.ones(count, bool)
        self.logits: np.ndarray = np.zeros(count)
        self.means: np.ndarray = np.zeros(count)
        self.gates: np.ndarray = np.full(layers, _SKIP_START)
        self.gate_means: np.ndarray = np.zeros(layers)
        self.gated: np.ndarray = np.zeros(layers, bool)
        self.gone: np.ndarray = np.zeros(layers, bool)
        # What one more inner channel is worth: running means of the loss that the larger path
        # saves, and of the channels by which it is larger.
        self.saved: np.ndarray = np.zeros(count)
        self.wider: np.ndarray = np.zeros(count)
        self.skips_entered = False
        self.scales = {name: _Scale() for name in ("candidates", "widths", "gates")}

    def _prices(self, layer: int, operator: Operator | None) -> np.ndarray:
        if operator is None:
            return np.zeros(1)
        space = self.space.layers[layer]
        blocks = [space.block(operator, w) for w in space.widths_of(operator)]
        return np.array([self.costs.layer_ms(layer, block) for block in blocks])

    # What it is now.

    def probabilities(self) -> np.ndarray:
        """Of every candidate in its layer, without Gumbel noise; 0 where it has left."""
        weights = np.where(self.live, np.exp(self.logits - self.logits.max()), 0.0)
        totals = np.bincount(self.layer_of, weights, len(self.space.layers))
        return weights / np.maximum(totals[self.layer_of], 1e-300)

    def pairs(self, progress: float) -> tuple[np.ndarray, np.ndarray]:
        """Indices of every Prunode's two widths."""
        at = progress if self.tiers.widths else 0.0
        return self.nodes.pair(self.rule.half_gap(self.nodes.top, at))

    def skip_probabilities(self) -> np.ndarray:
        """Of every layer's skip: 0 where there is none, 1 where the layer is gone."""
        return np.where(self.gone, 1.0, np.where(self.gated, _sigmoid(self.gates), 0.0))

    def expected_ms(self, progress: float) -> tuple[float, np.ndarray]:
        """Expected latency, and its gradient by all logits in the order of `theta`."""
        w, p = self.probabilities(), _sigmoid(self.nodes.logit)
        keep = 1 - self.skip_probabilities()
        a, b = self.pairs(progress)
        rows = np.arange(len(w))
        small, large = self.prices[rows, a], self.prices[rows, b]
        mixed = (1 - p) * small + p * large
        layers = len(keep)
        means = np.bincount(self.layer_of, w * mixed, layers)
        own_keep = keep[self.layer_of]
        gradient = np.concatenate(
            [
                own_keep * w * (mixed - means[self.layer_of]),
                own_keep * w * (large - small) * p * (1 - p),
                np.where(self.gated, -means * keep * (1 - keep), 0.0),
            ]
        )
        return self.costs.fixed_ms + float((keep * means).sum()), gradient

    def preferred(self) -> list[int]:
        """Of every layer the likeliest candidate, as an index into the flat arrays."""
        w = self.probabilities()
        every = (np.flatnonzero(self.layer_of == i) for i in range(len(self.space.layers)))
        return [int(own[int(np.argmax(w[own]))]) for own in every]

    def network(self) -> Network:
        """The network that is preferred now."""
        answers, skips = self.nodes.answer(), self.skip_probabilities()
        network: list[Any] = []
        for i, (layer, best) in enumerate(zip(self.space.layers, self.preferred(), strict=True)):
            operator = self.operators[best]
            if operator is None or skips[i] > 0.5:
                network.append(None)
            else:
                width = layer.widths_of(operator)[int(answers[best])]
                network.append(layer.block(operator, width))
        return tuple(network)

    def worth(self) -> np.ndarray:
        """Loss that one more inner channel of each layer is thought to save."""
        return (self.saved / np.maximum(self.wider, 1e-9))[self.preferred()]

    def structure(self) -> Structure:
        """What a supernet has to hold: the live candidates at the widths that can be chosen."""
        reach = self.nodes.reach()
        found: Structure = []
        for i, layer in enumerate(self.space.layers):
            widths = {}
            for m in np.flatnonzero((self.layer_of == i) & self.live):
                operator = self.operators[m]
                if operator is not None:
                    widths[self.keys[m]] = layer.widths_of(operator)[int(reach[m])]
            found.append(None if self.gone[i] or not widths else widths)
        return found

    # A step on the device.

    def theta(self) -> np.ndarray:
        """All logits: candidates, Prunodes, skips."""
        return np.concatenate([self.logits, self.nodes.logit, self.gates]).astype(np.float32)

    def noise(self, generator: torch.Generator) -> np.ndarray:
        """Gumbel noise for the candidates and logistic noise, a difference of two, for the rest."""
        count, layers = len(self.logits), len(self.gates)
        uniform = torch.rand(count + count + layers, generator=generator, dtype=torch.float64)
        u = uniform.clamp(1e-9, 1 - 1e-9).numpy()
        gumbel, logistic = -np.log(-np.log(u[:count])), np.log(u[count:] / (1 - u[count:]))
        return np.concatenate([gumbel, logistic]).astype(np.float32)

    def mixtures(
        self, theta: torch.Tensor, noise: torch.Tensor, temperature: float, progress: float
    ) -> list[LayerMixture | None]:
        """What every layer is in one step.

        Args:
            theta: The logits on the device, through which gradients come back.
            noise: As `noise` gives, on the device.
            temperature: Of the Gumbel softmax.
            progress: Of the search.
        """
        count = len(self.logits)
        noisy = (theta + noise) / temperature
        each = noisy.unbind()  # indexing by a list would copy it to the device
        shares = torch.sigmoid(noisy[count : 2 * count])
        keeps = 1 - torch.sigmoid(noisy[2 * count :])
        a, b = self.pairs(progress)
        mixtures: list[LayerMixture | None] = []
        for i, layer in enumerate(self.space.layers):
            own = [int(m) for m in np.flatnonzero((self.layer_of == i) & self.live)]
            if self.gone[i] or all(self.operators[m] is None for m in own):
                mixtures.append(None)
                continue
            weights: Any = [None]
            if len(own) > 1:
                weights = torch.softmax(torch.stack([each[m] for m in own]), 0).unbind()
            parts = []
            for m, weight in zip(own, weights, strict=True):
                operator = self.operators[m]
                if operator is None:
                    parts.append(Part(SKIP, weight))
                    continue
                widths = layer.widths_of(operator)
                pair = (widths[a[m]], widths[b[m]])
                share = shares[m] if a[m] < b[m] else None
                parts.append(Part(self.keys[m], weight, pair, share))
            mixtures.append(LayerMixture(parts, keeps[i] if self.gated[i] else None))
        return mixtures

    # An update on the host.

    def project(self, excess_ms: float, progress: float) -> None:
        """Moves the Prunodes' centres towards the budget's surface, by the least squared change.

        The weight of the latency steers what is chosen; at the end, when little can move any more,
        this holds the expected latency where the weight has brought it.

        Args:
            excess_ms: Above the budget.
            progress: Of the search.
        """
        if progress < self.tiers.project_from or not self.tiers.widths:
            return
        a, b = self.pairs(progress)
        rows = np.arange(len(a))
        keep = (1 - self.skip_probabilities())[self.layer_of]
        rise = self.prices[rows, b] - self.prices[rows, a]
        slope = keep * self.probabilities() * rise / np.maximum(b - a, 1)
        square = float((slope**2).sum())
        if square > 0:
            shift = -self.tiers.project_gain * excess_ms * slope / square
            shift = np.clip(shift, -_MOST_SHIFT, _MOST_SHIFT)
            centre = np.clip(self.nodes.centre + shift, self.nodes.low, self.nodes.high)
            self.nodes = replace(self.nodes, centre=centre)

    def update(self, task: np.ndarray, latency: np.ndarray, weight: float, progress: float) -> None:
        """One step of all logits and of the Prunodes.

        Args:
            task: Gradient of the task's loss by `theta`.
            latency: Gradient of log(expected latency) by `theta`.
            weight: Of the latter.
            progress: Of the search.
        """
        count = len(self.logits)
        self._note_worth(np.asarray(task[count : 2 * count], float), progress)
        total = np.asarray(task, float) + weight * latency
        candidates, widths, gates = np.split(total, [count, 2 * count])
        w = self.probabilities()
        chosen = self.live & (w < 1)
        self.means = _SMOOTH * self.means + (1 - _SMOOTH) * candidates
        step = self._step("candidates", self.means, candidates, chosen)
        self.logits = np.where(chosen, self.logits - step, self.logits)
        self.gate_means = _SMOOTH * self.gate_means + (1 - _SMOOTH) * gates
        step = self._step("gates", self.gate_means, gates, self.gated)
        self.gates = np.where(self.gated, self.gates - step, self.gates)
        movable = self.live & (self.nodes.top > 0) & ~self.gone[self.layer_of]
        scale = self.scales["widths"].take(widths[movable])
        if self.tiers.widths:
            self.nodes = move(self.nodes, widths, scale, progress, self.rule)
        else:  # the logits learn, the pair stays
            mean = smoothed(self.nodes, widths, self.rule)
            still = move(self.nodes, widths, scale, 0.0, self.rule)
            self.nodes = replace(self.nodes, logit=still.logit, gradient=mean)

    def _step(
        self, group: str, means: np.ndarray, gradient: np.ndarray, chosen: np.ndarray
    ) -> np.ndarray:
        scale = self.scales[group].take(gradient[chosen])
        scaled = np.clip(means / max(scale, 1e-12), -_STEP_LIMIT, _STEP_LIMIT)
        return self.tiers.rate * scaled

    def _note_worth(self, task: np.ndarray, progress: float) -> None:
        p, w = _sigmoid(self.nodes.logit), self.probabilities()
        a, b = self.pairs(progress)
        channels = p * (1 - p) * w * (b - a) * self.steps
        self.saved = 0.95 * self.saved - 0.05 * task
        self.wider = 0.95 * self.wider + 0.05 * channels

    def prune(self, progress: float, budget_ms: float) -> list[str]:
        """Removes what has lost, and lets the skip enter; says what happened, in sentences.

        Args:
            progress: Of the search.
            budget_ms: Where the expected latency is below it no layer leaves, since what is left
                could not spend what it saves.
        """
        events = []
        if self.tiers.blocks:
            events += self._prune_blocks(progress)
        if self.tiers.layers and not self.tiers.skip_from_start:
            events += self._prune_layers(progress, budget_ms)
        return events

    def _prune_blocks(self, progress: float) -> list[str]:
        events = []
        w, threshold = self.probabilities(), self.tiers.block_threshold(progress)
        for i, layer in enumerate(self.space.layers):
            own = np.flatnonzero((self.layer_of == i) & self.live)
            if len(own) < 2 or self.gone[i]:
                continue
            least = own[int(np.argmin(w[own]))]
            if w[least] < threshold:  # one a layer at a time; never the last
                self.live[least] = False
                what = self.operators[least] or SKIP
                events.append(f"layer {layer.name} loses {what} at {w[least]:.2f}")
                left = [m for m in own if m != least]
                if len(left) == 1 and self.operators[left[0]] is None:
                    self.gone[i] = True
                    events.append(f"layer {layer.name} is skipped")
        return events

    def _prune_layers(self, progress: float, budget_ms: float) -> list[str]:
        events = []
        of_budget = self.expected_ms(progress)[0] / budget_ms
        tiers = self.tiers
        if progress >= tiers.skip_enters and not self.skips_entered:
            self.skips_entered = True
            self.gated = np.array([layer.skippable for layer in self.space.layers])
            events.append("skips enter")
        if progress >= tiers.skip_enters:
            q = np.where(self.gated, self.skip_probabilities(), 0.0)
            likeliest = int(np.argmax(q))  # one at a time: the expected latency has changed then
            if q[likeliest] > tiers.skip_threshold(progress) and of_budget > _SPENT:
                events.append(self._skip(likeliest, q[likeliest]))
            elif progress >= tiers.skip_end:
                # While even the least widths cost too much, the likeliest skip leaves.
                for i in np.argsort(-q, kind="stable"):
                    if self.gated[i] and self.least_ms() > _SPENT * budget_ms:
                        events.append(self._skip(int(i), q[i]))
                for i in np.flatnonzero(self.gated):
                    self.gated[i] = False
                    name = self.space.layers[i].name
                    events.append(f"layer {name} stays and loses its coefficient")
        return events

    def _skip(self, layer: int, probability: float) -> str:
        self.gone[layer], self.gated[layer] = True, False
        return f"layer {self.space.layers[layer].name} is skipped at {probability:.2f}"

    def least_ms(self) -> float:
        """Latency of the layers that are left with their likeliest candidates at least width."""
        rows = self.prices[self.preferred(), 0]
        return self.costs.fixed_ms + float(rows[~self.gone].sum())

    def counts(self) -> dict[str, int]:
        """What is left: layers, candidates, and inner widths to choose from."""
        here = self.live & ~self.gone[self.layer_of]
        reach = np.minimum(self.nodes.high, self.nodes.top) - np.maximum(self.nodes.low, 0)
        return {
            "layers": int((~self.gone).sum()),
            "candidates": int(here.sum()),
            "widths": int((np.round(reach[here]) + 1).sum()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; exact."""
        arrays = (
            "live",
            "logits",
            "means",
            "gates",
            "gate_means",
            "gated",
            "gone",
            "saved",
            "wider",
        )
        return {
            **{name: getattr(self, name).tolist() for name in arrays},
            "nodes": self.nodes.to_dict(),
            "skips_entered": self.skips_entered,
            "scales": {k: [s.square, s.updates] for k, s in self.scales.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From what `state_dict` gave, of the same space and tiers."""
        state = dict(state)
        self.nodes = Prunodes.from_dict(state.pop("nodes"))
        self.skips_entered = state.pop("skips_entered")
        self.scales = {k: _Scale(*v) for k, v in state.pop("scales").items()}
        for name, values in state.items():
            old = getattr(self, name)
            setattr(self, name, np.array(values, old.dtype))
