"""Making an embedded set on disk: in COCO format, in parallel, atomic, checked by a manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from prunet_det.datasets.compose import EmbeddedSet
from prunet_det.datasets.digits import DigitsSet, SingleDigitsSet
from prunet_det.datasets.drawing import write_contact_sheet
from prunet_det.datasets.glyphs import CapitalsSet, GlyphsSet, SingleGlyphsSet
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.io import atomic_path, digest, file_lock
from prunet_det.utils.jobs import ordered_map

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHEET = "contact_sheet.png"
_SIGNATURE = "made by prunet_det"
_OWN_FILES = re.compile(
    r"(train|val)/(\.\d+\.)?\d{6}\.jpg|annotations/(train|val)\.json|manifest\.json|contact_sheet\.png"
    r"|(\.crops\.partial|crops)/((train|val)_(images|labels)\.npy|manifest\.json)"
)
# An object of an image: label, box (x, y, width, height), area, visible share, run-length mask.
_Object: TypeAlias = tuple[int, tuple[int, int, int, int], int, float, dict[str, Any]]

SETS: dict[str, EmbeddedSet] = {
    s.name: s
    for s in (DigitsSet(), GlyphsSet(), CapitalsSet(), SingleGlyphsSet(), SingleDigitsSet())
}


def get_set(name: str) -> EmbeddedSet:
    """Returns the parameters of a named set.

    Raises:
        InputError: If no set has this name.
    """
    if name not in SETS:
        raise InputError(f"there is no embedded set {name!r}; the known ones: {', '.join(SETS)}.")
    return SETS[name]


def ensure(name: str, root: str | os.PathLike[str], workers: int | None = None) -> Path:
    """Makes an embedded set where it is missing, and repairs it where it is damaged.

    Several processes may call this at once: the first one works and the others wait for it.

    Args:
        name: Name of the set, `digits` or `glyphs`.
        root: Folder of the set; it gets `train/`, `val/`, `annotations/`, a contact sheet and a
            manifest.
        workers: Number of processes; None for one per core.

    Returns:
        The folder.

    Raises:
        InputError: If the name is unknown, or `root` holds files that are not of this set.
        OSError: If the folder cannot be written.
    """
    embedded, root = get_set(name), Path(root)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is no folder; give another place for the data.")
    if _read_manifest(root) is None:
        _refuse_foreign(embedded, root)  # before the lock, which is a file
    if not root.is_dir():
        root.parent.mkdir(parents=True, exist_ok=True)
    with lock(root):
        manifest = _read_manifest(root)
        if manifest is None or manifest.get("parameters") != _parameters(embedded):
            _make(embedded, root, workers)
        else:
            damaged = [
                file for file, digest in manifest["files"].items() if sha256(root / file) != digest
            ]
            if damaged:
                _repair(embedded, root, damaged, manifest, workers)
            if not (root / SHEET).is_file():
                write_contact_sheet(root, "train")
    return root


def data_hash(root: str | os.PathLike[str]) -> str:
    """Returns the digest of a finished set's annotations and images, from its manifest.

    Raises:
        MissingFileError: If there is no manifest.
    """
    manifest = _read_manifest(Path(root))
    if manifest is None:
        raise MissingFileError(f"{root} is no embedded set: it has no readable {MANIFEST}.")
    return digest(manifest["files"])


def _parameters(embedded: EmbeddedSet) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(embedded)))


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Lets one process at a time work on a folder; on a read-only disk, all may read it."""
    path = root.parent / f".{root.name}.lock"
    if root.is_dir() and not os.access(root.parent, os.W_OK):
        yield
        return
    with file_lock(path):
        yield


def _read_manifest(root: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "files" in manifest else None


def sha256(path: Path) -> str:
    """Returns the SHA-256 digest of a file, or an empty string if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _draw_one(job: tuple[EmbeddedSet, str, int]) -> tuple[bytes, list[_Object]]:
    """Draws an image and encodes it and the masks of its objects."""
    from pycocotools import mask as coco_mask

    embedded, split, index = job
    image, drawn = embedded.draw(split, index)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    objects = []
    for item in drawn:
        rle = coco_mask.encode(np.asfortranarray(item.mask.astype(np.uint8)))
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        visible = round(item.visible, 3)
        objects.append((item.label, item.box, int(item.mask.sum()), visible, rle))
    return data.tobytes(), objects


def _draw_many(
    embedded: EmbeddedSet, jobs: Sequence[tuple[str, int]], workers: int | None
) -> Iterator[tuple[bytes, list[_Object]]]:
    """Draws images in parallel and yields them in the order of the jobs."""
    full = [(embedded, split, index) for split, index in jobs]
    return ordered_map(_draw_one, full, workers, f"making {embedded.name}")


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _coco(embedded: EmbeddedSet, split: str) -> dict[str, Any]:
    return {
        "info": {"description": f"{embedded.name} {split}, {_SIGNATURE}"},
        "categories": [{"id": i + 1, "name": c} for i, c in enumerate(embedded.classes)],
        "images": [],
        "annotations": [],
    }


def _make(embedded: EmbeddedSet, root: Path, workers: int | None) -> None:
    """Makes the whole set in a temporary folder beside `root` and renames it into place."""
    _refuse_foreign(embedded, root)
    partial = root.parent / f".{root.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    jobs = [(split, i) for split, count in embedded.counts for i in range(count)]
    coco = {split: _coco(embedded, split) for split, _ in embedded.counts}
    for split in coco:
        (partial / split).mkdir(parents=True)
    (partial / "annotations").mkdir()
    files: dict[str, str] = {}
    for (split, index), (data, objects) in zip(
        jobs, _draw_many(embedded, jobs, workers), strict=True
    ):
        name = _file_name(index)
        (partial / split / name).write_bytes(data)
        files[f"{split}/{name}"] = hashlib.sha256(data).hexdigest()
        _annotate(coco[split], index, name, embedded.size, objects)
    for split, content in coco.items():
        text = json.dumps(content).encode()
        (partial / "annotations" / f"{split}.json").write_bytes(text)
        files[f"annotations/{split}.json"] = hashlib.sha256(text).hexdigest()
    write_contact_sheet(partial, "train")
    manifest = {"parameters": _parameters(embedded), "files": files}
    (partial / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(root, ignore_errors=True)
    os.replace(partial, root)


def _refuse_foreign(embedded: EmbeddedSet, root: Path) -> None:
    """Raises InputError if `root` holds a file that is not of this set."""
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        name = path.relative_to(root).as_posix()
        ours = path.is_dir() or bool(_OWN_FILES.fullmatch(name))
        if ours and name.startswith("annotations/"):
            with contextlib.suppress(ValueError):  # damaged JSON is taken for this set's, damaged
                ours = _SIGNATURE in str(json.loads(path.read_bytes()).get("info"))
        if not ours:
            raise InputError(
                f"{root} exists and holds {name}, which is no part of the set {embedded.name}; "
                "choose another folder or empty this one."
            )


def _annotate(
    coco: dict[str, Any], index: int, name: str, size: int, objects: list[_Object]
) -> None:
    coco["images"].append({"id": index, "file_name": name, "height": size, "width": size})
    for label, box, area, visible, rle in objects:
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": index,
                "category_id": label + 1,
                "bbox": list(box),
                "area": area,
                "visible": visible,
                "segmentation": rle,
                "iscrowd": 0,
            }
        )


def _repair(
    embedded: EmbeddedSet,
    root: Path,
    damaged: list[str],
    manifest: dict[str, Any],
    workers: int | None,
) -> None:
    """Draws damaged images again, or the whole set where an annotation file is damaged."""
    total = len(manifest["files"])
    logger.warning(
        "%s: %d of %d files are missing or damaged; repairing them.", root, len(damaged), total
    )
    if any(file.startswith("annotations/") for file in damaged):
        _make(embedded, root, workers)
        return
    jobs = [(Path(file).parent.name, int(Path(file).stem)) for file in damaged]
    for file, (data, _) in zip(damaged, _draw_many(embedded, jobs, workers), strict=True):
        if hashlib.sha256(data).hexdigest() != manifest["files"][file]:
            # Other versions of the libraries draw other bytes, and must not be mixed in a set.
            _make(embedded, root, workers)
            return
        with atomic_path(root / file) as temporary:
            temporary.write_bytes(data)
