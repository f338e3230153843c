"""COCO-format data sets for MMDetection: one's own folder, and the embedded sets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from prunet_det.datasets import data_hash, ensure
from prunet_det.utils.io import file_digest


@DATASETS.register_module()
class CocoFolder(CocoDataset):
    """A COCO-format folder whose classes are read from its annotation file.

    Args:
        data_root: The folder.
        ann_file: The annotations, relative to it.
        data_prefix: `dict(img=...)`, the folder of the images, relative to it.
        **kwargs: CocoDataset's.

    Raises:
        FileNotFoundError: A folder or file is missing; the sentence says what is expected where.
        ValueError: The annotations are damaged, or list no images or no categories.
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        ann_file: str,
        data_prefix: dict[str, str],
        **kwargs: Any,
    ) -> None:
        root = Path(data_root)
        images = root / data_prefix["img"]
        for path, what in ((root, "data folder"), (images, "image folder")):
            if not path.is_dir():
                raise FileNotFoundError(
                    f"there is no {what} {path}; expected are the images in {images} and COCO "
                    f"annotations in {root / ann_file}."
                )
        classes = read_classes(root / ann_file)
        kwargs.setdefault("metainfo", {"classes": classes})
        super().__init__(data_root=str(root), ann_file=ann_file, data_prefix=data_prefix, **kwargs)
        self._annotations = root / ann_file

    @property
    def data_hash(self) -> str:
        """A digest of the annotation file, for records."""
        return file_digest(self._annotations)


def read_classes(ann_file: str | os.PathLike[str]) -> tuple[str, ...]:
    """The category names of a COCO annotation file, in its order, which is that of the labels.

    Raises:
        FileNotFoundError, ValueError: As CocoFolder.
    """
    path = Path(ann_file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}.")
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        counts = {key: len(coco[key]) for key in ("images", "annotations", "categories")}
        names = [c["name"] for c in coco["categories"]]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no COCO annotation file: {type(e).__name__}: {e}.") from e
    for key in ("images", "categories"):
        if not counts[key]:
            raise ValueError(f"{path} lists no {key}; there is nothing to train or evaluate on.")
    return tuple(names)


@DATASETS.register_module()
class EmbeddedDataset(CocoFolder):
    """An embedded set, made in `data_root` when it is not there yet.

    Args:
        name: `digits` or `glyphs`.
        data_root: The folder of the set.
        **kwargs: CocoFolder's.
    """

    def __init__(self, name: str, data_root: str | os.PathLike[str], **kwargs: Any) -> None:
        self._root = ensure(name, data_root)
        super().__init__(data_root=self._root, **kwargs)

    @property
    def data_hash(self) -> str:
        """A digest of the set's annotations and images, for records."""
        return data_hash(self._root)
