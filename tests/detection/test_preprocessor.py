"""Preprocessing of a whole batch, held to MMDetection's."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from prunet_det.detection.preprocessor import BatchPreprocessor
from prunet_det.detection.transforms import padded_collate
from tests.detection.test_detector import detector_cfg
from tests.dispatched import dispatched

CFG = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
ONE_SHAPE, MIXED = [(64, 96)] * 3, [(64, 96), (50, 70), (33, 96)]


def batch(shapes, dtype=torch.uint8):
    images, samples = [], []
    for height, width in shapes:
        images.append(torch.randint(0, 256, (3, height, width)).to(dtype))
        sample = DetDataSample(metainfo=dict(img_shape=(height, width)))
        boxes = HorizontalBoxes(torch.tensor([[1.0, 2, 30, 40]]))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([4]))
        sample.ignored_instances = sample.gt_instances[:0]
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def stacked(data):
    """The same as the loader stacks it."""
    items = zip(data["inputs"], data["data_samples"], strict=True)
    return padded_collate([dict(inputs=i, data_samples=s) for i, s in items])


@pytest.mark.parametrize("pack", [dict, stacked])
@pytest.mark.parametrize("shapes", [ONE_SHAPE, MIXED, MIXED[:1]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "cfg",
    [
        dict(CFG, pad_size_divisor=32),
        dict(CFG, pad_size_divisor=128, pad_value=3),
        dict(CFG, bgr_to_rgb=False),
        dict(pad_size_divisor=7, rgb_to_bgr=True),
        dict(mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True),
    ],
)
def test_equals_mmdetection(pack, shapes, dtype, cfg):
    data = batch(shapes, dtype)
    ours = BatchPreprocessor(**cfg)(pack(data), training=True)
    theirs = DetDataPreprocessor(**cfg)(data, training=True)
    assert ours["inputs"].dtype == torch.float32
    assert torch.equal(ours["inputs"], theirs["inputs"])
    for a, b in zip(ours["data_samples"], theirs["data_samples"], strict=True):
        for key in ("batch_input_shape", "pad_shape", "img_shape"):
            assert a.metainfo[key] == b.metainfo[key]
        assert torch.equal(a.gt_instances.bboxes, b.gt_instances.bboxes)


def test_a_stack_without_sizes_is_images_throughout():
    images = torch.stack(batch(ONE_SHAPE)["inputs"])
    cfg = dict(CFG, pad_size_divisor=128)
    ours = BatchPreprocessor(**cfg)(dict(inputs=images))
    theirs = DetDataPreprocessor(**cfg)(dict(inputs=images, data_samples=None))
    assert torch.equal(ours["inputs"], theirs["inputs"]) and ours["data_samples"] is None


def test_memory_format_stays():
    images = BatchPreprocessor(**CFG)(stacked(batch(MIXED)))["inputs"]
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_configs_that_name_mmdetections_have_it():
    model = MODELS.build(
        dict(detector_cfg(), data_preprocessor=dict(CFG, type="DetDataPreprocessor"))
    )
    assert isinstance(model.data_preprocessor, BatchPreprocessor)


@pytest.mark.parametrize(("pack", "shapes"), [(dict, ONE_SHAPE), (stacked, MIXED)])
def test_operators_do_not_grow_with_the_batch(pack, shapes):
    preprocess = BatchPreprocessor(**CFG, pad_size_divisor=128)
    small, large = (pack(batch(shapes * n)) for n in (1, 5))
    counts = [dispatched(lambda d=d: preprocess(d, True)).total() for d in (small, large)]
    assert counts[0] == counts[1] <= 12


def test_a_batch_goes_to_the_device_in_three_copies():
    """On the device `meta`, what would have to wait for a device's result is an error."""
    preprocess = BatchPreprocessor(**CFG, pad_size_divisor=128).to("meta")
    data = stacked(batch(MIXED * 5))
    operators = dispatched(lambda: preprocess(data, True))
    # images, boxes with labels, and sizes; labels become integers there
    assert operators["_to_copy"] == 3 + 1
    assert operators.total() <= 15


def test_what_transforms_have_filled_stays():
    """In a stack it is part of the image, as it is in a list of images."""
    data = batch(ONE_SHAPE)
    for sample in data["data_samples"]:
        sample.set_metainfo(dict(img_shape=(40, 50)))
    preprocess = BatchPreprocessor(**CFG, pad_size_divisor=128)
    found, expected = (preprocess(d, True) for d in (stacked(data), data))
    assert torch.equal(found["inputs"], expected["inputs"])
    assert found["inputs"][:, :, 40:64, 50:96].any()
    assert [s.pad_shape for s in found["data_samples"]] == [(128, 128)] * 3
