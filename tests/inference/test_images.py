"""One picture in all the forms in which a detector takes it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from prunet_det.inference.images import as_pixels, is_batch
from prunet_det.utils.errors import InputError

BGR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
RGB = np.ascontiguousarray(BGR[..., ::-1])
GRAY = BGR[..., 0]
THREE_GRAYS = np.stack([GRAY] * 3, axis=2)


@pytest.mark.parametrize(
    ("image", "order", "wanted"),
    [
        (BGR, "bgr", BGR),
        (RGB, "rgb", BGR),
        (Image.fromarray(RGB), "bgr", BGR),
        (Image.fromarray(RGB), "rgb", BGR),
        (Image.fromarray(RGB).convert("RGBA"), "bgr", BGR),
        (Image.fromarray(GRAY), "bgr", THREE_GRAYS),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "bgr", THREE_GRAYS),
        (torch.from_numpy(RGB).permute(2, 0, 1), "rgb", BGR),
        (torch.from_numpy(BGR).permute(2, 0, 1), "bgr", BGR),
        (torch.from_numpy(GRAY.copy())[None], "bgr", THREE_GRAYS),
        (torch.from_numpy(GRAY.copy()), "rgb", THREE_GRAYS),
        (GRAY, "bgr", THREE_GRAYS),
        (GRAY[..., None], "rgb", THREE_GRAYS),
        (np.dstack([BGR, GRAY]), "bgr", BGR),
        (np.dstack([RGB, GRAY]), "rgb", BGR),
        (BGR.astype(np.uint16) * 257, "bgr", BGR),
        (BGR[:, ::-1][:, ::-1], "bgr", BGR),
    ],
)
def test_forms(image, order, wanted):
    pixels = as_pixels(image, order)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.array_equal(pixels, wanted)


def test_files(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), BGR)
    assert np.array_equal(as_pixels(tmp_path / "a.png", "rgb"), BGR)
    assert np.array_equal(as_pixels(str(tmp_path / "a.png")), BGR)
    path = tmp_path / "b.bmp"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    for image in (path, Image.open(path)):
        with pytest.raises(InputError, match=r"b\.bmp cannot be read: .* truncated"):
            as_pixels(image)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (BGR / 255, "must be uint8, 0..255, got float64; convert it"),
        (BGR > 3, "must be uint8, 0..255, got bool"),
        (BGR.astype(np.int64), "must be uint8, 0..255, got int64"),
        (BGR[0, 0], r"must have the shape \(H, W, 3\), got \(3,\)"),
        (np.zeros((5, 7, 2), np.uint8), r"\(H, W, 3\), got \(5, 7, 2\)"),
        (np.zeros((0, 7, 3), np.uint8), r"\(H, W, 3\), got \(0, 7, 3\)"),
        (torch.from_numpy(BGR), r"\(3, H, W\), got \(5, 7, 3\); permute it"),
        (torch.rand(3, 5, 7), "must be uint8, 0..255, got float32"),
        (Image.fromarray(GRAY.astype(np.float32)), "the image has 32 bits a channel"),
        (None, "got NoneType"),
        (7, "got int"),
        (b"bytes", "got bytes"),
    ],
)
def test_what_is_no_image(image, sentence):
    with pytest.raises(InputError, match=sentence):
        as_pixels(image)


def test_one_or_several():
    assert is_batch([BGR]) and is_batch(()) and is_batch(BGR[None])
    assert is_batch(torch.zeros(2, 3, 5, 7))
    assert not is_batch(BGR) and not is_batch("a.png") and not is_batch(Image.fromarray(RGB))
