"""Data sets in COCO format for MMDetection: folders of a user's own, and the embedded sets."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from prunet_det.datasets import data_hash, ensure
from prunet_det.datasets.cache import SharedImages
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.io import file_digest


@DATASETS.register_module()
class CocoFolder(CocoDataset):
    """A folder in COCO format, whose classes are read from its annotation file.

    Args:
        data_root: Folder of the data.
        ann_file: Annotation file, relative to data_root.
        data_prefix: `dict(img=FOLDER)`, the folder of the images, relative to data_root.
        cache: Decode all images once, into memory that the loader's processes share.
        **kwargs: Further arguments of CocoDataset.

    Raises:
        MissingFileError: If a folder or the annotation file is missing.
        InputError: If the annotations are damaged, or list no images or no categories; or if the
            images are to be cached and do not fit the memory, or one cannot be read.
    """

    has_cache = True

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        ann_file: str,
        data_prefix: dict[str, str],
        *,
        cache: bool = False,
        **kwargs: Any,
    ) -> None:
        root = Path(data_root)
        images = root / data_prefix["img"]
        for path, title in ((root, "data folder"), (images, "image folder")):
            if not path.is_dir():
                raise MissingFileError(
                    f"there is no {title} {path}; expected are the images in {images} and COCO "
                    f"annotations in {root / ann_file}."
                )
        classes = read_classes(root / ann_file)
        kwargs.setdefault("metainfo", {"classes": classes})
        self._cache = cache
        super().__init__(data_root=str(root), ann_file=ann_file, data_prefix=data_prefix, **kwargs)
        self._annotations = root / ann_file

    def full_init(self) -> None:
        """Reads the annotations and, with a cache, decodes the images; mmengine calls this."""
        if not self._fully_initialized:
            super().full_init()
            if self._cache:
                self._cache_images()

    def _cache_images(self) -> None:
        """Decodes the images, and puts the pipeline's loading from them in that from files."""
        infos = [self.get_data_info(i) for i in range(len(self))]
        shapes = [(info["height"], info["width"]) for info in infos]
        steps = self.pipeline.transforms
        for i, load in enumerate(steps):
            if type(load) is LoadImageFromFile:

                def decode(index: int, load: LoadImageFromFile = load) -> np.ndarray:
                    path = infos[index]["img_path"]
                    with _naming(lambda: path):
                        return load({"img_path": path})["img"]

                steps[i] = LoadImageFromMemory(SharedImages(decode, shapes))

    def prepare_data(self, idx: int) -> Any:
        """Reads and transforms an image, as CocoDataset does.

        Raises:
            InputError: If the image is missing or cannot be decoded.
        """
        with _naming(lambda: self.get_data_info(idx)["img_path"]):
            return super().prepare_data(idx)

    @property
    def data_hash(self) -> str:
        """Digest of the annotation file, for records."""
        return file_digest(self._annotations)


class LoadImageFromMemory(BaseTransform):
    """MMDetection's LoadImageFromFile, of images that are decoded.

    Args:
        images: All images of the data set, in its order.
    """

    def __init__(self, images: SharedImages) -> None:
        self.images = images

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds an image, which is read-only.

        Args:
            results: `sample_idx`, the index of the image; `img` and its shapes are added.

        Returns:
            The same.
        """
        image = self.images[results["sample_idx"]]
        return {**results, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


@contextlib.contextmanager
def _naming(find: Callable[[], str]) -> Iterator[None]:
    """Raises as an InputError whatever happens within, if the image cannot be read.

    Args:
        find: Returns the image's path; it is called after an error only.
    """
    try:
        yield
    except Exception as e:  # MMCV asserts, OpenCV and the operating system raise their own
        path = find()
        if cv2.imread(path) is None:
            raise InputError(f"{path} is missing or no image that can be read.") from e
        raise


def read_classes(ann_file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads the category names of a COCO annotation file, in the order of the labels.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is damaged, or lists no images or no categories.
    """
    path = Path(ann_file)
    if not path.is_file():
        raise MissingFileError(f"there is no annotation file {path}.")
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        counts = {key: len(coco[key]) for key in ("images", "annotations", "categories")}
        names = [c["name"] for c in coco["categories"]]
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path} is no COCO annotation file: {type(e).__name__}: {e}.") from e
    for key in ("images", "categories"):
        if not counts[key]:
            raise InputError(f"{path} lists no {key}; there is nothing to train or evaluate on.")
    _check_items(coco["images"], ("id", "file_name", "height", "width"), f"{path}: image")
    needed = ("id", "image_id", "category_id", "bbox", "area")
    _check_items(coco["annotations"], needed, f"{path}: annotation")
    return tuple(names)


def _check_items(items: list[dict[str, Any]], required: tuple[str, ...], what: str) -> None:
    """Refuses a list of which an item lacks a key, or has a box of other than four numbers."""
    for item in items:
        lacks = next((key for key in required if key not in item), None)
        if lacks is not None:
            raise InputError(f"{what} {item.get('id', '')} has no {lacks!r}: {item}."[:300])
        if "bbox" in item and len(item["bbox"]) != 4:
            raise InputError(
                f"{what} {item['id']} has the bbox {item['bbox']}; it needs 4 numbers."
            )


@DATASETS.register_module()
class EmbeddedDataset(CocoFolder):
    """An embedded set, made on first use.

    Args:
        name: Name of the set, `digits` or `glyphs`.
        data_root: Folder of the set; what is missing is made there.
        **kwargs: Further arguments of CocoFolder.
    """

    def __init__(self, name: str, data_root: str | os.PathLike[str], **kwargs: Any) -> None:
        self._root = ensure(name, data_root)
        super().__init__(data_root=self._root, **kwargs)

    @property
    def data_hash(self) -> str:
        """Digest of the set's annotations and images, for records."""
        return data_hash(self._root)
