"""The search's data: which images of a data set it takes, decoded once, as halves on the device."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATASETS
from PIL import Image, ImageOps

import prunet_det.classification.data  # noqa: F401  registers the data sets
from prunet_det.training.crops import Augmentation, DeviceCrops
from prunet_det.utils.config import from_mapping
from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import InputError, UserError

logger = logging.getLogger(__name__)

PARTS = ("weights", "architecture")


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """What a config says of data that is to lie on the device.

    Attributes:
        dataset: A data set of `prunet_det.classification`; the device augments as its `transform`
            says.
        classes: Keep these classes only, by name or as a number of the first ones.
        memory_gb: Gigabytes that the images may take on the device; of more, each class keeps an
            equal number of images, drawn at random.
        span: Part of the images, in the data set's order within each class: (0.0, 0.8) are the
            first four fifths of each, (0.8, 1.0) the rest.
    """

    dataset: Mapping[str, Any]
    classes: Sequence[str] | int | None = None
    memory_gb: float = 8.0
    span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.span[0] < self.span[1] <= 1:
            raise InputError(f"the search data: span must be a part of 0..1, got {self.span}.")


def load_halves(
    config: Mapping[str, Any], seed: int, device: torch.device | str = "cpu"
) -> dict[str, DeviceCrops]:
    """Reads a data set as two halves, each of which holds every class.

    Args:
        config: Keys of CropsConfig.
        seed: Seed of the split, the order and the augmentation.
        device: Where the images go.

    Returns:
        Crops by name of the half, `weights` and `architecture`.

    Raises:
        UserError: An unknown class, or less than two, more than there are, or one of less than two
            images; or a transform that the device does not do.
    """
    source = _Source(config)
    crops = {}
    for part, half in enumerate(source.halves(seed)):
        kept = source.limited(half, 1 / len(PARTS), seed)
        crops[PARTS[part]] = source.load(kept, seed, part, device)
    return crops


def load_crops(
    config: Mapping[str, Any], seed: int = 0, device: torch.device | str = "cpu"
) -> DeviceCrops:
    """Reads a data set as a whole.

    Args:
        config: As of `load_halves`.
        seed: Seed of the order and the augmentation.
        device: Where the images go.

    Raises:
        UserError: As of `load_halves`.
    """
    source = _Source(config)
    return source.load(source.limited(source.chosen, 1.0, seed), seed, 0, device)


class _Source:
    """The images of a data set that are asked for, not yet read.

    Args:
        config: As of `load_halves`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = from_mapping(CropsConfig, config, "the search data", InputError)
        transform, what = self.config.dataset["transform"], "the transform of the search data"
        self.augmentation = from_mapping(Augmentation, transform, what, InputError)
        self.base = DATASETS.build(dict(self.config.dataset))
        names = tuple(self.base.metainfo["classes"])
        self.classes = kept_classes(names, self.config.classes)
        self.labels = np.asarray(self.base.labels)
        self.label_of = np.full(len(names), -1)
        self.label_of[[names.index(name) for name in self.classes]] = range(len(self.classes))
        first, last = self.config.span
        own = self._by_class(np.flatnonzero(self.label_of[self.labels] >= 0))
        parts = [i[round(first * len(i)) : round(last * len(i))] for i in own]
        self.chosen = np.sort(np.concatenate(parts))

    def _by_class(self, indices: np.ndarray) -> list[np.ndarray]:
        """The same images, those of each class by themselves."""
        labels = self.labels[indices]
        return [indices[labels == label] for label in np.unique(labels)]

    def halves(self, seed: int) -> list[np.ndarray]:
        """Splits the images into two halves that both hold every class.

        Raises:
            UserError: If a class has less than two images.
        """
        counts = np.bincount(self.label_of[self.labels[self.chosen]], minlength=len(self.classes))
        for name, count in zip(self.classes, counts, strict=True):
            if count < len(PARTS):
                raise UserError(
                    f"the search data has {count} of the class {name!r}; the search splits its "
                    "images in two halves and needs one of each class in both: give more of it, "
                    "or leave it out by naming the others (--classes)."
                )
        return halves(self.chosen, self.labels, seed)

    def limited(self, indices: np.ndarray, share: float, seed: int) -> np.ndarray:
        """Leaves out images that the device's memory cannot hold.

        Args:
            indices: Indices of the images.
            share: Share of the memory that these images may take.
            seed: Seed of the choice.
        """
        each = 3 * math.prod(self.augmentation.stored_size)
        most = int(self.config.memory_gb * 1e9 * share / each)
        if len(indices) <= most:
            return indices
        quota = max(1, most // len(self.classes))
        order = np.random.default_rng((seed, 3)).permutation(indices)
        kept = np.sort(np.concatenate([images[:quota] for images in self._by_class(order)]))
        logger.warning(
            "%d of %d images are kept, at most %d of each class: all would take %.1f GB on the "
            "device (memory_gb of the search's data lets them).",
            len(kept),
            len(indices),
            quota,
            each * len(indices) / 1e9,
        )
        return kept

    def load(
        self, indices: np.ndarray, seed: int, part: int, device: torch.device | str
    ) -> DeviceCrops:
        """Decodes images and puts them on the device."""
        height, width = self.augmentation.stored_size
        images = np.empty((len(indices), height, width, 3), np.uint8)

        def decode(place: int) -> None:
            image, _ = self.base.read(int(indices[place]))
            fitted = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            images[place] = np.asarray(fitted)

        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(decode, range(len(indices))))  # raises an image's error
        labels = torch.from_numpy(self.label_of[self.labels[indices]])
        return DeviceCrops(
            images=torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous(),
            labels=labels.to(device),
            classes=self.classes,
            augmentation=self.augmentation,
            seed=seed,
            part=part,
            rank=get_rank(),
            world_size=get_world_size(),
            data_hash=str(self.base.data_hash),
        )


def kept_classes(names: tuple[str, ...], classes: Sequence[str] | int | None) -> tuple[str, ...]:
    """Returns the names of the classes to keep, see CropsConfig."""
    listed = f"the classes are {', '.join(names[:20])}"
    if isinstance(classes, int):
        if not 2 <= classes <= len(names):
            raise UserError(
                f"the search data: the first {classes} of {len(names)} classes cannot be kept, "
                f"only 2 or more, and no more than there are; {listed}."
            )
        return names[:classes]
    kept = (classes,) if isinstance(classes, str) else tuple(classes or names)
    unknown = [name for name in kept if name not in names]
    if len(set(kept)) < len(kept):
        raise UserError(f"the search data: a class is named twice in {', '.join(kept)}.")
    if unknown or len(kept) < 2:
        what = f"there is no class {unknown[0]!r}" if unknown else "less than two classes"
        raise UserError(f"the search data: {what}; {listed}.")
    return kept


def halves(chosen: np.ndarray, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Splits images at random into two halves that both hold every class.

    Args:
        chosen: Indices of the images, at least two of each class.
        labels: Labels of all images, by index.
        seed: Seed of the split.
    """
    order = np.random.default_rng(seed).permutation(len(chosen))
    classes = len(np.unique(labels[chosen]))
    if any(len(np.unique(labels[chosen[order[part::2]]])) < classes for part in range(len(PARTS))):
        # Class by class, which leaves the halves of other data what they were.
        order = order[np.argsort(labels[chosen[order]], kind="stable")]
    return [chosen[np.sort(order[part::2])] for part in range(len(PARTS))]
