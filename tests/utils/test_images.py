"""Images are the same in whatever encoding, and by whichever way they come in."""

from __future__ import annotations

import zlib

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from prunet_det.utils.errors import MissingFileError, UserError
from prunet_det.utils.images import read_image, read_size

rows, columns = np.mgrid[:40, :60]
GREY = (40 + 2 * rows + columns).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
ALPHA = (rows * 6).astype(np.uint8)
BEST = dict(quality=100, subsampling=0)


def deep(pixels):
    return pixels.astype(np.uint16) * 257


def as_colour(image):
    return np.asarray(image.convert("RGB"))


def plain(mode="RGB", **how):
    """Saves the picture in a mode of Pillow's, and returns what should be read."""

    def save(path):
        grey = mode in ("L", "LA", "1")
        image = Image.fromarray(GREY if grey else COLOUR)
        if mode == "P":
            image = image.quantize(256)
        elif mode == "1":
            image = image.convert("1")
        elif mode != "RGB":
            image = image.convert(mode)
        expected = as_colour(image) if mode in ("P", "1", "L") else COLOUR
        if mode.endswith("A"):
            expected = as_colour(Image.fromarray(GREY)) if grey else COLOUR
            image.putalpha(Image.fromarray(ALPHA))
        image.save(path, **how)
        return expected

    return save


def sixteen(pixels, big_endian=False, inverted=False):
    def save(path):
        if big_endian:
            content = deep(pixels).astype(">u2").tobytes()
            Image.frombytes("I;16B", pixels.shape[::-1], content).save(path)
        elif inverted:
            Image.fromarray(65535 - deep(pixels)).save(path, tiffinfo={262: 0})
        else:
            cv2.imwrite(str(path), deep(pixels)[..., ::-1] if pixels.ndim == 3 else deep(pixels))
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

    return save


def turned(orientation, **how):
    """Saves it turned, with EXIF's orientation that says how to turn it back."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # each undoes the other

    def save(path):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(COLOUR).transpose(Image.Transpose(back)).save(path, exif=exif, **how)
        return COLOUR

    return save


def animated(path):
    first, other = (Image.fromarray(c).quantize(256) for c in (COLOUR, COLOUR[:, ::-1].copy()))
    first.save(path, save_all=True, append_images=[other], duration=100)
    return as_colour(first)


ENCODINGS = {
    "rgb.png": plain(),
    "rgb.bmp": plain(),
    "rgb.tif": plain(compression="tiff_lzw"),
    "rgb.webp": plain(lossless=True),
    "rgb.ppm": plain(),
    "rgb.jpg": plain(**BEST),
    "progressive.jpg": plain(**BEST, progressive=True),
    "png named.jpg": plain(format="PNG"),
    "webp named.png": plain(format="WEBP", lossless=True),
    "no_suffix": plain(format="PNG"),
    "größe 图 1.png": plain(),
    "cmyk.jpg": plain("CMYK", **BEST),
    "cmyk.tif": plain("CMYK"),
    "palette.png": plain("P"),
    "transparent_palette.png": plain("P", transparency=3),
    "palette.gif": plain("P"),
    "bit.png": plain("1"),
    "bit.tif": plain("1", compression="group4"),
    "grey.png": plain("L"),
    "grey.jpg": plain("L", quality=100),
    "grey_alpha.png": plain("LA"),
    "grey_alpha.tif": plain("LA"),
    "alpha.png": plain("RGBA"),
    "alpha.tif": plain("RGBA"),
    "alpha.webp": plain("RGBA", lossless=True, exact=True),
    "grey16.png": sixteen(GREY),
    "grey16.tif": sixteen(GREY),
    "grey16.pgm": sixteen(GREY),
    "grey16_big_endian.tif": sixteen(GREY, big_endian=True),
    "grey16_white_is_zero.tif": sixteen(GREY, inverted=True),
    "rgb16.png": sixteen(COLOUR),
    "rgb16.tif": sixteen(COLOUR),
    "animated.gif": animated,
    "animated.png": plain(save_all=True, append_images=[Image.fromarray(COLOUR[::-1].copy())]),
    **{f"turned{o}.jpg": turned(o, **BEST) for o in range(2, 9)},
    **{f"turned{o}.webp": turned(o, lossless=True) for o in (3, 6)},
    **{f"turned{o}.png": turned(o) for o in (5, 8)},
    **{f"turned{o}.tif": turned(o) for o in (2, 6)},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding(tmp_path, name):
    path = tmp_path / name
    expected = ENCODINGS[name](path)
    image = read_image(path, "rgb")
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (2 if name.endswith(".jpg") else 0)
    assert np.array_equal(read_image(str(path)), image[..., ::-1])
    assert read_size(path) == expected.shape[:2]


def test_jpegs_are_read_as_mmdetection_reads_them(tmp_path):
    """Bit by bit, of any sampling, so that what was trained before holds."""
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (123, 77, 3), np.uint8), (0, 0), 2)
    for i, how in enumerate((dict(quality=60), dict(subsampling=0), dict(progressive=True))):
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", **how)
        assert np.array_equal(read_image(tmp_path / f"{i}.jpg"), mmcv.imread(tmp_path / f"{i}.jpg"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_file_cut_short_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(cv2.resize(COLOUR, (300, 200))).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=rf"a\.{suffix} (cannot be read: |is no image)"):
        read_image(path)


def test_a_jpeg_whose_rest_was_never_written_is_refused(tmp_path):
    """OpenCV makes an image of this one."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (0, 0), 2)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=100)
    content = (tmp_path / "a.jpg").read_bytes()
    half = len(content) // 2
    (tmp_path / "a.jpg").write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(UserError, match="damaged or cut short"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_too_many_pixels_are_one_sentence(tmp_path, monkeypatch, suffix):
    """Of Pillow's limit; OpenCV's is asked of a PNG that only says that it is so large."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).save(path)
    if suffix == "webp":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOUR.size // 3 // 2 - 1)
    else:
        content = bytearray(path.read_bytes())
        content[16:24] = (2**18).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        path.write_bytes(content)
    for read in (read_image, read_size):
        with pytest.raises(UserError, match=rf"a\.{suffix} has too many pixels to be read; make"):
            read(path)


def test_a_thumbnails_end_is_not_the_images(tmp_path):
    """A photograph has a JPEG within a JPEG."""
    Image.fromarray(COLOUR).save(tmp_path / "small.jpg")
    exif = b"Exif\0\0" + (tmp_path / "small.jpg").read_bytes()
    Image.fromarray(cv2.resize(COLOUR, (300, 200))).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (200, 300, 3)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cut short"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [read_image, read_size])
def test_what_is_no_image_is_refused(tmp_path, read):
    def refused(name, match, kind=UserError):
        with pytest.raises(kind, match=match):
            read(tmp_path / name)

    refused("gone.png", r"there is no image .*gone\.png", MissingFileError)
    (tmp_path / "folder.png").mkdir()
    refused("folder.png", r"folder\.png cannot be read: Is a directory")
    (tmp_path / "empty.jpg").touch()
    refused("empty.jpg", r"empty\.jpg is an empty file")
    (tmp_path / "page.jpg").write_text("<html>404")
    refused("page.jpg", r"page\.jpg is no image that can be read")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_are_no_pixels(tmp_path, kind):
    Image.fromarray(GREY.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif has 32 bits a channel, .* save it with 8 or 16"):
        read_image(tmp_path / "a.tif")
