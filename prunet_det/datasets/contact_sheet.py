"""A picture of a COCO-format folder with its boxes, to look at."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def draw_box(image: np.ndarray, box: tuple[float, ...], text: str, colour: tuple[int, ...]) -> None:
    """Draws a box (x1, y1, x2, y2) with a caption on a BGR image, in place."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    scale = max(0.4, min(image.shape[:2]) / 900)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, max(1, round(2 * scale)), cv2.LINE_AA)
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    top = y1 - h - base if y1 - h - base >= 0 else min(y2, image.shape[0] - h - base)
    left = max(0, min(x1, image.shape[1] - w))
    cv2.rectangle(image, (left, top), (left + w, top + h + base), colour, -1)
    cv2.putText(
        image,
        text,
        (left, top + h + base // 2),
        cv2.FONT_HERSHEY_SIMPLEX,
        scale,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )


def class_colour(index: int, count: int) -> tuple[int, int, int]:
    """A BGR colour for a class, evenly spread over the hues and dark enough for white text."""
    hue = np.array([[[round(179 * index / count), 220, 190]]], np.uint8)
    b, g, r = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]
    return int(b), int(g), int(r)


def write_contact_sheet(root: Path, split: str, columns: int = 6, rows: int = 4) -> Path:
    """Writes `root`/contact_sheet.png: the first images of a split with their boxes and classes."""
    coco = json.loads((root / "annotations" / f"{split}.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in coco["categories"]}
    order = {c["id"]: i for i, c in enumerate(coco["categories"])}
    by_image = defaultdict(list)
    for a in coco["annotations"]:
        by_image[a["image_id"]].append(a)
    tiles = []
    for entry in coco["images"][: columns * rows]:
        image: Any = cv2.imread(str(root / split / entry["file_name"]))
        for a in by_image[entry["id"]]:
            x, y, w, h = a["bbox"]
            colour = class_colour(order[a["category_id"]], len(names))
            draw_box(image, (x, y, x + w - 1, y + h - 1), names[a["category_id"]], colour)
        tiles.append(image)
    path = root / "contact_sheet.png"
    cv2.imwrite(str(path), join_tiles(tiles, columns))
    return path


def join_tiles(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """BGR images of one size in rows of `columns`, with white between them."""
    framed: list[Any] = [
        cv2.copyMakeBorder(t, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3) for t in tiles
    ]
    framed += [np.full_like(framed[0], 255)] * (-len(framed) % columns)
    lines = [np.hstack(framed[i : i + columns]) for i in range(0, len(framed), columns)]
    return np.vstack(lines)
