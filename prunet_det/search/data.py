"""The halves of the training data: decoded once, kept on the device, augmented there in batches.

What a batch holds is drawn from (seed, half, step) alone, so a resumed search continues with the
same bytes. The numbers are drawn on the host, a few for each image, and sent ahead of the device's
work: nothing in a step waits for it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATASETS
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from prunet_det.classification.data import imagenet_statistics
from prunet_det.utils.config import from_mapping
from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import InputError, UserError

logger = logging.getLogger(__name__)

PARTS = ("weights", "architecture")
_MARGIN = 1.25  # greatest side of a stored image, as a multiple of the crops' side
_GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How crops are drawn, in the words of `timm.data.create_transform` and with its defaults.

    Attributes:
        input_size: Shape of a crop, (3, H, W).
        scale: Range of a crop's share of the image's area.
        ratio: Range of a crop's aspect ratio.
        hflip: Probability of a horizontal flip.
        color_jitter: Greatest relative change of brightness, contrast and saturation, one for all
            or one for each; None for no change. They are changed in this order.
        grayscale_prob: Probability of grey.
        interpolation: `bilinear`, the only one.
        is_training: Whether crops are augmented.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    color_jitter: float | tuple[float, ...] | None = 0.4
    grayscale_prob: float = 0.0
    interpolation: str = "bilinear"
    is_training: bool = True

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or self.input_size[0] != 3 or min(self.input_size) < 1:
            raise InputError(f"input_size must be (3, height, width), got {self.input_size}.")
        if self.interpolation != "bilinear":
            raise InputError(
                "crops that lie on the device are cut with interpolation='bilinear', got "
                f"{self.interpolation!r}."
            )

    @classmethod
    def of(cls, transform: Mapping[str, Any]) -> Augmentation:
        """Reads a config's `transform`.

        Raises:
            InputError: If it names what the device does not do.
        """
        return from_mapping(cls, dict(transform), "the transform of the search data", InputError)

    @property
    def jitter(self) -> tuple[float, float, float]:
        """Greatest relative change of brightness, contrast and saturation."""
        given = self.color_jitter
        if not isinstance(given, tuple | list):
            return (given or 0.0,) * 3
        brightness, contrast, saturation = (*given, 0.0, 0.0, 0.0)[:3]
        return brightness, contrast, saturation

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width at which images are kept, for crops of about their own resolution."""
        more = min(self.scale[0] ** -0.5, _MARGIN) if self.is_training else 1.0
        height, width = (math.ceil(side * more) for side in self.input_size[1:])
        return height, width


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceCrops:
    """Labelled images on a device, as an endless sequence of augmented batches.

    Attributes:
        images: (N, 3, H, W) uint8, on the device.
        labels: (N,) int64, on the device.
        classes: Names of the classes, in the order of the labels.
        augmentation: How crops are drawn.
        seed: Seed of order and augmentation.
        part: Number of the half, which has an order and an augmentation of its own.
        rank: Number of this process, which takes its part of every batch.
        world_size: Number of processes.
        data_hash: Digest of the data set that the images are of.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation
    seed: int = 0
    part: int = 0
    rank: int = 0
    world_size: int = 1
    data_hash: str = ""
    _orders: dict[int, np.ndarray] = dataclasses.field(default_factory=dict, init=False)
    _constants: Tensor = dataclasses.field(init=False)
    _grid: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        whole = affine_grid(torch.eye(2, 3)[None], [1, *self.augmentation.input_size], False)
        object.__setattr__(self, "_grid", whole.to(self.images.device))
        grey = torch.tensor(_GREY)[:, None, None]
        constants = torch.stack([*imagenet_statistics(), grey]).to(self.images.device)
        object.__setattr__(self, "_constants", constants)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def identity(self) -> list[Any]:
        """What tells these crops from others, beside their seed, as JSON values."""
        augmentation = dataclasses.asdict(self.augmentation)
        return [self.data_hash, list(self.classes), len(self), self.part, augmentation]

    def with_seed(self, seed: int) -> DeviceCrops:
        """The same images with another order and augmentation."""
        return dataclasses.replace(self, seed=seed)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Makes the batch of a step.

        Args:
            step: Number of the step, from 0.
            size: Number of images in a process's batch.

        Returns:
            Normalised images, (size, 3, H, W) float32 in channels-last memory format, and labels,
            (size,) int64.
        """
        whole = size * self.world_size
        own = slice(self.rank * size, (self.rank + 1) * size)
        indices = self._indices(step * whole, whole)[own]
        uniform = np.random.default_rng((self.seed, self.part, step, 1)).random((whole, 9))
        boxes, colours = _drawn(uniform[own], self.augmentation)
        return self._made(indices, boxes, colours)

    def scored(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, whole and in order, in batches as of `batch`.

        Args:
            size: Number of images in a batch; the last one may have less.
        """
        for first in range(0, len(self), size):
            indices = np.arange(first, min(first + size, len(self)))
            whole = np.tile(np.array([[1, 1], [0, 0]], np.float32), (len(indices), 1, 1))
            yield self._made(indices, whole)

    def _indices(self, first: int, count: int) -> np.ndarray:
        """Indices of the images at places in the endless sequence of permutations."""
        epochs, offsets = np.divmod(np.arange(first, first + count), len(self))
        indices = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = self._order(int(epoch))[offsets[chosen]]
        return indices

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            rng = np.random.default_rng((self.seed, self.part, epoch, 2))
            self._orders.clear()
            self._orders[epoch] = rng.permutation(len(self))
        return self._orders[epoch]

    def _made(
        self, indices: np.ndarray, boxes: np.ndarray, colours: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cuts and colours images.

        Args:
            indices: (n,).
            boxes: (n, 2, 2), half sides and middles of crops, x and y, where images are -1..1.
            colours: (n, 3), factors of brightness, contrast and saturation.
        """
        chosen = self.sent(indices)
        half, middle = self.sent(boxes)[:, :, None, None].unbind(1)
        grid = torch.addcmul(middle, self._grid, half)
        images = self.images.index_select(0, chosen).float().div_(255)
        images = grid_sample(images, grid, padding_mode="border", align_corners=False)
        mean, std, grey = self._constants
        if colours is not None:
            images = _coloured(images, self.sent(colours), grey, self.augmentation)
        images = images.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
        return images, self.labels.index_select(0, chosen)

    def sent(self, values: np.ndarray) -> Tensor:
        """Sends numbers to the images' device without waiting for it."""
        tensor = torch.from_numpy(values)
        if not self.images.is_cuda:
            return tensor
        return tensor.pin_memory().to(self.images.device, non_blocking=True)


def _drawn(uniform: np.ndarray, a: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Turns random numbers into crops and colours.

    Args:
        uniform: (n, 9) in 0..1.
        a: How crops are drawn.

    Returns:
        Half sides and middles of crops, (n, 2, 2), and factors of brightness, contrast and
        saturation, (n, 3).
    """
    area, ratio, x, y, flip, grey = uniform[:, :6].T
    area = a.scale[0] + (a.scale[1] - a.scale[0]) * area
    ratio = np.exp(np.log(a.ratio[0]) + (np.log(a.ratio[1]) - np.log(a.ratio[0])) * ratio)
    # A crop that is wider than the image is as wide as it; torchvision draws again.
    width, height = (np.minimum(np.sqrt(v), 1.0) for v in (area * ratio, area / ratio))
    sides = np.stack([np.where(flip < a.hflip, -width, width), height], 1)
    middles = np.stack([(1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)], 1)
    jitter = np.array(a.jitter)
    low, high = np.maximum(0.0, 1 - jitter), 1 + jitter
    colours = (low + (high - low) * uniform[:, 6:]).astype(np.float32)
    colours[grey < a.grayscale_prob, 2] = 0.0
    return np.stack([sides, middles], 1).astype(np.float32), colours


def _coloured(images: Tensor, factors: Tensor, grey: Tensor, a: Augmentation) -> Tensor:
    """Changes brightness, contrast and saturation, in this order, as far as they are asked for.

    Args:
        images: (n, 3, H, W) in 0..1.
        factors: (n, 3).
        grey: Shares of the channels in an image's grey, (3, 1, 1).
        a: How crops are drawn.
    """
    brightness, contrast, saturation = factors[..., None, None, None].unbind(1)
    if a.jitter[0]:
        images = (images * brightness).clamp_(max=1.0)
    if a.jitter[1]:
        mean = (images * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        images = torch.lerp(mean, images, contrast).clamp_(0.0, 1.0)
    if a.jitter[2] or a.grayscale_prob:
        images = torch.lerp((images * grey).sum(1, keepdim=True), images, saturation)
        images.clamp_(0.0, 1.0)
    return images


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


class _Source:
    """The images of a data set that are asked for, not yet read.

    Args:
        config: As of `load_halves`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        loader = ("batch_size", "num_workers")
        keys = {key: value for key, value in config.items() if key not in loader}
        self.config = from_mapping(CropsConfig, keys, "the search data", InputError)
        self.augmentation = Augmentation.of(self.config.dataset["transform"])
        self.base = DATASETS.build(dict(self.config.dataset))
        names = tuple(self.base.metainfo["classes"])
        self.classes = kept_classes(names, self.config.classes)
        self.labels = np.asarray(self.base.labels)
        self.label_of = np.full(len(names), -1)
        self.label_of[[names.index(name) for name in self.classes]] = range(len(self.classes))
        self.chosen = np.flatnonzero(self.label_of[self.labels] >= 0)
        if tuple(self.config.span) != (0.0, 1.0):
            self.chosen = self._spanned(*self.config.span)

    def _spanned(self, first: float, last: float) -> np.ndarray:
        """The images that lie within a part of their class."""
        own = [self.chosen[self.labels[self.chosen] == k] for k in np.unique(self.labels)]
        parts = [i[round(first * len(i)) : round(last * len(i))] for i in own]
        return np.sort(np.concatenate(parts))

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
        own = [order[self.labels[order] == label] for label in np.unique(self.labels[indices])]
        kept = np.sort(np.concatenate([images[:quota] for images in own]))
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
            for _ in pool.map(decode, range(len(indices))):
                pass  # an error is raised here
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


def load_halves(
    config: Mapping[str, Any], seed: int, device: torch.device | str = "cpu"
) -> dict[str, DeviceCrops]:
    """Reads a data set as two halves, each of which holds every class.

    Args:
        config: Keys of CropsConfig; a loader's `batch_size` and `num_workers` are passed over.
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
