"""The set `digits`: scikit-learn's real handwritten digits over crops of real photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from prunet_det.datasets.compose import Canvas, Drawn, fill, resize_sprite, turn_sprite
from prunet_det.datasets.photos import load_photos, random_crop

_RENDER_SIDE = 128


@dataclass(frozen=True)
class DigitsSet:
    """The parameters that define the set; another value is another set.

    Attributes:
        size: Side of the images in pixels.
        counts: Images of each split.
        min_objects, max_objects: In an image.
        min_side, max_side: Of an object's longer side, drawn log-uniformly, in pixels.
        max_angle: Of rotation, in degrees.
        occlusion: Probability that a strip is laid over an object.
        min_visible: Share of an object that stays visible.
        val_share: Share of the handwritten digits that only val shows.
        seed: Of everything.
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
        """Image `index` of a split, from the seed alone: (size, size, 3) uint8 BGR, objects."""
        key = [self.seed, {"train": 0, "val": 1}[split], index]
        rng = np.random.default_rng(np.random.SeedSequence(key))
        photos = load_photos(split)
        glyphs, labels = load_digits_split(split, self.val_share, self.seed)
        canvas = Canvas(random_crop(photos, self.size, rng), self.min_visible)
        wanted = int(rng.integers(self.min_objects, self.max_objects + 1))
        sides = np.exp(rng.uniform(np.log(self.min_side), np.log(self.max_side), wanted))

        def sprite(side: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
            pick = int(rng.integers(len(labels)))
            angle = float(rng.uniform(-self.max_angle, self.max_angle))
            return resize_sprite(turn_sprite(glyphs[pick], angle), round(side)), int(labels[pick])

        fill(canvas, photos, sides, sprite, self.occlusion, rng)
        return canvas.finish(rng)


@cache
def load_digits_split(split: str, val_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A split's handwritten digits, none of which is in the other split.

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
    """An 8x8 grey image (0..16) as a smooth opacity map with a crisp edge."""
    padded = np.pad(image.astype(np.float32) / 16.0, 3)
    large = cv2.resize(padded, (_RENDER_SIDE, _RENDER_SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip((large - 0.32) / 0.16, 0, 1)
