"""Detections of many images as one file in COCO's format."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunet_det.inference.detections import Detections
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.images import read_size
from prunet_det.utils.io import atomic_path

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
        images: Number of images that were added.
        annotations: Number of their detections.

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
        self.images = self.annotations = 0
        self.content: dict[str, list[Any]] = {
            "images": [],
            "annotations": [],
            "categories": categories,
        }

    def check_images(self, paths: Sequence[Path]) -> None:
        """Refuses images that the annotation file does not have, and says how many of its are here.

        Args:
            paths: Images; one that cannot be read is left for later.

        Raises:
            InputError: As `image_id` does, or if an image has another size in the file.
        """
        if self._entries is None:
            return
        given = set()
        for path in paths:
            entry = self._entry(path)
            given.add(entry["id"])
            try:
                height, width = read_size(path)
            except UserError:
                continue
            sides = [entry.get("width") or width, entry.get("height") or height]
            if sorted(sides) != sorted((width, height)):  # files that swap them are usual
                raise InputError(
                    f"{path} has {width}x{height} pixels, but {entry['file_name']} of the "
                    f"annotation file {sides[0]}x{sides[1]}: it is another image of that name."
                )
        total = sum(map(len, self._entries.values()))
        logger.info("%d of the annotation file's %d images are given", len(given), total)

    def image_id(self, path: Path) -> int | str:
        """Returns the id that an image has, or the next one.

        Raises:
            InputError: If the annotation file does not have the image, or has several of its name
                and none of its path.
        """
        return self.images if self._entries is None else self._entry(path)["id"]

    def _entry(self, path: Path) -> Mapping[str, Any]:
        entries = (self._entries or {}).get(path.name, [])
        if len(entries) > 1:
            place = path.resolve().as_posix()
            entries = [e for e in entries if place.endswith("/" + e["file_name"].lstrip("/"))]
        if len(entries) != 1:
            which = "no image" if not entries else "several images"
            raise InputError(f"the annotation file has {which} {path.name} ({path}).")
        return entries[0]

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
        self.images += 1
        known = found[[i for i, label in enumerate(found.labels) if self._known[label]]]
        for record in known.to_coco(image_id, self._category_ids):
            self.annotations += 1
            area = round(record["bbox"][2] * record["bbox"][3], 2)
            self.content["annotations"].append(
                {"id": self.annotations, **record, "area": area, "iscrowd": 0}
            )


@contextlib.contextmanager
def writing_record(
    path: str | os.PathLike[str], record: CocoRecord
) -> Iterator[Callable[[], None]]:
    """Writes a record while it is made, whole or not at all, so that it takes no memory.

    Args:
        path: File to write.
        record: The record, of which nothing has been taken yet.

    Yields:
        A function that writes the entries that the record has collected, and takes them out of it.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as images,
    ):
        categories = json.dumps(record.content["categories"])
        file.write(f'{{"categories": {categories},\n"annotations": [')
        commas = {"images": "", "annotations": ""}

        def write() -> None:
            for key, to in (("images", images), ("annotations", file)):
                for entry in record.content[key]:
                    to.write(f"{commas[key]}\n{json.dumps(entry)}")
                    commas[key] = ","
                record.content[key].clear()

        yield write
        write()
        file.write('],\n"images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("]}\n")
