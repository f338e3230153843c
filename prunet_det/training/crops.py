"""Crops of labelled images that lie on a device and are augmented there, a batch at a time.

What a batch holds is drawn from (seed, part, step) alone, so a resumed training continues with the
same bytes. The numbers are drawn on the host, a few for each image, and sent ahead of the device's
work: nothing in a step waits for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from prunet_det.utils.errors import InputError

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

    def drawn(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turns random numbers into crops and colours.

        Args:
            uniform: (n, 9) in 0..1.

        Returns:
            Half sides and middles of crops, (n, 2, 2) float32, x and y, where images are -1..1 and
            a negative half width flips; and factors of brightness, contrast and saturation, (n, 3)
            float32.
        """
        area, ratio, x, y, flip, grey = uniform[:, :6].T
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        low, high = np.log(self.ratio[0]), np.log(self.ratio[1])
        ratio = np.exp(low + (high - low) * ratio)
        # A crop that is wider than the image is as wide as it; torchvision draws again.
        width, height = (np.minimum(np.sqrt(v), 1.0) for v in (area * ratio, area / ratio))
        sides = np.stack([np.where(flip < self.hflip, -width, width), height], 1)
        middles = np.stack([(1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)], 1)
        jitter = np.array(self.jitter)
        lowest, highest = np.maximum(0.0, 1 - jitter), 1 + jitter
        colours = (lowest + (highest - lowest) * uniform[:, 6:]).astype(np.float32)
        colours[grey < self.grayscale_prob, 2] = 0.0
        return np.stack([sides, middles], 1).astype(np.float32), colours

    def coloured(self, images: Tensor, factors: Tensor, grey: Tensor) -> Tensor:
        """Changes brightness, contrast and saturation, in this order, where any may change.

        Args:
            images: (n, 3, H, W) in 0..1.
            factors: (n, 3).
            grey: Shares of the channels in an image's grey, (3, 1, 1).
        """
        brightness, contrast, saturation = factors[..., None, None, None].unbind(1)
        if self.jitter[0]:
            images = (images * brightness).clamp_(max=1.0)
        if self.jitter[1]:
            mean = (images * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
            images = torch.lerp(mean, images, contrast).clamp_(0.0, 1.0)
        if self.jitter[2] or self.grayscale_prob:
            images = torch.lerp((images * grey).sum(1, keepdim=True), images, saturation)
            images.clamp_(0.0, 1.0)
        return images


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
        constants = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, _GREY])
        constants = constants[..., None, None].to(self.images.device)
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
        return self._made(indices, *self.augmentation.drawn(uniform[own]))

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
        """Cuts, colours and normalises images; boxes and colours as of `Augmentation.drawn`."""
        device = self.images.device
        chosen = sent(indices, device)
        half, middle = sent(boxes, device)[:, :, None, None].unbind(1)
        grid = torch.addcmul(middle, self._grid, half)
        images = self.images.index_select(0, chosen).float().div_(255)
        images = grid_sample(images, grid, padding_mode="border", align_corners=False)
        mean, std, grey = self._constants
        if colours is not None:
            images = self.augmentation.coloured(images, sent(colours, device), grey)
        images = images.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
        return images, self.labels.index_select(0, chosen)


def sent(values: np.ndarray, device: torch.device) -> Tensor:
    """Sends numbers to a device without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
