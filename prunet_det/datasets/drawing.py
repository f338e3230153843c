"""Drawing boxes with captions on images, and contact sheets of annotated images."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from prunet_det.datasets.fonts import load_font
from prunet_det.utils.images import read_image
from prunet_det.utils.io import atomic_path


def draw_box(image: np.ndarray, box: tuple[float, ...], text: str, colour: tuple[int, ...]) -> None:
    """Draws a box with a caption on an image, in place.

    Args:
        image: (H, W, 3) uint8, BGR.
        box: x1, y1, x2, y2 in pixels.
        text: Caption, written in white.
        colour: BGR colour of the box and of the caption's background.
    """
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    side = min(image.shape[:2])
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, max(1, round(side / 450)), cv2.LINE_AA)
    label = _caption(text, max(11, round(side / 36)), colour)
    h, w = label.shape[:2]
    top = y1 - h if y1 >= h else min(y2, image.shape[0] - h)
    left, top = max(0, min(x1, image.shape[1] - w)), max(0, top)
    place = image[top : top + h, left : left + w]
    place[:] = label[: place.shape[0], : place.shape[1]]


def _caption(text: str, pixels: int, colour: tuple[int, ...]) -> np.ndarray:
    """Renders white text on a background of one colour, (h, w, 3) uint8."""
    from PIL import Image, ImageDraw

    font = load_font("DejaVuSans-Bold", pixels)
    ascent, descent = font.getmetrics()
    picture = Image.new("RGB", (round(font.getlength(text)) + 4, ascent + descent), colour)
    ImageDraw.Draw(picture).text((2, 0), text, (255, 255, 255), font)
    return np.asarray(picture)


def class_colour(index: int, count: int) -> tuple[int, int, int]:
    """Returns the BGR colour of a class, dark enough for white text.

    Args:
        index: Class index.
        count: Number of classes, over which the hues are spread evenly.
    """
    hue = np.array([[[round(179 * index / count), 220, 190]]], np.uint8)
    b, g, r = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]
    return int(b), int(g), int(r)


def write_contact_sheet(root: Path, split: str, columns: int = 6, rows: int = 4) -> Path:
    """Writes `contact_sheet.png`: the first images of a split with their boxes and classes.

    Args:
        root: Folder of the data set, in COCO format; the sheet is written into it.
        split: `train` or `val`.
        columns: Images in a row; images over 384 px are shown smaller.
        rows: Number of rows.

    Returns:
        The path of the sheet.
    """
    coco = json.loads((root / "annotations" / f"{split}.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in coco["categories"]}
    order = {c["id"]: i for i, c in enumerate(coco["categories"])}
    by_image = defaultdict(list)
    for a in coco["annotations"]:
        by_image[a["image_id"]].append(a)
    tiles = []
    for entry in coco["images"][: columns * rows]:
        image = read_image(root / split / entry["file_name"])
        scale = min(1.0, 384 / max(image.shape[:2]))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for a in by_image[entry["id"]]:
            x, y, w, h = (scale * v for v in a["bbox"])
            colour = class_colour(order[a["category_id"]], len(names))
            draw_box(image, (x, y, x + w - 1, y + h - 1), names[a["category_id"]], colour)
        tiles.append(image)
    path = root / "contact_sheet.png"
    _, data = cv2.imencode(".png", join_tiles(tiles, columns))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


def join_tiles(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Joins images of one size in rows, with white gaps between them.

    Args:
        tiles: Images, each (H, W, 3) uint8.
        columns: Images in a row.
    """
    framed: list[np.ndarray] = [
        cv2.copyMakeBorder(t, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3) for t in tiles
    ]
    framed += [np.full_like(framed[0], 255)] * (-len(framed) % columns)
    lines = [np.hstack(framed[i : i + columns]) for i in range(0, len(framed), columns)]
    return np.vstack(lines)
