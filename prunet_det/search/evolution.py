"""Choosers beside the tiers: evolution on a score, the most work, a surrogate of a few trainings.

All move through networks that have been scaled onto the budget, so that nothing is judged by the
latency that it spends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape

# Losses of networks, the lower the better; NaN where there is none. Called with many at once.
Score = Callable[[Sequence[Shape]], Sequence[float] | np.ndarray]

_POPULATION = 24  # the best networks so far, which have children
_CHILDREN = 16  # scored at once
_TOURNAMENT = 3  # of the population, its best has the child
_WIDTH_CHANGE = 0.5  # standard deviation of the logarithm of a width's factor
_TRIES = 10  # batches of children that are made, at most, until enough of them are new
# Of the search for the most work: random networks, evaluations.
_DRAWN, _EVOLVED = 2000, 1500


@dataclass(frozen=True)
class Scored:
    """A network and its loss."""

    shape: Shape
    loss: float


@dataclass(frozen=True, kw_only=True)
class Region:
    """Networks of a space that may be chosen.

    Attributes:
        shapes: Shapes of the space.
        ms: Milliseconds that all are scaled onto.
        live: As of `Shapes`; a supernet whose candidates have left scores no others.
    """

    shapes: Shapes
    ms: float
    live: np.ndarray | None = None

    def draw(self, rng: np.random.Generator, count: int) -> list[Shape]:
        """Random ones; see `Shapes.draw`."""
        return self.shapes.draw(rng, self.ms, count, self.live)

    def scaled(self, many: Sequence[Shape]) -> list[Shape]:
        """Those that scale onto the budget, without repetitions."""
        fitted = self.shapes.scale_all(many, self.ms) if many else []
        return [*dict.fromkeys(filter(None, fitted))]

    def mutated(self, rng: np.random.Generator, shape: Shape) -> Shape:
        """The network with one or two changes of operators, depths and widths, not yet scaled."""
        operators, widths = shape.operators.copy(), shape.widths.copy()
        for _ in range(rng.integers(1, 2, endpoint=True)):
            change = ("operator", "depth", "width")[rng.integers(3)]
            if change == "depth":
                self._change_depth(rng, operators, widths)
            else:
                layer = rng.choice(np.flatnonzero(operators >= 0))
                if change == "operator":
                    operators[layer] = rng.choice(self._candidates(layer))
                else:
                    factor = np.exp(rng.normal(0, _WIDTH_CHANGE))
                    widths[layer] = round((widths[layer] + 1) * factor - 1)
            tops = self.shapes.counts[self.shapes.rows, operators] - 1
            widths = np.clip(widths, 0, np.where(operators < 0, 0, tops))
        return Shape(operators, widths)

    def _change_depth(
        self, rng: np.random.Generator, operators: np.ndarray, widths: np.ndarray
    ) -> None:
        """A stage loses its last layer, or gains one that is as wide as the one before it."""
        layers = self.shapes.space.layers
        own = np.flatnonzero(self.shapes.stages == rng.integers(len(self.shapes.space.depths)))
        last = own[operators[own] >= 0][-1]
        if rng.random() < 0.5:
            if layers[last].skippable:
                operators[last] = -1
        elif last < own[-1] and len(candidates := self._candidates(last + 1)):
            operators[last + 1], widths[last + 1] = rng.choice(candidates), widths[last]

    def _candidates(self, layer: int) -> np.ndarray:
        there = self.shapes.counts[layer] > 0
        return np.flatnonzero(there if self.live is None else there & self.live[layer])


def evolve(
    region: Region, score: Score, seed: int, evaluations: int = 150, start: Sequence[Shape] = ()
) -> list[Scored]:
    """Searches by mutations of operators, depths and widths.

    The best networks so far are kept, for the score is thought to give the same loss twice; the
    child of the best of a few random ones among them has one or two mutations.

    Args:
        region: What may be chosen.
        score: What is to be minimised; NaN counts as infinite.
        seed: Seed of everything random.
        evaluations: Networks that are scored.
        start: Networks to begin with, beside random ones; what does not scale onto the budget is
            left out.

    Returns:
        All that were scored, each once, the best first.

    Raises:
        BudgetError: No network meets the budget.
    """
    rng = np.random.default_rng(seed)
    first = region.scaled(start)
    first += region.draw(rng, max(1, min(_POPULATION, evaluations) - len(first)))
    found: dict[Shape, float] = {}
    children = [*dict.fromkeys(first)][:evaluations]
    while children:
        losses = np.nan_to_num(np.asarray(score(children), float), nan=np.inf)
        found.update(zip(children, losses.tolist(), strict=True))
        population = sorted(found, key=found.__getitem__)[:_POPULATION]
        children = _children(region, rng, population, found)[: evaluations - len(found)]
    return [Scored(shape, found[shape]) for shape in sorted(found, key=found.__getitem__)]


def _children(
    region: Region,
    rng: np.random.Generator,
    population: Sequence[Shape],
    known: Collection[Shape],
) -> list[Shape]:
    """New networks; fewer, or none, where there are hardly any others."""
    new: dict[Shape, None] = {}
    for _ in range(_TRIES):
        parents = rng.integers(len(population), size=(_CHILDREN, _TOURNAMENT)).min(1)
        made = region.scaled([region.mutated(rng, population[parent]) for parent in parents])
        new |= dict.fromkeys(shape for shape in made if shape not in known)
        if len(new) >= _CHILDREN:
            break
    return [*new][:_CHILDREN]


def most_macs(region: Region, seed: int) -> Shape:
    """The network of the most multiply-accumulates, as far as evolution finds it.

    Args:
        region: What may be chosen.
        seed: Seed of everything random.

    Raises:
        BudgetError: No network meets the budget.
    """
    start = region.draw(np.random.default_rng(seed), _DRAWN)
    macs = region.shapes.macs(start)
    start = [start[i] for i in np.argsort(-macs, kind="stable")[:_POPULATION]]
    found = evolve(region, lambda many: -region.shapes.macs(many), seed, _EVOLVED, start)
    return found[0].shape


def ridge(
    features: np.ndarray, losses: np.ndarray, asked: np.ndarray, penalty: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """A ridge regression of losses on features that cost nothing, told by a few trainings.

    On twenty random networks a Gaussian process predicted no better, and the number of layers added
    nothing to the other features.

    Args:
        features: Features of the trained networks, (trained, features).
        losses: Their losses, (trained,).
        asked: Features of other networks, (networks, features).
        penalty: Strength of the ridge, in networks: how many there must be until the features are
            trusted by half.

    Returns:
        Expected losses of the others and their standard errors, (networks,) each.
    """
    spread = features.std(0)
    spread = np.where(spread > 1e-9, spread, np.inf)  # constant: no opinion
    z, there = ((f - features.mean(0)) / spread for f in (features, asked))
    level = losses.mean()
    inverse = np.linalg.inv(z.T @ z + penalty * np.eye(z.shape[1]))
    weights = inverse @ z.T @ (losses - level)
    residual = losses - level - z @ weights
    noise = float(np.sqrt(np.mean(residual**2)))
    error = np.sqrt(np.einsum("ij,jk,ik->i", there, inverse, there))
    return level + there @ weights, noise * error


def propose(
    region: Region,
    trained: Sequence[Scored],
    seed: int,
    count: int = 3,
    drawn: int = 20_000,
) -> list[Shape]:
    """The networks that a surrogate of trainings thinks best among many random ones.

    Args:
        region: What may be chosen.
        trained: At least one network, with its loss after a training, infinite where that diverged;
            none is proposed again.
        seed: Seed of the draws.
        count: Networks that are proposed; any two differ in the operators of two layers at least.
        drawn: Random networks to choose from.

    Returns:
        The best first; fewer than `count` where there are no others.

    Raises:
        BudgetError: No network meets the budget.
    """
    shapes, known = region.shapes, [scored.shape for scored in trained]
    losses = np.array([scored.loss for scored in trained])
    finite = losses[np.isfinite(losses)]
    losses = np.where(np.isfinite(losses), losses, finite.max(initial=0.0))
    pool = dict.fromkeys(region.draw(np.random.default_rng(seed), drawn))
    left = [shape for shape in pool if shape not in set(known)]
    if not left:
        return []
    expected, error = ridge(shapes.features(known), losses, shapes.features(left))
    chosen: list[Shape] = []
    for i in np.argsort(expected + error, kind="stable"):  # what is unlike all is not trusted
        if all((left[i].operators != other.operators).sum() >= 2 for other in chosen):
            chosen.append(left[i])
        if len(chosen) == count:
            break
    return chosen
