"""Drawing objects over photographs, with masks of the pixels that remain visible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import cv2
import numpy as np

from prunet_det.datasets.photos import load_photos, random_crop


@dataclass(frozen=True)
class Drawn:
    """An object of a finished image.

    Attributes:
        label: Class index.
        mask: (H, W) bool, the object's visible pixels.
        visible: Fraction of the object's pixels that is visible, 0..1.
    """

    label: int
    mask: np.ndarray
    visible: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box of the visible pixels: x, y, width, height."""
        ys, xs = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return (
            int(xs[0]),
            int(ys[0]),
            int(xs[-1] - xs[0] + 1),
            int(ys[-1] - ys[0] + 1),
        )


def turn_sprite(alpha: np.ndarray, angle: float) -> np.ndarray:
    """Rotates an opacity map and crops it to the pixels over 0.5.

    Args:
        alpha: (h, w) float32 in 0..1, with a margin wide enough for any angle.
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
    """Scales a cropped opacity map.

    Args:
        cut: (h, w) float32 in 0..1.
        side: Longer side of the result in pixels.
    """
    scale = side / max(cut.shape)
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.clip(cv2.resize(cut, size, interpolation=mode), 0, 1)


def contrasting_colour(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a random BGR colour whose luminance is 35 to 160 away from the background's mean.

    Args:
        background: (h, w, 3), BGR in 0..255.
        rng: Random generator.
    """
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
    """An image on which objects and occluders are drawn, one over the other.

    Args:
        image: Background, (H, W, 3) uint8.
        min_visible: Fraction of an object's pixels that later drawings must leave visible, 0..1.
    """

    def __init__(self, image: np.ndarray, min_visible: float) -> None:
        self.image = image.astype(np.float32)
        self.min_visible = min_visible
        self._labels: list[int] = []
        self._masks: list[np.ndarray] = []
        self._areas: list[int] = []

    def _covers_too_much(self, mask: np.ndarray) -> bool:
        return any(
            np.count_nonzero(earlier & ~mask) < self.min_visible * area
            for earlier, area in zip(self._masks, self._areas, strict=True)
        )

    def _cover(self, mask: np.ndarray) -> None:
        for earlier in self._masks:
            earlier &= ~mask

    def draw(
        self, alpha: np.ndarray, label: int, rng: np.random.Generator, tries: int = 20
    ) -> bool:
        """Draws an object at a random place that leaves earlier objects visible enough.

        Args:
            alpha: Opacity map, (h, w) float32 in 0..1.
            label: Class index.
            rng: Random generator.
            tries: Number of places to try.

        Returns:
            True if a place was found.
        """
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
        self._areas.append(np.count_nonzero(mask))
        return True

    def occlude(self, index: int, patch: np.ndarray, rng: np.random.Generator) -> bool:
        """Lays a strip of another photograph over an object, if enough of it stays visible.

        Args:
            index: Number of the object, in the order of drawing.
            patch: Photograph to cut the strip from, (H, W, 3) uint8, as large as the image.
            rng: Random generator.

        Returns:
            True if the strip was laid.
        """
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
        """Changes brightness and contrast, blurs and adds noise, all by random amounts.

        Returns:
            The image, (H, W, 3) uint8, and its objects in the order of drawing.
        """
        image: np.ndarray = (self.image - 128) * rng.uniform(0.75, 1.2) + 128 + rng.uniform(-25, 25)
        sigma = rng.uniform(0, 1.0)
        if sigma > 0.3:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        image = image + rng.normal(0, rng.uniform(0, 10), image.shape)
        objects = zip(self._labels, self._masks, self._areas, strict=True)
        drawn = [Drawn(k, m, np.count_nonzero(m) / area) for k, m, area in objects]
        return np.clip(image, 0, 255).astype(np.uint8), drawn


@dataclass(frozen=True, kw_only=True)
class EmbeddedSet(ABC):
    """Parameters that define a set; sets on disk with other values are made anew.

    Attributes:
        name: Name of the set.
        version: Version of the drawing code; it goes up when the same parameters give other images.
        classes: Class names, in the order of the labels.
        size: Side of the images in pixels.
        counts: Split and number of its images.
        max_angle: Maximum rotation of an object in degrees, either way.
        occlusion: Probability that a strip is laid over an object, 0..1.
        min_visible: Fraction of an object that stays visible, 0..1.
        val_share: Fraction of the handwritten digits that only val shows, 0..1.
        seed: Seed of everything random.
    """

    name: str
    version: int
    classes: tuple[str, ...]
    size: int
    counts: tuple[tuple[str, int], ...]
    max_angle: float
    occlusion: float = 0.2
    min_visible: float = 0.65
    val_share: float = 0.2
    seed: int = 0

    @abstractmethod
    def random_sides(self, rng: np.random.Generator) -> np.ndarray:
        """Draws the sizes of an image's objects, (N,), as `random_sprite` takes them."""

    @abstractmethod
    def random_sprite(
        self, split: str, side: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Draws a random object.

        Args:
            split: `train` or `val`.
            side: Size of the object in pixels.
            rng: Random generator.

        Returns:
            Opacity map, (h, w) float32 in 0..1, and class index.
        """

    def draw(self, split: str, index: int) -> tuple[np.ndarray, list[Drawn]]:
        """Draws an image; the same one for the same arguments, in any order of calls.

        Args:
            split: `train` or `val`.
            index: Number of the image in the split.

        Returns:
            The image, (size, size, 3) uint8 in BGR, and its objects.
        """
        key = [self.seed, {"train": 0, "val": 1}[split], index]
        rng = np.random.default_rng(np.random.SeedSequence(key))
        photos = load_photos(split)
        canvas = Canvas(random_crop(photos, self.size, rng), self.min_visible)
        drawn = 0
        # The largest first, so that none hides a small one; what finds no place is left out.
        for side in np.sort(self.random_sides(rng))[::-1]:
            alpha, label = self.random_sprite(split, float(side), rng)
            if not canvas.draw(alpha, label, rng):
                continue
            if rng.random() < self.occlusion:
                canvas.occlude(drawn, random_crop(photos, self.size, rng), rng)
            drawn += 1
        return canvas.finish(rng)
