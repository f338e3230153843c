"""What a detector has found in an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from prunet_det.utils.errors import InputError
from prunet_det.utils.extras import require
from prunet_det.utils.io import atomic_path


class Detection(NamedTuple):
    """One object that was found.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        score: How sure the detector is, 0..1.
        label: Index of the class.
        name: Name of the class.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detections:
    """Objects that were found in an image, best first.

    `len` is their number; iterating and an index give a `Detection`; a slice, a mask or an array of
    indices give `Detections` again: `found[found.scores > 0.5]`.

    Attributes:
        boxes: (N, 4) float32: x1, y1, x2, y2 in pixels of the image.
        scores: (N,) float32, 0..1.
        labels: (N,) int64, indices of the classes.
        classes: Names of all classes that the detector knows, in the order of the labels.
        source: The image: its path, or (H, W, 3) uint8 in BGR if it was given in memory.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    source: Path | np.ndarray

    @property
    def names(self) -> list[str]:
        """Name of each object's class."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Detections: ...

    def __getitem__(self, index: Any) -> Detection | Detections:
        boxes, scores, labels = self.boxes[index], self.scores[index], self.labels[index]
        if np.ndim(scores):
            return replace(self, boxes=boxes, scores=scores, labels=labels)
        label = int(labels)
        return Detection(tuple(boxes.tolist()), float(scores), label, self.classes[label])

    def __repr__(self) -> str:
        counts = Counter(self.names).most_common()
        what = ": " + ", ".join(f"{count} {name}" for name, count in counts) if counts else ""
        return f"<{len(self)} detections{what}>"

    def to_coco(
        self, image_id: int | str = 0, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Returns COCO's records of results, as pycocotools' `loadRes` takes them.

        Args:
            image_id: Id of the image in its annotation file.
            category_ids: Ids of the categories by name, by default 1 + label.

        Returns:
            A dict for each object, best first: `image_id`, `category_id`, `bbox` (x, y, width,
            height in pixels) and `score`.

        Raises:
            InputError: If an object's class has no id.
        """
        if category_ids is None:
            category_ids = {name: i + 1 for i, name in enumerate(self.classes)}
        missing = sorted(set(self.names) - category_ids.keys())
        if missing:
            raise InputError(f"category_ids has no id of the class {missing[0]!r}.")
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        boxes = np.concatenate([self.boxes[:, :2], sizes], axis=1).astype(float).round(2)
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[name],
                "bbox": box,
                "score": round(float(score), 5),
            }
            for name, box, score in zip(self.names, boxes.tolist(), self.scores, strict=True)
        ]

    def image(self) -> np.ndarray:
        """Returns the image, (H, W, 3) uint8 in BGR; one that was given as a path is read again.

        Raises:
            MissingFileError, InputError: If it cannot be read any more.
        """
        if isinstance(self.source, np.ndarray):
            return self.source
        from prunet_det.inference.images import as_pixels

        return as_pixels(self.source)

    def draw(self) -> np.ndarray:
        """Returns a copy of the image with boxes, class names and scores, (H, W, 3) uint8 in BGR.

        Raises:
            MissingFileError, InputError: If the image cannot be read any more.
        """
        from prunet_det.datasets.drawing import class_colour, draw_box

        picture = self.image().copy()
        for box, score, label, name in reversed(list(self)):  # the best on top
            draw_box(picture, box, f"{name} {score:.2f}", class_colour(label, len(self.classes)))
        return picture

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the image with boxes, class names and scores.

        Args:
            path: File to write; its suffix says the format, such as `.jpg` or `.png`. A folder that
                is missing is made.

        Raises:
            InputError: If there is no such format, or the file is the image itself.
            MissingFileError, InputError: If the image cannot be read any more.
        """
        path = Path(path)
        if isinstance(self.source, Path) and path.exists() and path.samefile(self.source):
            raise InputError(f"{path} is the image itself, which would be lost; give another name.")
        write_picture(path, self.draw())


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes an image, whole or not at all.

    Args:
        path: File to write; its suffix says the format.
        image: (H, W, 3) uint8 in BGR.

    Raises:
        InputError: If there is no such format.
    """
    cv2 = require("cv2", "det")
    try:
        done, data = cv2.imencode(path.suffix.lower(), image)
    except cv2.error:
        done = False
    if not done:
        raise InputError(f"{path} cannot be written; its name must end in .jpg, .png or the like.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
