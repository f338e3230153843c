"""The objects of an embedded set as classification crops: uint8 arrays beside its images."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from prunet_det.datasets.build import MANIFEST, data_hash, ensure, get_set, lock, sha256
from prunet_det.utils.images import read_image
from prunet_det.utils.jobs import ordered_map


@dataclass(frozen=True, kw_only=True)
class CropParameters:
    """Parameters that define the crops of a set; crops on disk with other values are cut anew.

    Attributes:
        version: Version of the cutting code; it goes up when the same parameters give other crops.
        size: Side of a crop in pixels.
        margin: Background on each side of the object, as a fraction of its longer side.
        min_side: Minimum of an object's longer side in pixels.
        max_overlap: Maximum fraction of an object's box that another box may cover, 0..1; above
            it, the label would be a guess between the two.
        min_visible: Minimum fraction of an object that is visible, 0..1.
    """

    version: int = 1
    size: int = 64
    margin: float = 0.15
    min_side: int = 12
    max_overlap: float = 0.25
    min_visible: float = 0.9


DEFAULT = CropParameters()


def ensure_crops(
    name: str,
    root: str | os.PathLike[str],
    workers: int | None = None,
    parameters: CropParameters = DEFAULT,
) -> Path:
    """Makes the crops of an embedded set, and the set, where they are missing or damaged.

    Args:
        name: Name of the embedded set, `digits` or `glyphs`.
        root: Folder of the set; the crops go to its folder `crops`.
        workers: Number of processes; None for one per core.
        parameters: Parameters of the crops; those on disk with others are cut anew.

    Returns:
        The folder with `{train,val}_images.npy`, (N, size, size, 3) uint8 RGB, and
        `{train,val}_labels.npy`, (N,) int64, in the order of the annotations.

    Raises:
        InputError: If the name is unknown, or `root` holds files that are not of this set.
        OSError: If the folder cannot be written.
    """
    root = ensure(name, root, workers)
    folder = root / "crops"
    identity = {"parameters": asdict(parameters), "data_hash": data_hash(root)}
    with lock(root):
        if not _is_complete(folder, identity):
            _make(name, root, parameters, identity, workers)
    return folder


def _is_complete(folder: Path, identity: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest.pop("files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return manifest == identity and all(sha256(folder / f) == digest for f, digest in files.items())


def _make(
    name: str,
    root: Path,
    parameters: CropParameters,
    identity: dict[str, Any],
    workers: int | None,
) -> None:
    """Cuts all crops into a temporary folder and renames it into place."""
    folder, partial = root / "crops", root / ".crops.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for split, _ in get_set(name).counts:
        jobs, labels = _jobs(root, split, parameters)
        images = np.lib.format.open_memmap(
            partial / f"{split}_images.npy",
            mode="w+",
            dtype=np.uint8,
            shape=(len(labels), parameters.size, parameters.size, 3),
        )
        done = 0
        for crops in ordered_map(_cut_all, jobs, workers, f"cutting {name} {split}"):
            images[done : done + len(crops)] = crops
            done += len(crops)
        images.flush()
        np.save(partial / f"{split}_labels.npy", np.array(labels, np.int64))
    files = {path.name: sha256(path) for path in sorted(partial.glob("*.npy"))}
    (partial / MANIFEST).write_text(json.dumps({**identity, "files": files}), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _jobs(
    root: Path, split: str, parameters: CropParameters
) -> tuple[list[tuple[Path, list[list[int]], CropParameters]], list[int]]:
    """Lists (image file, its boxes, parameters), and the labels of all boxes in the same order."""
    coco = json.loads((root / "annotations" / f"{split}.json").read_text(encoding="utf-8"))
    by_image = defaultdict(list)
    for a in coco["annotations"]:
        by_image[a["image_id"]].append(a)
    jobs, labels = [], []
    for entry in coco["images"]:
        kept = recognisable(by_image[entry["id"]], parameters)
        if kept:
            path = root / split / entry["file_name"]
            jobs.append((path, [a["bbox"] for a in kept], parameters))
            labels += [a["category_id"] - 1 for a in kept]
    return jobs, labels


def recognisable(
    objects: Sequence[dict[str, Any]], parameters: CropParameters
) -> list[dict[str, Any]]:
    """Lists the objects of an image whose crops show what their labels say.

    Args:
        objects: COCO annotations of one image, with `bbox` and `visible`.
        parameters: Limits of size, visibility and overlap.
    """
    return [
        a
        for a in objects
        if max(a["bbox"][2:]) >= parameters.min_side
        and a["visible"] >= parameters.min_visible
        and all(
            _covered(a["bbox"], b["bbox"]) <= parameters.max_overlap for b in objects if b is not a
        )
    ]


def _covered(box: list[int], other: list[int]) -> float:
    """Returns the fraction of `box` that lies in `other`, both x, y, width, height."""
    (x, y, w, h), (ox, oy, ow, oh) = box, other
    width = min(x + w, ox + ow) - max(x, ox)
    height = min(y + h, oy + oh) - max(y, oy)
    return max(width, 0) * max(height, 0) / (w * h)


def _cut_all(job: tuple[Path, list[list[int]], CropParameters]) -> np.ndarray:
    path, boxes, parameters = job
    image = read_image(path, "rgb")
    return np.stack([cut(image, box, parameters) for box in boxes])


def cut(image: np.ndarray, box: list[int], parameters: CropParameters) -> np.ndarray:
    """Cuts the square round an object; outside the image, the image's edge is repeated.

    Args:
        image: (H, W, 3) uint8.
        box: x, y, width, height in pixels.
        parameters: Size and margin of the crop.

    Returns:
        (size, size, 3) uint8.
    """
    x, y, w, h = box
    side = round(max(w, h) * (1 + 2 * parameters.margin))
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    right, bottom = left + side, top + side
    height, width = image.shape[:2]
    part = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    square = cv2.copyMakeBorder(part, *beyond, cv2.BORDER_REPLICATE)
    mode = cv2.INTER_AREA if side > parameters.size else cv2.INTER_LINEAR
    return cv2.resize(square, (parameters.size, parameters.size), interpolation=mode)
