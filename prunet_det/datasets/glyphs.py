"""The sets `glyphs`, `single_glyphs` and `capitals`: characters over photographs.

The faces are those that matplotlib brings along. Validation shows a family of faces, handwritten
digits and photographs that training does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunet_det.datasets.compose import EmbeddedSet, resize_sprite, turn_sprite
from prunet_det.datasets.digits import load_digits_split
from prunet_det.datasets.fonts import load_font

# Without letters that are a rotated, scaled or differently cased copy of another or of a digit (O,
# l, Z, S, k, alpha); a test compares all pairs in all faces at the angles that the set draws.
CHARACTERS = tuple(
    "ACEHKLMPQRTUVWXabdemry&@#$%+=<>[)*~^?£€¥§¶©®¢±½¾¿¤№™†«»ÆæÞŋΞΣΦΨΩβζλμωЖДЛЧЪЫЮяЂЉЊ"
)
DIGITS = "0123456789"
FACES: dict[str, tuple[str, ...]] = {
    "train": tuple(
        f"DejaVu{family}{style}"
        for family, slant in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
        for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
    ),
    "val": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}
_EM = 192  # font size in pixels, before the character is rotated and scaled


@dataclass(frozen=True, kw_only=True)
class GlyphsSet(EmbeddedSet):
    """Parameters that define the set.

    Attributes:
        mean_objects: Mean of the geometric distribution of an image's number of objects.
        max_objects: Maximum number of objects that are tried in an image.
        shares: Fractions of objects of each range of sizes, among those tried; here of small,
            medium and large ones, in COCO's sense.
        edges: Square roots of the areas, in pixels, that bound the ranges.
        max_side: Maximum of an object's longer side, as a fraction of the image's side.
    """

    name: str = "glyphs"
    version: int = 2
    classes: tuple[str, ...] = (*DIGITS, *CHARACTERS)
    size: int = 512
    counts: tuple[tuple[str, int], ...] = (("train", 8000), ("val", 1000))
    mean_objects: float = 7.5
    max_objects: int = 40
    shares: tuple[float, ...] = (0.40, 0.32, 0.28)
    edges: tuple[float, ...] = (8.0, 32.0, 96.0, 200.0)
    max_angle: float = 15.0
    max_side: float = 0.7

    def random_sides(self, rng: np.random.Generator) -> np.ndarray:
        """Draws the square roots of the areas of an image's objects in pixels, (N,)."""
        count = min(int(rng.geometric(1 / self.mean_objects)), self.max_objects)
        buckets = rng.choice(len(self.shares), count, p=np.array(self.shares))
        low, high = np.log(self.edges)[buckets], np.log(self.edges)[buckets + 1]
        return np.exp(rng.uniform(low, high))

    def random_sprite(
        self, split: str, side: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Draws a random character that covers about side x side pixels, with its class index."""
        limit = self.max_side * self.size
        longest = np.inf
        for _ in range(20):  # a thin character of that area may be longer than the image
            label = int(rng.integers(len(self.classes)))
            angle = float(rng.uniform(-self.max_angle, self.max_angle))
            cut = turn_sprite(self._opacity(split, label, rng), angle)
            longest = max(cut.shape) * side / np.sqrt((cut > 0.5).sum())
            if longest <= limit:
                break
        return resize_sprite(cut, round(min(longest, limit))), label

    def _opacity(self, split: str, label: int, rng: np.random.Generator) -> np.ndarray:
        """Picks a handwritten digit, or renders another character in a random face."""
        character = self.classes[label]
        if character in DIGITS:
            writings, labels = load_digits_split(split, self.val_share, self.seed)
            return writings[rng.choice(np.flatnonzero(labels == int(character)))]
        faces = FACES[split]
        return render_character(faces[rng.integers(len(faces))], character)


@dataclass(frozen=True, kw_only=True)
class CapitalsSet(GlyphsSet):
    """Ten of the letters on images like those of the digits, to start from a digits detector."""

    name: str = "capitals"
    version: int = 1
    classes: tuple[str, ...] = tuple("AEHKMPRTWX")
    size: int = 256
    counts: tuple[tuple[str, int], ...] = (("train", 1000), ("val", 300))
    mean_objects: float = 4.0
    max_objects: int = 12
    shares: tuple[float, ...] = (0.6, 0.4)
    edges: tuple[float, ...] = (12.0, 32.0, 90.0)


@dataclass(frozen=True, kw_only=True)
class SingleGlyphsSet(GlyphsSet):
    """The glyphs one by one on small images: the crops of a search in a fifth of the time."""

    name: str = "single_glyphs"
    version: int = 1
    size: int = 96
    counts: tuple[tuple[str, int], ...] = (("train", 12000), ("val", 1500))
    mean_objects: float = 1.0
    max_objects: int = 1
    shares: tuple[float, ...] = (1.0,)
    edges: tuple[float, ...] = (14.0, 48.0)


def render_character(face: str, character: str) -> np.ndarray:
    """Renders a character with a margin wide enough to rotate it.

    Args:
        face: Typeface, see `load_font`.
        character: A single character.

    Returns:
        Opacity map, (H, H) float32 in 0..1.
    """
    from PIL import Image, ImageDraw

    image = Image.new("L", (2 * _EM, 2 * _EM))
    ImageDraw.Draw(image).text((_EM, _EM), character, 255, load_font(face, _EM), anchor="mm")
    return np.asarray(image, np.float32) / 255
