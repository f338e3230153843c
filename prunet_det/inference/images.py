"""Images in all the forms in which a detector takes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.extras import require

ChannelOrder: TypeAlias = Literal["bgr", "rgb"]
Image: TypeAlias = Any  # a path, a Pillow image, an array or a tensor; see `as_pixels`


def is_batch(images: Any) -> bool:
    """Returns whether something is several images: a list, a tuple, or (N, ...) in one array."""
    if isinstance(images, (list, tuple)):
        return True
    return isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4


def as_pixels(image: Image, channel_order: ChannelOrder = "bgr") -> np.ndarray:
    """Returns an image's pixels, (H, W, 3) uint8 in BGR.

    Args:
        image: A path; a Pillow image of any mode; an array (H, W, 3), (H, W, 4), whose last channel
            is dropped, (H, W, 1) or (H, W); or a tensor (3, H, W), (1, H, W) or (H, W), on any
            device. Arrays and tensors are uint8; of uint16 the higher eight bits are taken.
        channel_order: Of arrays and tensors: `bgr` as OpenCV reads images, or `rgb`.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no image.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_file(image)
    if isinstance(image, torch.Tensor):
        if image.ndim == 3 and image.shape[0] not in (1, 3):
            raise InputError(
                f"a tensor must have the shape (3, H, W), got {tuple(image.shape)}; permute it or "
                "give an array (H, W, 3)."
            )
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    elif not isinstance(image, np.ndarray):
        image, channel_order = _from_pillow(image), "rgb"
    return _from_array(image, channel_order)


def read_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file: (H, W, 3) uint8 in BGR.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no image.
    """
    if not os.path.exists(path):
        raise MissingFileError(f"there is no image {os.fspath(path)}.")
    image = require("cv2", "det").imread(os.fspath(path))
    if image is None:
        raise InputError(f"{os.fspath(path)} is no image that can be read.")
    return np.asarray(image)


def _from_pillow(image: Any) -> np.ndarray:
    """Returns a Pillow image in RGB, upright."""
    from PIL import Image as pillow
    from PIL import ImageOps

    if not isinstance(image, pillow.Image):
        raise InputError(
            "an image must be a path, a Pillow image, an array (H, W, 3) or a tensor (3, H, W), "
            f"got {type(image).__name__}."
        )
    upright = ImageOps.exif_transpose(image)
    return np.asarray(upright if image.mode.startswith("I;16") else upright.convert("RGB"))


def _from_array(array: np.ndarray, channel_order: ChannelOrder) -> np.ndarray:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(
            f"the pixels of an array must be uint8, 0..255, got {array.dtype}; convert it "
            "(floats in 0..1: (255 * image).astype('uint8'))."
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise InputError(f"an array must have the shape (H, W, 3), got {array.shape}.")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    array = array[..., :3]
    return np.ascontiguousarray(array[..., ::-1] if channel_order == "rgb" else array)


def source_of(image: Image, pixels: np.ndarray) -> Path | np.ndarray:
    """Returns what Detections keep of an image: its path, or else its pixels."""
    return Path(image) if isinstance(image, (str, os.PathLike)) else pixels
