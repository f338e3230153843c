"""Classification data: any folder of one folder a class, and the crops of the embedded sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from mmengine.registry import DATASETS
from PIL import Image
from timm.data import create_transform
from torch.utils.data import Dataset

from prunet_det.datasets import ensure_crops, get_set
from prunet_det.datasets.build import MANIFEST
from prunet_det.utils.io import file_digest


class _Images(Dataset[dict[str, Any]]):
    """What both kinds of data share: timm's transforms, and items as dicts.

    Args:
        classes: Their names, in the order of the labels.
        transform: Arguments of `timm.data.create_transform`.
    """

    def __init__(self, classes: tuple[str, ...], transform: Mapping[str, Any]) -> None:
        if len(classes) < 2:
            raise ValueError(f"at least two classes are needed, the data has {len(classes)}.")
        self.metainfo = {"classes": classes}
        self._transform: Callable[[Image.Image], torch.Tensor] = create_transform(**transform)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`inputs`, (3, H, W) float32, normalised, and `labels`, an int."""
        image, label = self._read(index)
        return {"inputs": self._transform(image), "labels": label}


@DATASETS.register_module()
class ImageFolder(_Images):
    """torchvision's ImageFolder with timm's transforms: ImageNet's layout, or one's own.

    Args:
        data_root: The folder.
        split: The folder inside it that holds one folder a class, such as `train`.
        transform: Arguments of `timm.data.create_transform`.

    Raises:
        FileNotFoundError: A folder is missing; the sentence says what is expected where.
        ValueError: There are no images, or less than two classes.
    """

    def __init__(
        self, data_root: str | os.PathLike[str], split: str, transform: Mapping[str, Any]
    ) -> None:
        folder = Path(data_root) / split
        if not folder.is_dir():
            raise FileNotFoundError(
                f"there is no data folder {folder}; expected is one folder a class in it, as in "
                f"{folder / 'cat' / 'image.jpg'} (give another place with --data-root)."
            )
        try:
            self._folder = torchvision.datasets.ImageFolder(folder)
        except FileNotFoundError as e:  # no folder a class, or one without images
            raise FileNotFoundError(
                f"{folder} does not hold one folder of images a class: {e}"
            ) from e
        super().__init__(tuple(self._folder.classes), transform)

    def __len__(self) -> int:
        return len(self._folder)

    @property
    def labels(self) -> list[int]:
        """Of all images, in order."""
        return list(self._folder.targets)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        try:
            return self._folder[index]
        except (OSError, SyntaxError) as e:  # what Pillow raises at a damaged file
            raise ValueError(f"{self._folder.samples[index][0]} cannot be read: {e}.") from e

    @property
    def data_hash(self) -> str:
        """A digest of the files' names, for records."""
        names = "\n".join(os.path.relpath(p, self._folder.root) for p, _ in self._folder.samples)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


@DATASETS.register_module()
class EmbeddedCrops(_Images):
    """The crops of an embedded set, made in `data_root` when they are not there yet.

    Args:
        name: `digits` or `glyphs`.
        data_root: The folder of the set.
        split: `train` or `val`.
        transform: Arguments of `timm.data.create_transform`.
    """

    def __init__(
        self,
        name: str,
        data_root: str | os.PathLike[str],
        split: str,
        transform: Mapping[str, Any],
    ) -> None:
        embedded = get_set(name)
        splits = [s for s, _ in embedded.counts]
        if split not in splits:
            raise ValueError(f"the set {name} has no split {split!r}, only {', '.join(splits)}.")
        super().__init__(embedded.classes, transform)
        self._crops = folder = ensure_crops(name, data_root)
        self._images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        self._labels = np.load(folder / f"{split}_labels.npy")

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> list[int]:
        """Of all crops, in order."""
        return [int(label) for label in self._labels]

    def _read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._images[index]), int(self._labels[index])

    @property
    def data_hash(self) -> str:
        """A digest of the crops and of how they were cut, for records."""
        return file_digest(self._crops / MANIFEST)
