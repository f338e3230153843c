"""The last tier's trainings, whatever is trained: done once, kept, several at once on a CPU."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.utils.runs import Key, Run, RunStore, campaign, made_here
from prunet_det.zoo.containers import read_state_dict


@dataclass(frozen=True)
class Score:
    """What a training came to, on data that it has not seen.

    Attributes:
        accuracy: Share of right answers, or a detector's mAP, 0..1.
        loss: Cross-entropy, or what a detector's mAP lacks to 1; infinite where the training
            diverged.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that another process may do.

    Attributes:
        spec, seed: The network and the seed.
        digest: Digest of recipe and data.
        weights: File of the trained weights.
    """

    spec: ArchSpec
    seed: int
    digest: str
    weights: Path

    @property
    def key(self) -> Key:
        """Of the run that comes of it."""
        return self.spec.digest, self.digest, self.seed

    def run(self, figures: Mapping[str, Any], seconds: float) -> Run:
        """The run that came of it."""
        return Run(
            subject=self.spec.digest,
            recipe=self.digest,
            seed=self.seed,
            figures=dict(figures),
            seconds=round(seconds, 2),
            made=made_here(),
        )


@dataclass(frozen=True, kw_only=True)
class Trainings(ABC):
    """Trains networks of a space; what is done is kept.

    Attributes:
        shapes: Shapes of the space.
        folder: Where the results are kept as they come, and looked up.
        seed: Seed of the search.
        progress: Whether each call shows a bar.
        max_workers: Number of processes on a CPU; by default one for each core.
        start: What the trainings start from, in words.
        train: Does a training; other processes import it.
    """

    shapes: Shapes
    folder: str | os.PathLike[str]
    seed: int
    progress: bool = True
    max_workers: int | None = None
    start: ClassVar[str]
    train: ClassVar[Callable[[Any], Run]]

    def __call__(self, many: Sequence[Shape], steps: int) -> list[Score]:
        """Trains what has not been trained yet.

        Args:
            many: Networks.
            steps: Number of steps of each training.

        Raises:
            UserError: If a line of the kept results is damaged, another process works in the
                folder, a training fails for its config's sake, or processes keep dying.
        """
        if not many:
            return []
        # The longest first, lest one process trains it alone at the end.
        order = np.argsort(-self.shapes.macs(many), kind="stable")
        tasks = {many[i]: self.training(many[i], steps) for i in order}
        store = RunStore(self.folder)
        left = {shape: task for shape, task in tasks.items() if task.key not in store}
        self.prepare(left)
        title = f"last tier, {steps} steps" if self.progress and left else ""
        campaign(tasks.values(), type(self).train, store, self.workers(len(left)), title)
        runs = {run.key: run for run in store}
        return [self.score(runs[tasks[shape].key].figures) for shape in many]

    @property
    def seconds(self) -> float:
        """Seconds of all trainings that are kept, those of interrupted searches included."""
        return sum(run.seconds for run in RunStore(self.folder))

    def weights(self, shape: Shape, steps: int) -> dict[str, Tensor]:
        """The averaged weights of a training that was done and whose weights were kept."""
        return read_state_dict(self.training(shape, steps).weights)

    def spec(self, shape: Shape) -> ArchSpec:
        """The spec of a network that is trained."""
        made = Provenance("hand-written", {"reason": "a finalist of a search"})
        size = self.shapes.costs.input_size
        return self.shapes.space.to_spec(shape, "finalist", made, size)

    def seed_of(self, steps: int) -> int:
        """Seed of a round: who was lucky in one has other weights and batches in the next."""
        return self.seed * 1_000_003 + steps

    @abstractmethod
    def training(self, shape: Shape, steps: int) -> Training:
        """The training of a network."""

    @abstractmethod
    def workers(self, tasks: int) -> int:
        """Number of processes for so many trainings."""

    @abstractmethod
    def score(self, figures: Mapping[str, Any]) -> Score:
        """What the figures of a run say."""

    def prepare(self, tasks: Mapping[Shape, Training]) -> None:  # noqa: B027 (most need nothing)
        """Makes what trainings start from."""
