"""The one reader of image files: whoever reads an image, it has the same pixels.

An image is eight bits deep, has three channels and stands upright, as EXIF's orientation says: as
MMDetection's reader and annotation tools show it, so that boxes belong to it. Sixteen bits lose the
lower eight. Opacity is dropped, and of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps

from prunet_det.utils.errors import InputError, MissingFileError

# What data sets are made of is OpenCV's, which gives the pixels that MMDetection has and works in
# several threads. It reads others less well than Pillow: it blackens what is transparent in TIFF,
# and ignores EXIF in WebP and AVIF. By what such a file begins with, and ends with if it is whole
# (OpenCV refuses what is cut short, but not every JPEG whose rest was never written and is zero):
_OPENCVS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND"}
_FORMATS = "JPEG, PNG, BMP, GIF, WebP, AVIF, TIFF and others that Pillow knows"
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".gif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pnm"),
    }
)
_TOO_LARGE = "has too many pixels to be read; make it smaller, or cut it into parts."
_ORIENTATION = 0x0112  # EXIF's tag; from 5 upwards the image is turned by a quarter
_PHOTOMETRIC = 262  # TIFF's tag; 0 if white is zero


def has_image_name(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file in a folder of images is taken for one, by its name alone.

    Hidden files are not: macOS leaves `._1.jpg` beside `1.jpg` on other file systems.
    """
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(
    path: str | os.PathLike[str], channel_order: Literal["bgr", "rgb"] = "bgr"
) -> np.ndarray:
    """Reads an image file, whatever its suffix says.

    Args:
        path: The file.
        channel_order: `bgr`, as OpenCV and MMDetection have images, or `rgb`, as timm has.

    Returns:
        (H, W, 3) uint8.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no image, damaged or cut short, or has numbers in the place of pixels.
    """
    return decode_image(_read(path), path, channel_order)


def decode_image(
    data: bytes, name: str | os.PathLike[str], channel_order: Literal["bgr", "rgb"] = "bgr"
) -> np.ndarray:
    """Decodes the content of an image file.

    Args:
        data: The content.
        name: Name of the file, for messages.
        channel_order: As of `read_image`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: As `read_image` does.
    """
    name = os.fspath(name)
    if not data:
        raise InputError(f"{name} is an empty file, and no image.")
    end = next((end for start, end in _OPENCVS.items() if data.startswith(start)), None)
    if end is None:
        try:
            with Image.open(io.BytesIO(data)) as opened:
                return from_pillow(opened, name, channel_order)
        except InputError:
            raise
        except Exception as e:  # Pillow raises a dozen kinds at what it cannot read
            raise _refusal(data, name, e) from e
    image = _decode_by_opencv(data, name) if data.rfind(end) >= 0 else None
    if image is None:
        raise InputError(f"{name} cannot be read: the image is damaged or cut short.")
    return image if channel_order == "bgr" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def from_pillow(
    image: Image.Image, name: str, channel_order: Literal["bgr", "rgb"] = "bgr"
) -> np.ndarray:
    """Returns the pixels of an image that Pillow has opened or made.

    Args:
        image: The image, of any mode.
        name: Its name, for messages.
        channel_order: As of `read_image`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: If it has numbers in the place of pixels.
        OSError, ValueError: Pillow's own, if its file is damaged.
    """
    # Pillow has 16 bits of a PGM as "I", a mode of 32.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not deep:
        raise InputError(
            f"{name} has 32 bits a channel, numbers whose range is not known; save it with 8 or 16."
        )
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    upright = ImageOps.exif_transpose(image)
    if deep:
        high = (np.asarray(upright) >> 8).astype(np.uint8)
        return cv2.cvtColor(~high if inverted else high, cv2.COLOR_GRAY2RGB)
    pixels = np.asarray(upright.convert("RGB"))
    return pixels if channel_order == "rgb" else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Reads height and width of an image as `read_image` returns it, without decoding it.

    Args:
        path: The file.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no image.
    """
    try:
        with Image.open(path) as image:
            # A TIFF's size is of the upright image. Of a PNG without EXIF, Pillow would decode the
            # pixels to look behind them.
            known = image.format not in ("PNG", "TIFF") or "exif" in image.info
            turned = known and image.getexif().get(_ORIENTATION, 1) >= 5
            return image.size if turned else (image.height, image.width)
    except Exception as e:  # as above
        raise _refusal(_read(path), os.fspath(path), e) from e


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as e:
        raise MissingFileError(f"there is no image {os.fspath(path)}.") from e
    except OSError as e:  # a folder, or what is not ours to read
        raise InputError(f"{os.fspath(path)} cannot be read: {e.strerror}.") from e


def _decode_by_opencv(data: bytes, name: str) -> np.ndarray | None:
    """Returns an image in BGR, or None if it is damaged."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:
        if "CV_IO_MAX_IMAGE" in e.err:
            raise InputError(f"{name} {_TOO_LARGE}") from e
        raise InputError(f"{name} cannot be read: {e.err}.") from e


def _refusal(data: bytes, name: str, error: Exception) -> InputError:
    """Returns what is said of a file that Pillow cannot read."""
    if not data:
        return InputError(f"{name} is an empty file, and no image.")
    if isinstance(error, Image.DecompressionBombError):
        return InputError(f"{name} {_TOO_LARGE}")
    if isinstance(error, Image.UnidentifiedImageError):
        return InputError(
            f"{name} is no image that can be read, or a damaged one; {_FORMATS} are read."
        )
    return InputError(f"{name} cannot be read: {error}.")
