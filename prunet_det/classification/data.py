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
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch.utils.data import Dataset

from prunet_det.datasets import ensure_crops, get_set
from prunet_det.datasets.build import MANIFEST
from prunet_det.datasets.cache import SharedImages
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.images import SUFFIXES, has_image_name, read_image, read_size
from prunet_det.utils.io import file_digest

_OTHERS = {"__MACOSX", "@eaDir", "System Volume Information"}


def normalized(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Normalises uint8 images as timm's transforms do; others are, and are returned as they are.

    Args:
        images: (..., 3, H, W).
        mean: Mean of images in 0..1, (3, 1, 1).
        std: Standard deviation of images in 0..1, (3, 1, 1).
    """
    if images.dtype != torch.uint8:
        return images
    return images.float().div_(255).sub_(mean).div_(std)


def imagenet_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of ImageNet in 0..1, (3, 1, 1) each."""
    mean, std = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD])[..., None, None]
    return mean, std


def _transform(options: Mapping[str, Any]) -> Callable[[Image.Image], torch.Tensor]:
    """Returns timm's transform, without normalisation where the model can do that later.

    It can where ImageNet's statistics are meant and nothing comes after it, as erasing does.
    """
    after = {"mean", "std", "normalize", "use_prefetcher"} & set(options)
    if options.get("re_prob") or after:
        return create_transform(**options)
    return create_transform(**options, normalize=False)


def widened(image: Image.Image, side: int) -> Image.Image:
    """Returns an image whose shorter side is a pixel or more where the longer one is `side`.

    Nothing but the longest and narrowest, such as 20000 x 2 px, are changed, of which timm's
    transforms would make nothing, or scale the shorter side up and the longer one to millions; and
    the smallest: of less than three pixels, timm's random crop may keep none.
    """
    minimum = max(-(-max(image.size) // side), 3)
    if min(image.size) >= minimum:
        return image
    size = max(image.width, minimum), max(image.height, minimum)
    return image.resize(size, Image.Resampling.NEAREST)


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
        self._transform = _transform(transform)
        self._side = int(np.max(transform.get("input_size", 224)))

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Reads an image as it is, with its label."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        """Returns `inputs` and `labels`.

        Returns:
            `inputs`, (3, H, W) uint8, which the model normalises; or float32 and normalised, where
            the transform has statistics of its own or erases. `labels` is an int.
        """
        image, label = self.read(index)
        return {"inputs": self._transform(widened(image, self._side)), "labels": label}


class _Folder(torchvision.datasets.ImageFolder):
    """torchvision's ImageFolder, to which what is hidden is no class and no part of one."""

    def __init__(self, folder: Path) -> None:
        def is_image(path: str) -> bool:
            above = Path(path).relative_to(folder).parts[:-1]
            return has_image_name(path) and not any(map(_is_hidden, above))

        super().__init__(folder, is_valid_file=is_image)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Finds the folders that are classes; torchvision calls this.

        Raises:
            FileNotFoundError: If there are none.
        """
        names, _ = super().find_classes(directory)
        names = [name for name in names if not _is_hidden(name)]
        if not names:
            raise FileNotFoundError(f"Couldn't find any class folder in {directory}.")
        return names, {name: i for i, name in enumerate(names)}


def _is_hidden(folder: str) -> bool:
    """Returns whether a folder holds what a program keeps beside the data, by its name.

    Jupyter leaves `.ipynb_checkpoints`, Windows and macOS leave folders in archives and on disks.
    """
    return folder.startswith((".", "$")) or folder in _OTHERS


@DATASETS.register_module()
class ImageFolder(_Images):
    """Image files in one folder per class, as ImageNet has them, with timm's transforms.

    Args:
        data_root: Folder of the data.
        split: Name of the folder in it that holds one folder per class, such as `train`.
        transform: Arguments of `timm.data.create_transform`.
        cache: Decode all images once, into memory that the loader's processes share.

    Raises:
        MissingFileError: If the folder is missing, or a class has no images.
        InputError: If there are less than two classes; or if the images are to be cached and do not
            fit the memory, or one cannot be read.
    """

    has_cache = True

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        split: str,
        transform: Mapping[str, Any],
        cache: bool = False,
    ) -> None:
        folder = Path(data_root) / split
        if not folder.is_dir():
            given = Path(data_root)
            above = f" (give {given.parent}, not {given})" if given.name == split else ""
            raise MissingFileError(
                f"there is no data folder {folder}; expected is one folder a class in it, as in "
                f"{folder / 'cat' / 'image.jpg'}{above}."
            )
        try:
            self._folder = _Folder(folder)
        except FileNotFoundError as e:  # no folder a class, or one without images
            raise MissingFileError(
                f"{folder} does not hold one folder of images a class: {e} Images are "
                f"{', '.join(sorted(SUFFIXES))}."
            ) from e
        super().__init__(tuple(self._folder.classes), transform)
        self._cache = None
        if cache:
            shapes = [read_size(path) for path, _ in self._folder.samples]
            self._cache = SharedImages(self._decode, shapes)

    def __len__(self) -> int:
        return len(self._folder)

    @property
    def labels(self) -> list[int]:
        """Labels of all images, in order."""
        return list(self._folder.targets)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Reads an image as it is, with its label."""
        pixels = self._decode(index) if self._cache is None else self._cache[index]
        return Image.fromarray(pixels), self._folder.targets[index]

    def _decode(self, index: int) -> np.ndarray:
        return read_image(self._folder.samples[index][0], "rgb")

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

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Reads an image as it is, with its label."""
        return Image.fromarray(self._images[index]), int(self._labels[index])

    @property
    def data_hash(self) -> str:
        """Digest of the crops and of their parameters, for records."""
        return file_digest(self._crops / MANIFEST)
