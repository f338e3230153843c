"""The sets `digits` and `single_digits`: real handwritten digits over crops of real photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from prunet_det.datasets.compose import EmbeddedSet, resize_sprite, turn_sprite

_RENDER_SIDE = 128


@dataclass(frozen=True, kw_only=True)
class DigitsSet(EmbeddedSet):
    """Parameters that define the set.

    Attributes:
        min_objects: Minimum number of objects that are tried in an image.
        max_objects: Maximum number of objects that are tried in an image.
        min_side: Minimum of an object's longer side in pixels; it is drawn log-uniformly.
        max_side: Maximum of an object's longer side in pixels.
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

    def random_sides(self, rng: np.random.Generator) -> np.ndarray:
        """Draws the longer sides of an image's objects in pixels, (N,)."""
        count = int(rng.integers(self.min_objects, self.max_objects + 1))
        return np.exp(rng.uniform(np.log(self.min_side), np.log(self.max_side), count))

    def random_sprite(
        self, split: str, side: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Draws a random digit whose longer side measures `side` pixels, with its class index."""
        glyphs, labels = load_digits_split(split, self.val_share, self.seed)
        pick = int(rng.integers(len(labels)))
        angle = float(rng.uniform(-self.max_angle, self.max_angle))
        return resize_sprite(turn_sprite(glyphs[pick], angle), round(side)), int(labels[pick])


@dataclass(frozen=True, kw_only=True)
class SingleDigitsSet(DigitsSet):
    """The digits one by one on small images: more crops to judge networks by, in less time."""

    name: str = "single_digits"
    version: int = 1
    size: int = 96
    counts: tuple[tuple[str, int], ...] = (("train", 15000), ("val", 600))
    max_objects: int = 1
    max_side: int = 64


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
