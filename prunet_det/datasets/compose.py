"""Drawing sprites over a photograph, with masks of what remains visible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from prunet_det.datasets.photos import random_crop


@dataclass(frozen=True)
class Drawn:
    """One object of a finished image.

    Attributes:
        label: Class index.
        mask: (H, W) bool, the visible pixels.
        visible: Their share of the object's pixels.
    """

    label: int
    mask: np.ndarray
    visible: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height, tight to the visible pixels."""
        ys, xs = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return (
            int(xs[0]),
            int(ys[0]),
            int(xs[-1] - xs[0] + 1),
            int(ys[-1] - ys[0] + 1),
        )


def turn_sprite(alpha: np.ndarray, angle: float) -> np.ndarray:
    """Rotates an opacity map and crops it to its ink.

    Args:
        alpha: (h, w) float32 in 0..1, with a margin.
        angle: Degrees, counter-clockwise.

    Returns:
        (h', w') float32 in 0..1.
    """
    h, w = alpha.shape
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), angle, 1.0)
    turned = cv2.warpAffine(alpha, turn, (w, h), flags=cv2.INTER_LINEAR)
    ink = turned > 0.5
    ys, xs = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return turned[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]


def resize_sprite(cut: np.ndarray, side: int) -> np.ndarray:
    """Scales a cropped opacity map so that its longer side measures `side` pixels."""
    scale = side / max(cut.shape)
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.clip(cv2.resize(cut, size, interpolation=mode), 0, 1)


def contrasting_colour(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random BGR colour whose luminance is 35 to 160 away from the background's mean."""
    weights = np.array([0.114, 0.587, 0.299])
    mean = float(background.reshape(-1, 3).mean(0) @ weights)
    gap = rng.uniform(35, 160)
    up, down = mean + gap <= 255, mean - gap >= 0
    if up and down:
        target = mean + gap if rng.random() < 0.5 else mean - gap
    else:
        target = min(mean + gap, 255) if mean < 128 else max(mean - gap, 0)
    colour = rng.uniform(0, 255, 3)
    return np.clip(colour + (target - float(colour @ weights)), 0, 255)


class Canvas:
    """An image that objects and occluders are drawn on, one over the other.

    Args:
        image: (H, W, 3) uint8, the background.
        min_visible: Share of an object's pixels that later drawings must leave visible.
    """

    def __init__(self, image: np.ndarray, min_visible: float) -> None:
        self.image = image.astype(np.float32)
        self.min_visible = min_visible
        self._labels: list[int] = []
        self._masks: list[np.ndarray] = []
        self._areas: list[int] = []

    def _covers_too_much(self, mask: np.ndarray) -> bool:
        return any(
            (own & ~mask).sum() < self.min_visible * area
            for own, area in zip(self._masks, self._areas, strict=True)
        )

    def _cover(self, mask: np.ndarray) -> None:
        for own in self._masks:
            own &= ~mask

    def draw(
        self, alpha: np.ndarray, label: int, rng: np.random.Generator, tries: int = 20
    ) -> bool:
        """Draws a sprite where it fits; returns whether a place was found."""
        height, width = self.image.shape[:2]
        h, w = alpha.shape
        if h > height or w > width:
            return False
        for _ in range(tries):
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            mask = np.zeros((height, width), bool)
            mask[y : y + h, x : x + w] = alpha > 0.5
            if mask.any() and not self._covers_too_much(mask):
                break
        else:
            return False
        region = self.image[y : y + h, x : x + w]
        colour = contrasting_colour(region, rng)
        left, right = rng.uniform(0.8, 1.2, 2)
        shade = np.linspace(left, right, w)[None, :, None]
        opacity = (alpha * rng.uniform(0.8, 1.0))[..., None]
        region += opacity * (np.clip(colour * shade, 0, 255) - region)
        self._cover(mask)
        self._labels.append(label)
        self._masks.append(mask)
        self._areas.append(int(mask.sum()))
        return True

    def occlude(self, index: int, patch: np.ndarray, rng: np.random.Generator) -> bool:
        """Lays a strip of another photograph over object `index`, if enough stays visible."""
        height, width = self.image.shape[:2]
        ys, xs = np.nonzero(self._masks[index])
        if not len(ys):
            return False
        side = max(np.ptp(ys), np.ptp(xs)) + 1
        pick = int(rng.integers(len(ys)))
        rect = (
            (float(xs[pick]), float(ys[pick])),
            (side * rng.uniform(0.15, 0.45), side * rng.uniform(0.6, 1.2)),
            float(rng.uniform(0, 180)),
        )
        strip = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(strip, np.round(cv2.boxPoints(rect)).astype(np.int32), 1)
        mask = strip.astype(bool)
        if self._covers_too_much(mask):
            return False
        self.image[mask] = patch[mask]
        self._cover(mask)
        return True

    def finish(self, rng: np.random.Generator) -> tuple[np.ndarray, list[Drawn]]:
        """Brightness, contrast, blur and noise; returns the (H, W, 3) uint8 image and objects."""
        image: np.ndarray = (self.image - 128) * rng.uniform(0.75, 1.2) + 128 + rng.uniform(-25, 25)
        sigma = rng.uniform(0, 1.0)
        if sigma > 0.3:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        image = image + rng.normal(0, rng.uniform(0, 10), image.shape)
        every = zip(self._labels, self._masks, self._areas, strict=True)
        drawn = [Drawn(k, m, float(m.sum()) / area) for k, m, area in every]
        return np.clip(image, 0, 255).astype(np.uint8), drawn


def fill(
    canvas: Canvas,
    photos: tuple[np.ndarray, ...],
    sides: np.ndarray,
    sprite: Callable[[float, np.random.Generator], tuple[np.ndarray, int]],
    occlusion: float,
    rng: np.random.Generator,
) -> None:
    """Draws one object for each of `sides`, the largest first, so that none hides a small one.

    Args:
        canvas: What is drawn on.
        photos: Photographs that the occluding strips are cut from.
        sides: Sizes of the objects; what finds no place is left out.
        sprite: Size to opacity map and class index.
        occlusion: Probability that a strip is laid over an object.
        rng: The source of everything random.
    """
    drawn = 0
    for side in np.sort(sides)[::-1]:
        alpha, label = sprite(float(side), rng)
        if not canvas.draw(alpha, label, rng):
            continue
        if rng.random() < occlusion:
            canvas.occlude(drawn, random_crop(photos, canvas.image.shape[0], rng), rng)
        drawn += 1
