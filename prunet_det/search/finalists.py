"""The last tier: networks of several choosers meet in trainings from scratch that lengthen.

A supernet's weights, which all networks share, say little about what each would learn alone, and a
short training favours what starts quickly. So many networks are trained briefly and the better ones
of them longer (successive halving), all on the half of the data that trains weights and scored on
the other half. Two are trained longest however they start: the tiers' network, which the search
has led to, and the one with the most multiply-accumulates.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunet_det.search.evolution import Region, Scored, most_macs
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.search.trainings import Score, Training, Trainings
from prunet_det.training.divergence import DivergedError
from prunet_det.training.short_run import ShortRecipe, short_run
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import digest
from prunet_det.utils.runs import Run
from prunet_det.zoo.weights import save_safetensors

if TYPE_CHECKING:
    from prunet_det.training.crops import DeviceCrops

logger = logging.getLogger(__name__)

CRITERIA = ("loss", "top1")
TIERS, UNIFORM, MACS, EVOLUTION, RANDOM, SURROGATE = (
    "tiers",
    "uniform widths",
    "highest MACs",
    "evolution",
    "random",
    "surrogate",
)
# They go on to the last round however they start: tiers' networks of 0.5 ms are behind others after
# 200 steps and level with the best after 1,200 (docs/method.md, by the long judge).
_SEEDED = (TIERS, MACS)
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class FinalistSettings:
    """Who enters the last tier, and how it narrows them down.

    Attributes:
        iterations: Steps of the trainings of each round, increasing; none for no last tier.
        kept: Networks that go on after each round but the last, decreasing; the tiers' network and
            the one of the most multiply-accumulates go on beside them.
        evolved: Number of evolution's best networks that enter.
        random: Number of random networks that enter.
        proposed: Number of networks that a surrogate of the first round's trainings proposes; they
            enter that round too.
        criterion: What the networks are ordered by, `loss` or `top1`.

    Raises:
        InputError: If the numbers are no such numbers, or do not fit each other.
    """

    iterations: tuple[int, ...] = (200, 800)
    kept: tuple[int, ...] = (3,)
    evolved: int = 3
    random: int = 4
    proposed: int = 3
    criterion: str = "loss"

    def __post_init__(self) -> None:
        steps, kept = tuple(self.iterations), tuple(self.kept)
        object.__setattr__(self, "iterations", steps)
        object.__setattr__(self, "kept", kept)
        for count in (*steps, *kept):
            positive_int(count, "a number of the last tier's iterations and kept")
        if sorted(steps) != [*steps] or sorted(kept, reverse=True) != [*kept]:
            raise InputError(
                f"the last tier's iterations must increase and its kept decrease, got {[*steps]} "
                f"and {[*kept]}."
            )
        if len(kept) != max(len(steps) - 1, 0):
            raise InputError(
                f"the last tier has {len(steps)} rounds, so kept needs {max(len(steps) - 1, 0)} "
                f"numbers, one for all rounds but the last; got {[*kept]}."
            )
        if min(self.evolved, self.random, self.proposed) < 0:
            raise InputError("the last tier's evolved, random and proposed must be 0 or more.")
        if self.criterion not in CRITERIA:
            raise InputError(
                f"the last tier's criterion must be one of {', '.join(CRITERIA)}, got "
                f"{self.criterion!r}."
            )

    def value(self, score: Score) -> float:
        """What is to be low."""
        return score.loss if self.criterion == "loss" or math.isinf(score.loss) else -score.accuracy


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A network of the last tier.

    Attributes:
        name: Its chooser, with a number where that has several.
        shape: The network, within the budget.
        ms: Milliseconds of it.
        input_size: Side of the images that it is for, in pixels; 0 where all have one size.
        scores: What its trainings came to, by their number of steps.
    """

    name: str
    shape: Shape
    ms: float
    input_size: int = 0
    scores: dict[int, Score] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The finalist as JSON values; losses of trainings that diverged are None."""
        scores = {
            str(steps): [score.accuracy, score.loss if math.isfinite(score.loss) else None]
            for steps, score in self.scores.items()
        }
        return {"name": self.name, "ms": self.ms, **self.shape.to_dict(), "scores": scores}


# Networks and a number of steps to what their trainings came to.
Train = Callable[[Sequence[Finalist], int], Sequence[Score]]
# Networks with what the first round made of them, the lower the better, to further networks.
Propose = Callable[[Sequence[Scored]], Sequence[Shape]]


def first_finalists(
    region: Region,
    tiers: Shape,
    evolved: Sequence[Shape],
    settings: FinalistSettings,
    seed: int,
    settle: Callable[[Shape], Shape] = lambda shape: shape,
) -> list[Finalist]:
    """The networks that the last tier begins with; each once, under the name of its first chooser.

    Args:
        region: The budget. Random networks are of the whole space, whatever is live.
        tiers: What the tiers prefer; its operators enter at uniform widths as well.
        evolved: Evolution's, the best first.
        settings: How many of each.
        seed: Seed of the random ones, and of the search for the most multiply-accumulates.
        settle: Brings each to the budget as the device itself has it.

    Raises:
        BudgetError: No network of the space meets the budget.
    """
    shapes, ms = region.shapes, region.ms
    drawn = shapes.draw(np.random.default_rng((seed, 4)), ms, settings.random)
    named = {
        TIERS: tiers,
        UNIFORM: shapes.uniform(tiers, ms),
        MACS: most_macs(region, seed),
        **_numbered(EVOLUTION, evolved[: settings.evolved]),
        **_numbered(RANDOM, drawn),
    }
    found: dict[Shape, str] = {}
    for name, shape in named.items():
        if shape is not None:
            found.setdefault(settle(shape), name)
    return [Finalist(name=name, shape=s, ms=shapes.ms(s)) for s, name in found.items()]


def _numbered(chooser: str, many: Sequence[Shape]) -> dict[str, Shape]:
    return {f"{chooser} {i + 1}": shape for i, shape in enumerate(many)}


def halve(
    shapes: Shapes,
    finalists: Sequence[Finalist],
    train: Train,
    settings: FinalistSettings,
    propose: Propose | None = None,
) -> list[Finalist]:
    """Trains networks, keeps the better ones, trains these for longer, and so on.

    Args:
        shapes: Shapes of their space.
        finalists: At least one; their scores are filled in.
        train: Trains networks.
        settings: How long, and how many are kept.
        propose: Further networks of the first round, told by it: others than those.

    Returns:
        All networks, the best first: those that came furthest, in the order of their last round.
    """
    every, left = [*finalists], [*finalists]

    def score(entrants: Sequence[Finalist], steps: int) -> None:
        scores = train(entrants, steps)
        for finalist, value in zip(entrants, scores, strict=True):
            finalist.scores[steps] = value

    for place, steps in enumerate(settings.iterations):
        score(left, steps)
        if place == 0 and propose is not None:
            told = [Scored(f.shape, settings.value(f.scores[steps])) for f in left]
            proposed = _numbered(SURROGATE, propose(told)).items()
            further = [Finalist(name=name, shape=s, ms=shapes.ms(s)) for name, s in proposed]
            score(further, steps)
            every += further
            left += further
        left.sort(key=lambda f: settings.value(f.scores[steps]))
        count = (*settings.kept, len(left))[place]
        left = left[:count] + [f for f in left[count:] if f.name.partition(" at ")[0] in _SEEDED]

    def rank(finalist: Finalist) -> tuple[int, float]:
        steps = max(finalist.scores, default=0)
        return -steps, settings.value(finalist.scores[steps]) if steps else 0.0

    return sorted(every, key=rank)


@dataclass(frozen=True, kw_only=True)
class _CropTraining(Training):
    """A short training on crops.

    Attributes:
        recipe: As of `short_run`.
        train, score: Crops to train on, and to score on.
        keep: Whether the weights are kept.
    """

    recipe: ShortRecipe
    train: DeviceCrops
    score: DeviceCrops
    keep: bool


def _train(task: _CropTraining) -> Run:
    """Does a training; one that diverges has no loss."""
    seconds = 0.0
    try:
        run = short_run(task.spec, task.recipe, task.train, task.score, task.seed)
        seconds = run.seconds
        if task.keep:
            save_safetensors(run.net.state_dict(), task.weights)
        figures: dict[str, Any] = {"top1": run.top1, "loss": run.loss}
    except DivergedError as e:
        logger.warning("a finalist counts as the worst: %s", e)
        figures = {"top1": 0.0, "loss": None, "error": str(e)}
    return task.run(figures, seconds)


@dataclass(frozen=True, kw_only=True)
class CropTrainings(Trainings):
    """Trains networks of a space from scratch on crops.

    Attributes:
        recipe: How networks are trained; the number of steps is each call's.
        halves: Crops by name, `weights` to train on and `architecture` to score on.
        keep: Number of steps of the trainings whose weights are kept.
    """

    recipe: ShortRecipe
    halves: Mapping[str, DeviceCrops]
    keep: int = 0
    start: ClassVar[str] = "from scratch"
    train: ClassVar[Callable[[Any], Run]] = _train

    def training(self, shape: Shape, steps: int) -> Training:
        """The short training of a network."""
        recipe = replace(self.recipe, iterations=steps, marks=())
        about = digest([asdict(recipe), *(crops.identity for crops in self.halves.values())])
        spec, seed = self.spec(shape), self.seed_of(steps)
        return _CropTraining(
            spec=spec,
            recipe=recipe,
            train=self.halves["weights"],
            score=self.halves["architecture"],
            seed=seed,
            digest=about,
            weights=Path(self.folder) / f"{spec.digest}_{about}_{seed}.safetensors",
            keep=steps == self.keep,
        )

    def workers(self, tasks: int) -> int:
        """One on a GPU, or where the crops do not fit into shared memory."""
        images = [crops.images for crops in self.halves.values()]
        if images[0].is_cuda or tasks < 2:
            return 1
        # Other processes read the crops in shared memory, of which containers have little.
        size = sum(tensor.nbytes for tensor in images)
        if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < 2 * size:
            return 1
        return min(tasks, self.max_workers or usable_cores())

    def score(self, figures: Mapping[str, Any]) -> Score:
        """Top-1 and cross-entropy."""
        loss = figures["loss"]
        return Score(float(figures["top1"]), math.inf if loss is None else float(loss))
