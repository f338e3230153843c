"""Data sets in COCO format for MMDetection: folders of a user's own, and the embedded sets."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv.transforms
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS

from prunet_det.datasets import data_hash, ensure
from prunet_det.datasets.cache import SharedImages
from prunet_det.datasets.coco import check_scale, describe_classes, read_coco, select_classes
from prunet_det.detection.metric import coco_api
from prunet_det.utils.errors import InputError, MissingFileError, UserError
from prunet_det.utils.images import decode_image, read_image
from prunet_det.utils.io import file_digest

logger = logging.getLogger(__name__)


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
            images are to be cached and do not fit the memory, one cannot be read, or the pipeline
            does not load them with a plain LoadImageFromFile.
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
        self._annotations, self._images = root / ann_file, images
        self._content: dict[str, Any] | None = read_coco(self._annotations, images)
        names = tuple(c["name"] for c in self._content["categories"])
        kwargs.setdefault("metainfo", {"classes": names})
        self._cache = cache
        super().__init__(data_root=str(root), ann_file=ann_file, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the annotations, their categories brought to the classes by name."""
        content = self._content or read_coco(self._annotations, self._images)
        self._content = None  # it may be large
        difference = describe_classes(content, self.metainfo["classes"])
        if difference:
            logger.warning("%s %s.", self._annotations, difference)
        content = select_classes(content, self.metainfo["classes"], self._annotations)
        self._boxes = np.array([a["bbox"] for a in content["annotations"]]).reshape(-1, 4)
        self.COCOAPI = lambda _: coco_api(content)
        try:
            return super().load_data_list()
        finally:
            del self.COCOAPI

    def filter_data(self) -> list[dict[str, Any]]:
        """Leaves out images as `filter_cfg` says.

        Raises:
            InputError: If none is left.
            MissingFileError: If one that is left is not there.
        """
        left = super().filter_data()
        if not self.test_mode and (self.filter_cfg or {}).get("filter_empty_gt"):
            # MMDetection's rule knows annotations, not whether their boxes can be used.
            left = [info for info in left if info["instances"]]
        if not left or not (self.test_mode or any(info["instances"] for info in left)):
            raise InputError(
                f"{self._annotations}: there is nothing to train on, for {self._why_nothing()}."
            )
        missing = _missing_files([info["img_path"] for info in left])
        if missing and any(map(_needs_files, self.pipeline.transforms)):
            raise MissingFileError(
                f"{self._annotations} lists images that are not there: {len(missing)} of "
                f"{len(left)}, such as {missing[0]}."
            )
        return left

    def _why_nothing(self) -> str:
        """Says why no image with a box is left."""
        if any(info["instances"] for info in self.data_list):
            filters = self.filter_cfg or {}
            smallest = filters.get("min_size", 0)
            return f"no image with a box has sides of {smallest} px or more (filter_cfg={filters})"
        if not len(self._boxes):
            return "no image has a box"
        why = f"all {len(self._boxes)} boxes are left out: "
        if self._boxes.min() >= 0 and self._boxes.max() <= 1:
            return why + (
                "they lie within 0..1, as if they were fractions of the images' sides, and are "
                "needed as x, y, width and height in pixels"
            )
        return why + "they are less than a pixel wide or high, or outside of their images"

    def use_classes(self, classes: Sequence[str]) -> None:
        """Reads the annotations again for a network's classes, in the order of its labels.

        Raises:
            InputError: If the file has none of them.
        """
        self._metainfo["classes"] = tuple(classes)
        self._fully_initialized = False
        self.full_init()

    def full_init(self) -> None:
        """Reads the annotations and, with a cache, decodes the images; mmengine calls this."""
        if not self._fully_initialized:
            super().full_init()
            if self._cache:
                self._cache_images()

    def _cache_images(self) -> None:
        """Decodes the images, and puts the pipeline's loading from them in that from files.

        Raises:
            InputError: If the pipeline loads no files, or the images cannot be cached.
        """
        infos = [self.get_data_info(i) for i in range(len(self))]
        shapes = [(info["height"], info["width"]) for info in infos]
        steps = self.pipeline.transforms
        # After a change of classes it is loading from memory that is replaced.
        loads = [s.load if isinstance(s, LoadImageFromMemory) else s for s in steps]
        plain = LoadImageFromFile, mmcv.transforms.LoadImageFromFile
        place = next((i for i, s in enumerate(loads) if type(s) in plain), None)
        if place is None:
            raise InputError(
                "the cache takes the place of LoadImageFromFile, which the pipeline of "
                f"{self._annotations} does not have; load images with it or leave the cache out."
            )

        def decode(index: int) -> np.ndarray:
            info, (height, width) = infos[index], shapes[index]
            path = info["img_path"]
            with _naming(lambda: path):
                image = loads[place](dict(info))["img"]
            if sorted(image.shape[:2]) != sorted((height, width)):
                raise InputError(
                    f"{path} has {image.shape[1]} x {image.shape[0]} px, not {width} x {height} as "
                    f"{self._annotations} says, so that it cannot be cached; mend the annotation "
                    "or leave the cache out."
                )
            return image

        steps[place] = LoadImageFromMemory(SharedImages(decode, shapes), loads[place])

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


@TRANSFORMS.register_module()
class LoadImageFromFile(mmcv.transforms.LoadImageFromFile):
    """MMDetection's LoadImageFromFile, whose files the package's one reader decodes.

    It is what any config of MMDetection's gets by this name: pixels are the same, and what
    MMDetection reads wrongly or not at all is read or refused by name, see `read_image`. Where a
    config asks for another `color_type` or `imdecode_backend`, MMDetection's own reads.
    """

    _said = False  # that an image has another size than its annotation says

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Adds an image and its shapes.

        Args:
            results: `img_path` and, as far as they are known, `height`, `width` and `instances`
                that are stated; `img`, (H, W, 3) in BGR, `img_shape` and `ori_shape` are added.

        Returns:
            The same; None if the image cannot be read and `ignore_empty` is on.

        Raises:
            InputError: If the file is no image, damaged or cut short, or has boxes that belong to
                an image of another size.
            OSError: If there is no such file, or none that can be opened.
        """
        asked = self.color_type, self.imdecode_backend, self.file_client_args
        if asked != ("color", "cv2", None):
            return super().transform(results)
        path = results["img_path"]
        try:
            data = mmengine.fileio.get(path, backend_args=self.backend_args)
            image = decode_image(data, path)
        except (UserError, OSError):
            if self.ignore_empty:
                return None
            raise
        self._compare(results, image)
        if self.to_float32:
            image = image.astype(np.float32)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def _compare(self, results: dict[str, Any], image: np.ndarray) -> None:
        """Compares the size that is stated with the image's; says it of the first that differs."""
        height, width = results.get("height"), results.get("width")
        size = image.shape[:2]
        if height is None or width is None or (height, width) == size:
            return
        for instance in results.get("instances", ()):
            left, top, right, bottom = instance["bbox"]
            box = left, top, right - left, bottom - top
            check_scale(results["img_path"], (height, width), size, box)
        if not self._said:
            self._said = True
            logger.warning(
                "%s has %d x %d px and its annotation says %d x %d; the image's size is used, here "
                "and wherever they differ.",
                *(results["img_path"], *size[::-1], width, height),
            )


class LoadImageFromMemory(BaseTransform):
    """MMDetection's LoadImageFromFile, of images that are decoded.

    Args:
        images: All images of the data set, in its order.
        load: The step that decoded them.
    """

    def __init__(self, images: SharedImages, load: mmcv.transforms.LoadImageFromFile) -> None:
        self.images, self.load = images, load

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds an image, which is read-only.

        Args:
            results: `sample_idx`, the index of the image; `img` and its shapes are added.

        Returns:
            The same.
        """
        image = self.images[results["sample_idx"]]
        return {**results, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


def _needs_files(step: Any) -> bool:
    """Returns whether a step of a pipeline reads images that must be on a disk."""
    load = mmcv.transforms.LoadImageFromFile
    return isinstance(step, load) and not (step.ignore_empty or step.backend_args)


def _missing_files(paths: Sequence[str]) -> list[str]:
    """Returns those paths that are no files; folders are listed, which is quicker than asking."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder] and not os.path.isfile(path):  # a disk may ignore case
            missing.append(path)
    return missing


@contextlib.contextmanager
def _naming(find: Callable[[], str]) -> Iterator[None]:
    """Raises as an InputError whatever happens within, if the image is at fault.

    Args:
        find: Returns the image's path; it is called after an error only.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # MMCV asserts, OpenCV and the operating system raise their own
        path = find()
        height, width = read_image(path).shape[:2]  # which raises if the file cannot be read
        if isinstance(e, cv2.error) and e.func == "resize":
            raise InputError(
                f"{path} has {width} x {height} px, which the pipeline would scale to a side "
                "without a pixel; leave it out, or scale by Letterbox or RandomScaleCrop."
            ) from e
        raise


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
