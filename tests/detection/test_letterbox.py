"""Letterboxing: held to effdet's and to MMDetection's resizing, and boxes back in the image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmdet.datasets.transforms import Resize
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config

from prunet_det.detection.letterbox import Letterbox
from prunet_det.utils.errors import InputError
from tests.conftest import ROOT

MEAN = (104, 116, 124)  # ImageNet's, BGR
SHAPES = [(64, 64), (48, 64), (64, 20), (300, 199), (7, 11), (1, 1), (2, 20000), (30000, 3)]


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def config(*steps, **preprocessor):
    return Config(
        dict(
            model=dict(data_preprocessor=preprocessor),
            test_dataloader=dict(dataset=dict(dataset=dict(pipeline=list(steps)))),
        )
    )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("rounding", ["round", "floor"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_lies_in_the_square(shape, rounding, antialias):
    letterbox = Letterbox(64, antialias=antialias, rounding=rounding, pad_val=MEAN)
    square, factors, (h, w) = letterbox.fit(image(*shape))
    assert square.shape == (64, 64, 3) and square.dtype == np.uint8
    assert max(h, w) in (63, 64) and min(h, w) >= 1  # 63: effdet truncates
    assert factors == (w / shape[1], h / shape[0])
    filling = np.ones((64, 64), bool)
    filling[:h, :w] = False
    assert (square[filling] == MEAN).all()


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("scale", [(64, 64), (90, 50)])
@pytest.mark.parametrize("shape", SHAPES[:-2])
def test_within_it_is_mmdetections_resize(shape, scale, backend):
    step = dict(scale=scale, keep_ratio=True, backend=backend)
    theirs = Resize(**step)(dict(img=image(*shape)))
    letterbox = Letterbox.from_config(
        config(dict(type="mmdet.Resize", **step), pad_size_divisor=32)
    )
    assert letterbox.size == -(-max(scale) // 32) * 32
    square, factors, (h, w) = letterbox.fit(image(*shape))
    assert (h, w) == theirs["img_shape"] and factors == theirs["scale_factor"]
    assert np.array_equal(square[:h, :w], theirs["img"])


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut"])
def test_pixels_are_effdets(name):
    """Photographs of 451 x 300, 600 x 400, 640 x 427 and 512 x 512, as effdet feeds its own."""
    transforms = pytest.importorskip("effdet.data.transforms")
    import skimage.data
    from PIL import Image

    rgb = getattr(skimage.data, name)()
    pad = transforms.ResizePad((256, 256), fill_color=MEAN[::-1])
    theirs, about = pad(Image.fromarray(rgb), {})
    letterbox = Letterbox(256, antialias=True, rounding="floor", pad_val=MEAN)
    ours, factors, _ = letterbox.fit(np.ascontiguousarray(rgb[..., ::-1]))
    assert np.array_equal(ours[..., ::-1], np.asarray(theirs))
    assert factors == pytest.approx((1 / about["img_scale"],) * 2, rel=1 / 100)


@pytest.mark.parametrize("shape", [(48, 200), (200, 48), (64, 64), (2, 20000)])
def test_boxes_and_shapes_of_a_pipeline(shape):
    """The whole image is a box of the scaled image, and comes out as the whole image."""
    height, width = shape
    steps = [
        dict(type="mmdet.Letterbox", scale=64, pad_val=MEAN),
        dict(type="mmdet.PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor")),
    ]
    boxes = HorizontalBoxes(np.array([[0, 0, width, height], [0, 0, 2 * width, 1]], np.float32))
    masks = BitmapMasks(np.ones((2, *shape), np.uint8), *shape)
    loaded = dict(img=image(*shape), img_shape=shape, ori_shape=shape)
    found = dict(gt_bboxes=boxes, gt_bboxes_labels=np.zeros(2, int), gt_masks=masks)
    packed = Compose(steps)({**loaded, **found, "gt_ignore_flags": np.zeros(2, bool)})
    sample = packed["data_samples"]
    h, w = sample.img_shape
    assert tuple(packed["inputs"].shape) == (3, 64, 64) and sample.ori_shape == shape
    scaled = sample.gt_instances.bboxes.tensor
    assert scaled[:, :2].eq(0).all() and (scaled[:, 2:] <= scaled.new_tensor([w, h])).all()
    assert scaled[0] / scaled.new_tensor(sample.scale_factor * 2) == pytest.approx(
        np.array([0, 0, width, height])
    )
    assert sample.gt_instances.masks.masks.shape == (2, 64, 64)
    assert sample.gt_instances.masks.masks.sum() == 2 * h * w


def test_metadata_is_json_and_enough():
    letterbox = Letterbox((90, 50), size=96, rounding="floor", pad_val=3)
    about = json.loads(json.dumps(letterbox.metadata()))
    assert (about["size"], about["longer_side"], about["shorter_side"]) == (96, 90, 50)
    assert about["rounding"] == "floor" and about["pad_value"] == [3, 3, 3]


RESIZE = dict(type="Resize", scale=(640, 640), keep_ratio=True)
PAD = dict(type="Pad", size=(640, 640))


@pytest.mark.parametrize(
    ("steps", "fill"),
    [
        ([RESIZE], (104, 116, 124)),
        ([RESIZE, PAD], (0, 0, 0)),
        ([RESIZE, dict(PAD, pad_val=dict(img=(114, 114, 114)))], (114, 114, 114)),
        ([dict(type=Letterbox, scale=(640, 640), pad_val=[1, 2, 3])], (1, 2, 3)),
    ],
)
def test_of_configs(steps, fill):
    mean = dict(mean=[123.675, 116.28, 103.53], bgr_to_rgb=True)
    letterbox = Letterbox.from_config(config(*steps, **mean))
    assert (letterbox.size, letterbox.pad_val) == (640, fill)
    other = Letterbox.from_config(config(*steps, **mean), size=200)
    assert other.metadata() == {
        **letterbox.metadata(), **dict.fromkeys(("size", "longer_side", "shorter_side"), 200)
    }  # fmt: skip


def test_of_the_shipped_config():
    letterbox = Letterbox.from_config(Config.fromfile(ROOT / "configs" / "prunet_effdet.py"))
    assert letterbox.size == 256 and not letterbox.antialias
    square = image(256, 256)
    assert np.array_equal(letterbox.fit(square)[0], square)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [dict(RESIZE, keep_ratio=False)],
        [dict(RESIZE, interpolation="bicubic")],
        [dict(type="Resize", scale_factor=0.5, keep_ratio=True)],
    ],
)
def test_pipelines_that_fit_no_square_are_refused(steps):
    with pytest.raises(InputError, match=r"put dict\(type='Letterbox'"):
        Letterbox.from_config(config(*steps))


@pytest.mark.parametrize(
    "wrong",
    [dict(scale=0), dict(scale=(9, 9, 9)), dict(scale=64, size=32), dict(scale=64, pad_val=256),
     dict(scale=64, pad_val=(1, 2)), dict(scale=64, rounding="ceil")],
)  # fmt: skip
def test_impossible_numbers(wrong):
    with pytest.raises(InputError, match=r"Letterbox|pad_val"):
        Letterbox(**wrong)
