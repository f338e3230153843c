"""Annotation files in COCO's format, in whatever state they come.

What is harmless is put right: ids of any kind, order and start, a missing area, iscrowd, width or
height, sizes that are not the image's. What has no meaning is refused, and the sentence names the
file, the entry and the field. pycocotools and MMDetection then get what they understand.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.images import read_size

logger = logging.getLogger(__name__)

Size: TypeAlias = tuple[int, int]  # height and width

_SAMPLE = 256  # images whose sizes are compared before all others, which are when they are loaded
_LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}


class _Reader:
    """One annotation file while it is read.

    Args:
        path: The file, for messages.
        images: Folder of the images, from which missing and doubtful sizes are read.
    """

    def __init__(self, path: Path, images: Path | None) -> None:
        self.path, self.images = path, images

    def read(self) -> dict[str, Any]:
        """Returns images, annotations and categories as pycocotools understands them."""
        data = self._load()
        categories = self._entries(data, "categories", ("id", "name"))
        names = [str(c["name"]) for c in categories]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(f"{self.path}: two categories have the name {name!r}.")
        images = self._entries(data, "images", ("id", "file_name"))
        image_ids = self._ids(images)
        category_ids = self._ids(categories)
        annotations = self._entries(
            data, "annotations", ("id", "image_id", "category_id", "bbox"), same_ids=True
        )
        annotations = [
            self._annotation(number, annotation, image_ids, category_ids)
            for number, annotation in enumerate(annotations, 1)
        ]
        known = [a for a in annotations if a["image_id"] is not None]
        if len(known) < len(annotations):
            self._warn(len(annotations) - len(known), "of images that the file does not list")
        numbered = [self._image(image, image_ids[_key(image["id"])]) for image in images]
        self._check_sizes(numbered, known)
        return {
            "info": {},
            "images": numbered,
            "annotations": known,
            "categories": [
                {**c, "id": category_ids[_key(c["id"])], "name": str(c["name"])} for c in categories
            ],
        }

    def _load(self) -> Mapping[str, Any]:
        if not self.path.is_file():
            raise MissingFileError(f"there is no annotation file {self.path}.")
        try:
            data = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except ValueError as e:
            raise InputError(f"{self.path} is no COCO annotation file: {e}.") from e
        for key in _LISTS:
            if not isinstance(data, Mapping) or not isinstance(data.get(key), list):
                raise InputError(f"{self.path} is no COCO annotation file: it has no list {key!r}.")
            if not data[key] and key != "annotations":
                raise InputError(f"{self.path} lists no {key}; there is nothing to do with it.")
        return data

    def _entries(
        self, data: Mapping[str, Any], kind: str, fields: Sequence[str], same_ids: bool = False
    ) -> list[dict[str, Any]]:
        """Returns a list's entries, each with the fields that it needs and its own id."""
        entries, seen = data[kind], set()
        for i, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise InputError(
                    f"{self.path}: {_LISTS[kind]} number {i + 1} is no object: {str(entry)[:80]}."
                )
            for field in fields:
                if entry.get(field) is None:
                    self._refuse(kind, i, entry, f"has no {field!r}")
            if not isinstance(entry["id"], (int, float, str)):
                self._refuse(kind, i, entry, "has an id that is neither a number nor a text")
            if not same_ids and _key(entry["id"]) in seen:
                self._refuse(kind, i, entry, "has the id of another one")
            seen.add(_key(entry["id"]))
        return entries

    def _refuse(self, kind: str, i: int, entry: Mapping[str, Any], what: str) -> NoReturn:
        name = f"{entry['id']!r}" if entry.get("id") is not None else f"number {i + 1}"
        raise InputError(f"{self.path}: {_LISTS[kind]} {name} {what}: {str(entry)[:120]}.")

    def _ids(self, entries: Sequence[Mapping[str, Any]]) -> dict[Hashable, int]:
        """Maps ids to integers: to themselves if all of them are integers, else to 1, 2, ..."""
        keys = [_key(entry["id"]) for entry in entries]
        whole = all(isinstance(entry["id"], int) for entry in entries)
        numbers = [int(entry["id"]) for entry in entries] if whole else range(1, len(keys) + 1)
        return dict(zip(keys, numbers, strict=True))

    def _image(self, image: Mapping[str, Any], number: int) -> dict[str, Any]:
        sides = {}
        for side in ("width", "height"):
            value = image.get(side)
            if value is not None and not (_is_number(value) and value > 0):
                raise InputError(
                    f"{self.path}: image {image['id']!r} has the {side} {value!r}; it needs a "
                    "number of pixels."
                )
            sides[side] = None if value is None else int(value)
        name = str(image["file_name"])
        if self.images is not None and "\\" in name and not (self.images / name).is_file():
            name = name.replace("\\", "/")  # written on Windows
        return {**image, "id": number, "file_name": name, **sides}

    def _annotation(
        self,
        number: int,
        annotation: Mapping[str, Any],
        images: Mapping[Hashable, int],
        categories: Mapping[Hashable, int],
    ) -> dict[str, Any]:
        """Returns an annotation under its new ids; image_id is None if it has no image."""
        where = f"{self.path}: annotation {annotation['id']!r}"
        category = categories.get(_key(annotation["category_id"]))
        if category is None:
            raise InputError(
                f"{where} has the category_id {annotation['category_id']!r}, which is not among "
                "the file's categories."
            )
        box = annotation["bbox"]
        fits = isinstance(box, (list, tuple)) and len(box) == 4 and all(map(_is_number, box))
        if not fits or min(box[2:]) < 0:
            raise InputError(
                f"{where} has the bbox {box!r}; it needs x, y, width and height in pixels."
            )
        crowd = annotation.get("iscrowd") or 0
        if not isinstance(crowd, (bool, int, float)):
            raise InputError(f"{where} has the iscrowd {crowd!r}; it needs 0 or 1.")
        area = annotation.get("area")
        if area is not None and not _is_number(area):
            raise InputError(f"{where} has the area {area!r}; it needs a number of square pixels.")
        return {
            **annotation,
            "id": number,  # ids are names; pycocotools takes 0 for no match
            "image_id": images.get(_key(annotation["image_id"])),
            "category_id": category,
            "area": area if area is not None and area > 0 else box[2] * box[3],
            "iscrowd": int(bool(crowd)),
        }

    def _check_sizes(
        self, images: Sequence[dict[str, Any]], annotations: Sequence[Mapping[str, Any]]
    ) -> None:
        """Reads sizes from files: where none is stated, a box contradicts it, and of a sample.

        Raises:
            InputError: If an image was scaled or turned, and its boxes were not.
        """
        if self.images is None:
            return
        by_id = {image["id"]: image for image in images}
        doubtful = {i for i, image in by_id.items() if not (image["width"] and image["height"])}
        for annotation in annotations:
            image = by_id[annotation["image_id"]]
            if image["id"] not in doubtful and not _fits(annotation["bbox"], image):
                doubtful.add(image["id"])
        sample = images[:: math.ceil(len(images) / _SAMPLE)]
        doubtful |= {image["id"] for image in sample if self._has_other_size(image)}
        corrected: dict[int, Size] = {}
        for i in sorted(doubtful):
            image = by_id[i]
            stated = image["height"], image["width"]
            size = height, width = self._file_size(image["file_name"])
            if None not in stated and stated != size:
                corrected[i] = stated
            image.update(width=width, height=height)
        for annotation in annotations:
            image = by_id[annotation["image_id"]]
            size = image["height"], image["width"]
            if image["id"] in corrected:
                path = self.images / image["file_name"]
                check_scale(path, corrected[image["id"]], size, annotation["bbox"])
        if corrected:
            logger.warning(
                "%s states other sizes than %d of its images have, such as %s; theirs are used.",
                self.path,
                len(corrected),
                by_id[min(corrected)]["file_name"],
            )
        outside = sum(not _overlaps(a["bbox"], by_id[a["image_id"]]) for a in annotations)
        if outside:
            self._warn(outside, "whose boxes are empty or outside of their images")

    def _has_other_size(self, image: Mapping[str, Any]) -> bool:
        """Returns whether an image's file has another size than stated, if it can be read."""
        assert self.images is not None
        path = self.images / image["file_name"]
        try:
            return path.is_file() and read_size(path) != (image["height"], image["width"])
        except InputError:  # whoever loads it says so, or passes over it
            return False

    def _file_size(self, name: str) -> Size:
        assert self.images is not None
        path = self.images / name
        if not path.is_file():
            raise MissingFileError(f"there is no image {path}, which {self.path} lists.")
        return read_size(path)

    def _warn(self, count: int, what: str) -> None:
        logger.warning("%s has %d annotations %s; they are left out.", self.path, count, what)


def read_coco(
    path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Reads an annotation file in COCO's format.

    Args:
        path: The file.
        images: Folder of the images. Sizes that the file does not state, or that a box contradicts,
            are read from there, and of some images in any case; by default they stay as they are.

    Returns:
        `images`, `annotations` and `categories` as pycocotools understands them: integers as ids,
        annotations numbered from 1, and width, height, area and iscrowd in their places.

    Raises:
        MissingFileError: If there is no such file, or an image whose size is needed.
        InputError: If it is damaged, lists no images or categories, or an entry lacks a field or
            has an impossible value, or boxes belong to an image of another size; the sentence
            names it.
    """
    return _Reader(Path(path), None if images is None else Path(images)).read()


def check_scale(
    path: str | os.PathLike[str], stated: Size, size: Size, box: Sequence[float]
) -> None:
    """Refuses a box that belongs to an image of another size.

    Args:
        path: The image, for the message.
        stated: Height and width that its annotation file states.
        size: Height and width of the image, upright.
        box: x, y, width and height in pixels.

    Raises:
        InputError: If the box fits the stated size, but reaches beyond the image by more than two
            hundredths of its side, as rounding does not.
    """
    x, y, width, height = box
    right, bottom = x + width, y + height
    fits = right < stated[1] + 1 and bottom < stated[0] + 1
    if fits and (right > 1.02 * size[1] + 1 or bottom > 1.02 * size[0] + 1):
        raise InputError(
            f"{os.fspath(path)} has {size[1]} x {size[0]} px and its annotations say {stated[1]} x "
            f"{stated[0]}, with a box {list(box)} that reaches beyond it: the image was scaled or "
            "turned, and its boxes were not; take the images that were annotated, or change boxes "
            "and sizes alike."
        )


def select_classes(
    content: Mapping[str, Any], classes: Sequence[str], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """Brings an annotation file's categories to the classes of a network, by their names.

    Args:
        content: What `read_coco` returned.
        classes: Names of the classes, in the order of the labels.
        path: The file, for messages.

    Returns:
        The content with one category for each class, in their order. Annotations of other
        categories are left out; a class that the file does not know has no annotations.

    Raises:
        InputError: If the file has none of the classes.
    """
    by_name = {c["name"]: c for c in content["categories"]}
    if not set(classes) & set(by_name):
        raise InputError(
            f"{os.fspath(path)} has none of the classes {', '.join(classes[:8])}; it has "
            f"{', '.join(list(by_name)[:8])}."
        )
    free = max(c["id"] for c in content["categories"]) + 1
    categories = [
        by_name.get(name, {"id": free + i, "name": name}) for i, name in enumerate(classes)
    ]
    kept = {c["id"] for c in categories}
    annotations = [a for a in content["annotations"] if a["category_id"] in kept]
    return {**content, "categories": categories, "annotations": annotations}


def describe_classes(content: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Says how an annotation file's categories differ from the classes of a network.

    Args:
        content: What `read_coco` returned.
        classes: Names of the classes, in the order of the labels.

    Returns:
        A sentence without its subject, the file; empty if only the order differs, or nothing.
    """
    names = [c["name"] for c in content["categories"]]
    unknown = [name for name in names if name not in classes]
    missing = [name for name in classes if name not in names]
    parts = []
    if unknown:
        parts.append(f"has categories that are no classes here: {', '.join(unknown)}")
    if missing:
        parts.append(f"has nothing of {', '.join(missing)}")
    return " and ".join(parts)


def _key(value: Any) -> Hashable:
    """Returns what ids are compared by: 1, 1.0 and "1" name the same entry."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fits(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    """Returns whether a box lies within its image, up to a pixel."""
    x, y, width, height = box
    return min(x, y) > -1 and x + width < image["width"] + 1 and y + height < image["height"] + 1


def _overlaps(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    """Returns whether MMDetection trains on a box: a pixel wide and high, partly inside."""
    x, y, width, height = box
    inside = x < image["width"] and y < image["height"] and x + width > 0 and y + height > 0
    return inside and min(width, height) >= 1
