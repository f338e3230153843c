"""Detections of many images as one file in COCO's format."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunet_det.inference.detections import Detections
from prunet_det.utils.errors import InputError

logger = logging.getLogger(__name__)


class CocoRecord:
    """Collects detections; `content` is what a file in COCO's format holds.

    Its annotations have areas and scores: pycocotools reads it as a file of annotations, and takes
    the list of annotations as results (`loadRes`).

    Args:
        classes: Class names, in the order of the labels.
        annotations: Content of the annotation file whose ids of images and categories are to be
            used; by default images are numbered from 0 and categories from 1.

    Attributes:
        content: `images`, `annotations` and `categories`.

    Raises:
        InputError: If the file has none of the classes.
    """

    def __init__(
        self, classes: Sequence[str], annotations: Mapping[str, Any] | None = None
    ) -> None:
        self._entries: dict[str, list[Mapping[str, Any]]] | None = None
        categories: list[Any]
        if annotations is None:
            categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        else:
            categories = list(annotations["categories"])
            self._entries = defaultdict(list)
            for entry in annotations["images"]:
                self._entries[Path(entry["file_name"]).name].append(entry)
        self._category_ids: dict[str, int] = {c["name"]: c["id"] for c in categories}
        self._known = [name in self._category_ids for name in classes]
        unknown = [name for name, known in zip(classes, self._known, strict=True) if not known]
        if len(unknown) == len(classes):
            raise InputError(
                f"the annotation file has none of the detector's classes ({', '.join(classes)})."
            )
        if unknown:
            logger.warning("the annotation file has no category %s: left out.", ", ".join(unknown))
        self.content: dict[str, list[Any]] = {
            "images": [],
            "annotations": [],
            "categories": categories,
        }

    def image_id(self, path: Path) -> int | str:
        """Returns the id that an image has, or the next one.

        Raises:
            InputError: If the annotation file does not have the image, or has several of its name
                and none of its path.
        """
        if self._entries is None:
            return len(self.content["images"])
        entries = self._entries.get(path.name, [])
        if len(entries) > 1:
            place = path.resolve().as_posix()
            entries = [e for e in entries if place.endswith("/" + e["file_name"].lstrip("/"))]
        if len(entries) != 1:
            which = "no image" if not entries else "several images"
            raise InputError(f"the annotation file has {which} {path.name} ({path}).")
        return entries[0]["id"]

    def add(self, found: Detections, path: str | os.PathLike[str], **more: Any) -> None:
        """Adds the detections of an image.

        Args:
            found: The detections.
            path: Path of the image.
            **more: Further keys of the image.

        Raises:
            InputError: As `image_id` does.
        """
        image_id = self.image_id(Path(path))
        height, width = found.image().shape[:2]
        size = {"width": width, "height": height}
        self.content["images"].append(
            {"id": image_id, "file_name": os.fspath(path), **size, **more}
        )
        known = found[[i for i, label in enumerate(found.labels) if self._known[label]]]
        for record in known.to_coco(image_id, self._category_ids):
            number = len(self.content["annotations"]) + 1
            area = round(record["bbox"][2] * record["bbox"][3], 2)
            self.content["annotations"].append({"id": number, **record, "area": area, "iscrowd": 0})
