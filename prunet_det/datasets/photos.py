"""The real photographs inside the installed scikit-image, split by scene.

Left out: pages of text, drawings, masks and test patterns, and clock_motion (a dial has numerals).
The two motorcycle pictures show one scene and stay in one split.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from prunet_det.utils.errors import MissingFileError, MissingPackageError, UserError
from prunet_det.utils.images import read_image

PHOTOS: dict[str, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coins.png",
        "grass.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "val": ("coffee.png", "gravel.png", "motorcycle_left.png", "motorcycle_right.png"),
}


@cache
def load_photos(split: str) -> tuple[np.ndarray, ...]:
    """Loads the photographs of a split (`train` or `val`), each (H, W, 3) uint8 in BGR.

    Raises:
        MissingPackageError: If scikit-image is missing.
        MissingFileError: If the installed scikit-image lacks one of the files.
    """
    try:
        from skimage.data import data_dir
    except ImportError as e:
        raise MissingPackageError(
            "the embedded data needs scikit-image and scikit-learn: pip install 'prunet_det[det]'."
        ) from e
    photos = []
    for name in PHOTOS[split]:
        try:
            photos.append(read_image(f"{data_dir}/{name}"))
        except UserError as e:
            raise MissingFileError(
                f"the installed scikit-image has no readable {name}; reinstall the version that "
                "constraints.txt pins."
            ) from e
    return tuple(photos)


def random_crop(photos: tuple[np.ndarray, ...], size: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts a random square out of a random photograph, mirrored half of the time.

    Args:
        photos: Photographs, each (H, W, 3) uint8.
        size: Side that the square is scaled to, in pixels.
        rng: Random generator.

    Returns:
        (size, size, 3) uint8.
    """
    photo = photos[rng.integers(len(photos))]
    limit = min(photo.shape[:2])
    side = int(rng.uniform(min(0.4 * limit, limit), limit))
    y = rng.integers(photo.shape[0] - side + 1)
    x = rng.integers(photo.shape[1] - side + 1)
    crop = photo[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    mode = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(crop, (size, size), interpolation=mode))
