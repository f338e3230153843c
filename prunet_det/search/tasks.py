"""What a supernet learns: data in two halves, a loss, and what its networks are judged by."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import ArchSpec
from prunet_det.search.data import load_halves
from prunet_det.search.finalists import CropTrainings
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace, Shape
from prunet_det.search.supernet import Choice, SuperNet
from prunet_det.search.trainings import Trainings
from prunet_det.training.short_run import evaluate

if TYPE_CHECKING:
    from prunet_det.search.config import SearchConfig
    from prunet_det.training.crops import DeviceCrops

WEIGHTS, ARCHITECTURE = "weights", "architecture"  # the halves
_NORM_BATCHES = 20  # from which the statistics of inherited batch norms are taken
_NORM_BATCH = 64  # images
_SCORED_BATCH = 256  # crops whose statistics normalise what is scored
_MOST_SCORED = 2000  # images on which inherited weights are scored

Batch = Any  # what a task makes, and takes again


class Task(ABC):
    """What a supernet learns.

    A model is what is trained: the supernet, or a network around it. Of the data, the half
    `weights` is what it learns from, and `architecture` that by which networks are chosen.

    Attributes:
        device: Where model and batches are.
        guess: Loss of a network that knows nothing, once the model is built.
        identity: What tells these data from others, as JSON values.
        about: Name and number of classes of the data.
        classes: Their names.
        data_hash: Digest of the data.
        metric: Name of a network's figure of merit, 0..1.
    """

    device: torch.device
    guess: float
    identity: list[Any]
    about: dict[str, Any]
    classes: tuple[str, ...]
    data_hash: str
    metric: str

    @abstractmethod
    def build(self, space: SearchSpace) -> nn.Module:
        """Builds the model, on the task's device."""

    @abstractmethod
    def supernet(self, model: nn.Module) -> SuperNet:
        """The supernet within a model."""

    @abstractmethod
    def batches(
        self, half: str, step: int, count: int, size: int, input_size: int
    ) -> Sequence[Batch]:
        """The augmented batches of a step.

        Args:
            half: `weights` or `architecture`.
            step: Number of the step.
            count: Number of batches.
            size: Images of each.
            input_size: Side of the images that the networks are for, in pixels.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, choice: Choice) -> Tensor:
        """The loss of a choice on a batch, a scalar on the device."""

    @abstractmethod
    def scored(self, input_size: int) -> Iterator[Batch]:
        """Batches of the half by which networks are chosen, the same in each call."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, choice: Choice) -> Tensor:
        """Losses of a choice on a scored batch, sample by sample, and whether it was right.

        Returns:
            (2, samples), where a sample is what has a loss of its own.
        """

    @abstractmethod
    def finished(
        self, model: nn.Module, spec: ArchSpec, shape: Shape, step: int, seed: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A network of the space with the model's weights.

        Args:
            model: The trained model.
            spec: The network.
            shape: The same network.
            step: Number of steps that are done: batches of later ones are new to the weights.
            seed: Seed of what the model lacks.

        Returns:
            Figures of its worth, `loss` and the metric among them, and its weights by name.
        """

    @abstractmethod
    def trainings(
        self, config: SearchConfig, shapes: Shapes, folder: Path, model: nn.Module
    ) -> Trainings:
        """The trainings of the last tier, which are kept in a folder."""

    def config(self, spec: ArchSpec) -> str:
        """Text of the config that a network's weights are of; empty where they are its own."""
        del spec
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Which batches come next, where steps do not say."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most have none)
        """From what `state_dict` gave."""


class Classification(Task):
    """Which class a crop is of.

    Args:
        halves: Crops by name of the half.
        name: Name of the data.
    """

    metric = "top1"

    def __init__(self, halves: Mapping[str, DeviceCrops], name: str = "") -> None:
        self.halves, crops = dict(halves), halves[WEIGHTS]
        self.device, self.guess = crops.images.device, math.log(len(crops.classes))
        self.identity = [half.identity for half in halves.values()]
        self.about = {"name": name, "classes": len(crops.classes)}
        self.classes, self.data_hash = crops.classes, crops.data_hash

    @classmethod
    def from_config(cls, config: SearchConfig, device: str) -> Classification:
        """Reads a config's data.

        Raises:
            UserError: As `load_halves`.
        """
        data = config.data["dataset"]
        name = data.get("name") or data.get("data_root")
        return cls(load_halves(config.data, config.seed, device), name)

    def build(self, space: SearchSpace) -> SuperNet:
        """Builds the supernet."""
        with self.device:  # a CPU takes seconds to draw the 718 million weights of the full space
            model = SuperNet(space, self.about["classes"])
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def supernet(self, model: nn.Module) -> SuperNet:
        """The model itself."""
        return cast("SuperNet", model)

    def batches(self, half: str, step: int, count: int, size: int, input_size: int) -> list[Batch]:
        """Pairs of images and labels, of one size whatever the networks are for."""
        images, labels = self.halves[half].batch(step, count * size)
        return list(zip(images.chunk(count), labels.chunk(count), strict=True))

    def loss(self, model: nn.Module, batch: Batch, choice: Choice) -> Tensor:
        """Mean cross-entropy."""
        images, labels = batch
        return cross_entropy(model(images, choice).float(), labels)

    def scored(self, input_size: int) -> Iterator[Batch]:
        """All crops of the half, not augmented."""
        return self.halves[ARCHITECTURE].scored(_SCORED_BATCH)

    def losses(self, model: nn.Module, batch: Batch, choice: Choice) -> Tensor:
        """Cross-entropies of crops, and whether their class was found."""
        images, labels = batch
        logits = model(images, choice).float()
        losses = cross_entropy(logits, labels, reduction="none")
        return torch.stack((losses, (logits.argmax(1) == labels).float()))

    def finished(
        self, model: nn.Module, spec: ArchSpec, shape: Shape, step: int, seed: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A classifier, with statistics of its own in the batch norms."""
        halves = self._whole()
        with torch.random.fork_rng(devices=[]):  # what the supernet lacks starts afresh
            torch.manual_seed(seed)
            net = self.supernet(model).inherit(spec, shape).to(self.device)
        ahead = range(step, step + _NORM_BATCHES)
        reestimate_norms(net, (halves[WEIGHTS].batch(i, _NORM_BATCH)[0] for i in ahead))
        unseen = halves[ARCHITECTURE]
        every = math.ceil(len(unseen) / _MOST_SCORED)  # large halves have more than a figure needs
        images, labels = unseen.images[::every], unseen.labels[::every]
        top1, loss = evaluate(net, dataclasses.replace(unseen, images=images, labels=labels))
        return {"weights": "inherited", "top1": top1, "loss": loss}, net.state_dict()

    def trainings(
        self, config: SearchConfig, shapes: Shapes, folder: Path, model: nn.Module
    ) -> Trainings:
        """Short trainings on the crops, from scratch."""
        return CropTrainings(
            shapes=shapes,
            recipe=config.recipe,
            halves=self._whole(),
            folder=folder,
            seed=config.seed,
            progress=config.progress,
            max_workers=config.jobs,
            keep=config.finalists.iterations[-1],
        )

    def _whole(self) -> dict[str, DeviceCrops]:
        """The crops of one process: what several have trained, the main one finishes."""
        return {
            half: dataclasses.replace(crops, rank=0, world_size=1)
            for half, crops in self.halves.items()
        }


def make_task(config: SearchConfig, device: str) -> Task:
    """The task of a search: a detector's, if it has one, or the classification of crops.

    Args:
        config: What is searched for.
        device: Where model and batches go.

    Raises:
        UserError: If the data, or the detector, cannot be used.
    """
    if config.detector is None:
        return Classification.from_config(config, device)
    from prunet_det.search.detection import Detection  # needs MMDetection

    return Detection.from_config(config, device)
