"""The arithmetic of a letterbox, for whoever has an image and a square: it needs no MMDetection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image


def fit_square(  # noqa: PLR0913 (the keys of the metadata)
    image: np.ndarray,
    *,
    size: int,
    longer_side: int,
    shorter_side: int,
    antialias: bool,
    rounding: str,
    pad_value: Sequence[int],
    **_: Any,
) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
    """Fits an image into a square, as a Letterbox's metadata says.

    Args:
        image: (H, W, 3) uint8.
        size: Side of the square in pixels.
        longer_side: Longer side, in pixels, of a rectangle in the square that the image must fit.
        shorter_side: Its shorter side, in pixels.
        antialias: Shrink as Pillow does, or as OpenCV does.
        rounding: `round` or `floor`: how the image's sides become whole pixels.
        pad_value: Filling, 0..255, in the order of the image's channels.

    Returns:
        The square, (size, size, 3) uint8; the factors by which width and height were scaled; and
        height and width of the scaled image, which lies at the top left.
    """
    height, width = image.shape[:2]
    factor = min(longer_side / max(height, width), shorter_side / min(height, width))
    half = 0.5 if rounding == "round" else 0.0
    h, w = (max(1, int(side * factor + half)) for side in (height, width))
    if antialias:
        scaled = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    else:
        scaled = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    return fill_up(scaled, size, size, pad_value), (w / width, h / height), (h, w)


def fill_up(image: np.ndarray, height: int, width: int, fill: Sequence[int]) -> np.ndarray:
    """Returns an image, (H, W, 3), at the top left of a larger one that is filled."""
    filled = np.empty((height, width, 3), image.dtype)
    h, w = image.shape[:2]
    filled[:h, :w] = image
    filled[h:] = filled[:h, w:] = fill
    return filled
