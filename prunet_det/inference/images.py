"""Images in all the forms in which a detector takes them."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from prunet_det.utils.errors import InputError
from prunet_det.utils.extras import require

ChannelOrder: TypeAlias = Literal["bgr", "rgb"]
Image: TypeAlias = Any  # a path, a Pillow image, an array or a tensor; see `as_pixels`


def is_batch(images: Any) -> bool:
    """Returns whether something is several images: a list, a tuple, or (N, ...) in one array."""
    if isinstance(images, (list, tuple)):
        return True
    return isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4


def as_pixels(image: Image, channel_order: ChannelOrder = "bgr") -> np.ndarray:
    """Returns an image's pixels, (H, W, 3) uint8 in BGR, never in the memory of the image given.

    Args:
        image: A path; a Pillow image of any mode; an array (H, W, 3), (H, W, 4), whose last channel
            is dropped, (H, W, 1) or (H, W); or a tensor (3, H, W), (1, H, W) or (H, W), on any
            device. Arrays and tensors are uint8; of uint16 the higher eight bits are taken.
        channel_order: Order in arrays and tensors: `bgr` as OpenCV reads images, or `rgb`.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no image.
    """
    if isinstance(image, (str, os.PathLike)):
        return _reader().read_image(image)
    if isinstance(image, torch.Tensor):
        if image.ndim == 3 and image.shape[0] not in (1, 3):
            raise InputError(
                f"a tensor must have the shape (3, H, W), got {tuple(image.shape)}; permute it or "
                "give an array (H, W, 3)."
            )
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    elif not isinstance(image, np.ndarray):
        return _from_pillow(image)
    return _from_array(image, channel_order)


def _reader() -> ModuleType:
    """Imports the package's reader of images, which needs OpenCV and Pillow."""
    return require("prunet_det.utils.images", "det")


def _from_pillow(image: Any) -> np.ndarray:
    """Returns a Pillow image in BGR, upright."""
    from PIL import Image as pillow

    if not isinstance(image, pillow.Image):
        raise InputError(
            "an image must be a path, a Pillow image, an array (H, W, 3) or a tensor (3, H, W), "
            f"got {type(image).__name__}."
        )
    name = getattr(image, "filename", "") or "the image"
    try:
        return np.asarray(_reader().from_pillow(image, name))
    except (OSError, SyntaxError) as e:  # what is read late is late found to be damaged
        raise InputError(f"{name} cannot be read: {e}.") from e


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
    return np.array(array[..., ::-1] if channel_order == "rgb" else array, order="C")


def source_of(image: Image, pixels: np.ndarray) -> Path | np.ndarray:
    """Returns what Detections keep of an image: its path, or else its pixels."""
    return Path(image) if isinstance(image, (str, os.PathLike)) else pixels
