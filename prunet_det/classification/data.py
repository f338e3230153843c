"""Classification data sets: folders with one folder per class, and crops of the embedded sets."""

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
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.io import file_digest


class _Images(Dataset[dict[str, torch.Tensor | int]]):
    """Base class: images transformed by timm, with items as dicts.

    Args:
        classes: Class names, in the order of the labels.
        transform: Arguments of `timm.data.create_transform`.

    Raises:
        InputError: If there are less than two classes.
    """

    def __init__(self, classes: tuple[str, ...], transform: Mapping[str, Any]) -> None:
        if len(classes) < 2:
            raise InputError(f"at least two classes are needed, the data has {len(classes)}.")
        self.metainfo = {"classes": classes}
        self._transform: Callable[[Image.Image], torch.Tensor] = create_transform(**transform)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        """Returns `inputs`, (3, H, W) float32, normalised, and `labels`, an int."""
        image, label = self._read(index)
        return {"inputs": self._transform(image), "labels": label}


@DATASETS.register_module()
class ImageFolder(_Images):
    """Image files in one folder per class, as ImageNet has them, with timm's transforms.

    Args:
        data_root: Folder of the data.
        split: Name of the folder in it that holds one folder per class, such as `train`.
        transform: Arguments of `timm.data.create_transform`.

    Raises:
        MissingFileError: If the folder is missing, or a class has no images.
        InputError: If there are less than two classes.
    """

    def __init__(
        self, data_root: str | os.PathLike[str], split: str, transform: Mapping[str, Any]
    ) -> None:
        folder = Path(data_root) / split
        if not folder.is_dir():
            raise MissingFileError(
                f"there is no data folder {folder}; expected is one folder a class in it, as in "
                f"{folder / 'cat' / 'image.jpg'} (give another place with --data-root)."
            )
        try:
            self._folder = torchvision.datasets.ImageFolder(folder)
        except FileNotFoundError as e:  # no folder a class, or one without images
            raise MissingFileError(
                f"{folder} does not hold one folder of images a class: {e}"
            ) from e
        super().__init__(tuple(self._folder.classes), transform)

    def __len__(self) -> int:
        return len(self._folder)

    @property
    def labels(self) -> list[int]:
        """Labels of all images, in order."""
        return list(self._folder.targets)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        try:
            return self._folder[index]
        except (OSError, SyntaxError) as e:  # what Pillow raises at a damaged file
            raise InputError(f"{self._folder.samples[index][0]} cannot be read: {e}.") from e

    @property
    def data_hash(self) -> str:
        """Digest of the file names, for records."""
        names = "\n".join(os.path.relpath(p, self._folder.root) for p, _ in self._folder.samples)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


@DATASETS.register_module()
class EmbeddedCrops(_Images):
    """Crops of the objects of an embedded set, made on first use.

    Args:
        name: Name of the set, `digits` or `glyphs`.
        data_root: Folder of the set; what is missing is made there.
        split: `train` or `val`.
        transform: Arguments of `timm.data.create_transform`.

    Raises:
        InputError: If there is no such set or split.
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
            raise InputError(f"the set {name} has no split {split!r}, only {', '.join(splits)}.")
        super().__init__(embedded.classes, transform)
        self._crops = folder = ensure_crops(name, data_root)
        self._images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        self._labels = np.load(folder / f"{split}_labels.npy")

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> list[int]:
        """Labels of all crops, in order."""
        return [int(label) for label in self._labels]

    def _read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._images[index]), int(self._labels[index])

    @property
    def data_hash(self) -> str:
        """Digest of the crops and of their parameters, for records."""
        return file_digest(self._crops / MANIFEST)
