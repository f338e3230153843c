"""The set `digits`: scikit-learn's real handwritten digits over crops of real photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from prunet_det.datasets.compose import Canvas, Drawn, fill, resize_sprite, turn_sprite
from prunet_det.datasets.photos import load_photos, random_crop

_RENDER_SIDE = 128


@dataclass(frozen=True, kw_only=True)
class DigitsSet:
    """Parameters that define the set; sets on disk with other values are made anew.

    Attributes:
        name: Name of the set.
        version: Version of the drawing code; it goes up when the same parameters give other images.
        classes: Class names, in the order of the labels.
        size: Side of the images in pixels.
        counts: Split and number of its images.
        min_objects: Minimum number of objects that are tried in an image.
        max_objects: Maximum number of objects that are tried in an image.
        min_side: Minimum of an object's longer side in pixels; it is drawn log-uniformly.
        max_side: Maximum of an object's longer side in pixels.
        max_angle: Maximum rotation in degrees, either way.
        occlusion: Probability that a strip is laid over an object, 0..1.
        min_visible: Fraction of an object that stays visible, 0..1.
        val_share: Fraction of the handwritten digits that only val shows, 0..1.
        seed: Seed of everything random.
    """

    name: str = "digits"
    version: int = 2
    classes: tuple[str, ...] = tuple("0123456789")
    size: int = 256
    counts: tuple[tuple[str, int], ...] = (("train", 2000), ("val", 300))
    min_objects: int = 1
    max_objects: int = 8
    min_side: int = 16
    max_side: int = 140
    max_angle: float = 25.0
    occlusion: float = 0.2
    min_visible: float = 0.65
    val_share: float = 0.2
    seed: int = 0

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
        glyphs, labels = load_digits_split(split, self.val_share, self.seed)
        canvas = Canvas(random_crop(photos, self.size, rng), self.min_visible)
        count = int(rng.integers(self.min_objects, self.max_objects + 1))
        sides = np.exp(rng.uniform(np.log(self.min_side), np.log(self.max_side), count))

        def sprite(side: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
            pick = int(rng.integers(len(labels)))
            angle = float(rng.uniform(-self.max_angle, self.max_angle))
            return resize_sprite(turn_sprite(glyphs[pick], angle), round(side)), int(labels[pick])

        fill(canvas, photos, sides, sprite, self.occlusion, rng)
        return canvas.finish(rng)


@cache
def load_digits_split(split: str, val_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Loads the handwritten digits of a split, none of which is in the other split.

    Args:
        split: `train` or `val`.
        val_share: Fraction of the digits that val gets, 0..1.
        seed: Seed of the random division.

    Returns:
        (N, 128, 128) float32 opacities with a margin, and (N,) class indices.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    val = round(val_share * len(order))
    chosen = np.sort(order[:val] if split == "val" else order[val:])
    opacities = np.stack([_render(image) for image in data.images[chosen]])
    return opacities, data.target[chosen].astype(np.int64)


def _render(image: np.ndarray) -> np.ndarray:
    """Enlarges an 8x8 grey image (0..16) to a smooth opacity map with a crisp edge."""
    padded = np.pad(image.astype(np.float32) / 16.0, 3)
    large = cv2.resize(padded, (_RENDER_SIDE, _RENDER_SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip((large - 0.32) / 0.16, 0, 1)
