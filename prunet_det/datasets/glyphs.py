"""The set `glyphs`: printed characters and handwritten digits over photographs, sized like COCO.

The faces are those that matplotlib brings along. Validation shows a family of faces, handwritten
digits and photographs that training does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunet_det.datasets.compose import Canvas, Drawn, fill, resize_sprite, turn_sprite
from prunet_det.datasets.digits import load_digits_split
from prunet_det.datasets.fonts import load_font
from prunet_det.datasets.photos import load_photos, random_crop

# No letter that is a turned, scaled or differently cased twin of another or of a digit (so no O, l,
# Z, S, k or alpha); a test compares every two in every two faces at the angles that the set draws.
CHARACTERS = tuple(
    "ACEHKLMPQRTUVWXabdemry&@#$%+=<>[)*~^?£€¥§¶©®¢±½¾¿¤№™†«»ÆæÞŋΞΣΦΨΩβζλμωЖДЛЧЪЫЮяЂЉЊ"
)
FACES: dict[str, tuple[str, ...]] = {
    "train": tuple(
        f"DejaVu{family}{style}"
        for family, slant in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
        for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
    ),
    "val": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}
_EM = 192  # pixels at which a character is rendered before it is turned and scaled


@dataclass(frozen=True)
class GlyphsSet:
    """The parameters that define the set; another value is another set.

    Attributes:
        size: Side of the images in pixels.
        counts: Images of each split.
        mean_objects, max_objects: In an image, drawn from a geometric distribution.
        shares: Of small, medium and large objects (COCO's terms) among those that are tried.
        edges: Square roots of the least and greatest area, and of those where the sizes meet.
        max_angle: Of rotation, in degrees.
        max_side: Of an object's longer side, as a share of the image's.
        occlusion: Probability that a strip is laid over an object.
        min_visible: Share of an object that stays visible.
        val_share: Share of the handwritten digits that only val shows.
        seed: Of everything.
    """

    name: str = "glyphs"
    version: int = 2
    classes: tuple[str, ...] = (*"0123456789", *CHARACTERS)
    size: int = 512
    counts: tuple[tuple[str, int], ...] = (("train", 8000), ("val", 1000))
    mean_objects: float = 7.5
    max_objects: int = 40
    shares: tuple[float, float, float] = (0.40, 0.32, 0.28)
    edges: tuple[float, ...] = (8.0, 32.0, 96.0, 200.0)
    max_angle: float = 15.0
    max_side: float = 0.7
    occlusion: float = 0.2
    min_visible: float = 0.65
    val_share: float = 0.2
    seed: int = 0

    def draw(self, split: str, index: int) -> tuple[np.ndarray, list[Drawn]]:
        """Image `index` of a split, from the seed alone: (size, size, 3) uint8 BGR, objects."""
        key = [self.seed, {"train": 0, "val": 1}[split], index]
        rng = np.random.default_rng(np.random.SeedSequence(key))
        photos = load_photos(split)
        canvas = Canvas(random_crop(photos, self.size, rng), self.min_visible)
        wanted = min(int(rng.geometric(1 / self.mean_objects)), self.max_objects)
        buckets = rng.choice(len(self.shares), wanted, p=np.array(self.shares))
        low, high = np.log(self.edges)[buckets], np.log(self.edges)[buckets + 1]

        def sprite(side: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
            return self._sprite(split, side, rng)

        fill(canvas, photos, np.exp(rng.uniform(low, high)), sprite, self.occlusion, rng)
        return canvas.finish(rng)

    def _sprite(self, split: str, side: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """A random character whose ink covers about side x side pixels, and its class index."""
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
        """A handwritten digit for the first ten classes, else a character in a random face."""
        if label < 10:
            writings, labels = load_digits_split(split, self.val_share, self.seed)
            return writings[rng.choice(np.flatnonzero(labels == label))]
        faces = FACES[split]
        return render_character(faces[rng.integers(len(faces))], self.classes[label])


def render_character(face: str, character: str) -> np.ndarray:
    """A character as a square float32 opacity map in 0..1, with room to turn."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (2 * _EM, 2 * _EM))
    ImageDraw.Draw(image).text((_EM, _EM), character, 255, load_font(face, _EM), anchor="mm")
    return np.asarray(image, np.float32) / 255
