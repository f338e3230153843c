"""Transforms in one step are MMDetection's own, bit by bit; batches keep what their images have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

import prunet_det.detection  # noqa: F401  (registers)
from prunet_det.detection.transforms import PackedSamples, padded_collate
from prunet_det.utils.errors import UserError
from tests.dispatched import dispatched

SIZE = (96, 96)


def image(index):
    """An image of its own shape, with up to five boxes, one of them to be ignored."""
    rng = np.random.default_rng(index)
    height, width = rng.integers(60, 140, 2).tolist()
    first = rng.uniform(0, (width - 5, height - 5), (rng.integers(1, 6), 2))
    boxes = np.concatenate([first, first + rng.uniform(2, 40, first.shape)], axis=1)
    return {
        "img": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "img_id": index,
        "img_path": f"{index}.jpg",
        "instances": [
            {"bbox": box.tolist(), "bbox_label": int(rng.integers(9)), "ignore_flag": int(i == 1)}
            for i, box in enumerate(boxes)
        ],
    }


def pipelines(ratio_range, crop, flip, box_type=None):
    """MMDetection's pipeline and ours."""
    theirs = [
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="RandomResize", scale=SIZE, ratio_range=ratio_range, keep_ratio=True),
        dict(type="RandomCrop", crop_size=crop),
        *([dict(type="RandomFlip", prob=flip)] if flip else []),
        dict(type="PackDetInputs"),
    ]
    ours = [
        dict(type="LoadAnnotations", with_bbox=True, box_type=box_type),
        dict(
            type="RandomScaleCrop",
            scale=SIZE,
            ratio_range=ratio_range,
            crop_size=crop,
            flip_prob=flip,
        ),
        dict(type="PackChannelsLast"),
    ]
    with DefaultScope.overwrite_default_scope("mmdet"):
        return Compose(theirs), Compose(ours)


@pytest.mark.parametrize(
    ("ratio_range", "crop", "flip", "box_type"),
    [
        ((0.5, 1.5), SIZE, 0.0, None),
        ((0.1, 2.0), SIZE, 0.5, None),
        ((0.8, 1.25), (64, 48), 1.0, None),
        ((0.8, 1.25), (64, 48), 0.5, "hbox"),
    ],
)
def test_draws_pixels_and_boxes_are_mmdetections(ratio_range, crop, flip, box_type):
    theirs, ours = pipelines(ratio_range, crop, flip, box_type)
    without_objects = 0
    for index in range(150):
        np.random.seed(index)
        expected, drawn = theirs(image(index)), np.random.rand()
        np.random.seed(index)
        found = ours(image(index))
        if expected is None:
            assert found is None
            without_objects += 1
            continue
        assert np.random.rand() == drawn, "the next image is augmented as it was"
        assert torch.equal(found["inputs"], expected["inputs"])
        a, b = found["data_samples"], expected["data_samples"]
        assert a.metainfo == {"flip": False, "flip_direction": None, **b.metainfo}
        for part in ("gt_instances", "ignored_instances"):
            assert torch.equal(a.get(part).bboxes, b.get(part).bboxes.tensor)
            assert torch.equal(a.get(part).labels, b.get(part).labels)
    assert 0 < without_objects < 75


@pytest.mark.parametrize("ratio_range", [(0.1, 0.1), (0.5, 1.5)])
def test_filled_up_all_images_have_the_crops_shape(ratio_range):
    """And neither draws, pixels nor boxes change."""
    _, plain = pipelines(ratio_range, (64, 48), 0.5)
    step = plain.transforms[1]
    padded = Compose([*plain.transforms])
    padded.transforms[1] = type(step)(SIZE, ratio_range, (64, 48), 0.5, pad_val=(1, 2, 3))
    filled = 0
    for index in range(20):
        found = []
        for pipeline in (plain, padded):
            np.random.seed(index)
            found.append(pipeline(image(index)))
        if found[0] is None:
            assert found[1] is None
            continue
        a, b = (f["data_samples"] for f in found)
        h, w = a.img_shape
        assert a.metainfo == b.metainfo and found[0]["inputs"].shape == (3, h, w)
        assert torch.equal(a.gt_instances.bboxes, b.gt_instances.bboxes)
        pixels = found[1]["inputs"]
        assert pixels.shape == (3, 48, 64) and torch.equal(pixels[:, :h, :w], found[0]["inputs"])
        filling = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
        assert (pixels[:, h:] == filling).all() and (pixels[:, :, w:] == filling).all()
        filled += (h, w) != (48, 64)
    assert filled > 3


@pytest.mark.parametrize("key", ["gt_masks", "gt_seg_map", "gt_keypoints", "proposals"])
def test_what_would_not_be_cropped_is_refused(key):
    _, ours = pipelines((0.5, 1.5), SIZE, 0.5)
    with pytest.raises(UserError, match=f"crops boxes alone, not {key}; load no others"):
        ours({**image(0), key: np.zeros((1, 4))})


def test_what_would_not_be_packed_is_refused():
    sample = items()[0]
    instances = sample["data_samples"].gt_instances
    instances.masks = torch.zeros(len(instances), 8, 8)
    sample["data_samples"].proposals = InstanceData()
    with pytest.raises(UserError, match="packs boxes and labels alone, not masks, proposals; load"):
        padded_collate([sample])


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_images_that_mmdetection_has_flipped_can_be_packed(direction):
    load = dict(type="LoadAnnotations", with_bbox=True)
    flip = dict(type="RandomFlip", prob=1.0, direction=direction)
    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs, ours = (
            Compose([load, flip, dict(type=pack)]) for pack in ("PackDetInputs", "PackChannelsLast")
        )
    assert torch.equal(ours(image(0))["inputs"], theirs(image(0))["inputs"])


def items(count=5):
    _, ours = pipelines((0.5, 1.5), SIZE, 0.5)
    np.random.seed(0)
    transformed = (ours(image(index)) for index in range(4 * count))
    return [item for item in transformed if item is not None][:count]


class Items(torch.utils.data.Dataset):
    """What `items` gives."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return items()[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_keeps_what_its_images_have(workers):
    expected = pseudo_collate(items())
    batch = next(iter(DataLoader(Items(), 5, collate_fn=padded_collate, num_workers=workers)))
    inputs, samples = batch["inputs"], batch["data_samples"]
    shapes = [tuple(i.shape[1:]) for i in expected["inputs"]]
    assert inputs.shape == (5, 3, *np.max(shapes, axis=0))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert len(set(shapes)) > 1, "some images are filled up"
    assert samples.sizes.tolist() == [list(s) for s in shapes]
    unpacked = samples.samples()
    assert len(unpacked) == 5
    for i, (height, width) in enumerate(shapes):
        assert torch.equal(inputs[i, :, :height, :width], expected["inputs"][i])
        assert not inputs[i, :, height:].any() and not inputs[i, :, :, width:].any()
        a, b = unpacked[i], expected["data_samples"][i]
        assert a.metainfo == b.metainfo
        for part in ("gt_instances", "ignored_instances"):
            assert torch.equal(a.get(part).bboxes, b.get(part).bboxes)
            assert torch.equal(a.get(part).labels, b.get(part).labels)
            assert a.get(part).labels.dtype == torch.int64


def test_samples_go_to_a_device_in_two_copies():
    samples = [item["data_samples"] for item in items()]
    packed = PackedSamples.pack(samples, [sample.img_shape for sample in samples])
    count = dispatched(lambda: packed.to("meta").samples())
    assert count == {"_to_copy": 3}  # the third is of the labels, on the device
    for sample in packed.to("meta").samples():
        assert sample.gt_instances.bboxes.device.type == "meta"


def test_samples_are_pinned_as_part_of_a_batch(monkeypatch):
    """Without a GPU nothing can be pinned: here the copies are seen."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 0)
    batch = padded_collate(items())
    pinned = pin_memory(batch)
    for key in ("objects", "sizes"):
        before, after = (getattr(b["data_samples"], key) for b in (batch, pinned))
        assert torch.equal(before, after) and before.data_ptr() != after.data_ptr()
    assert pinned["data_samples"].metainfo == batch["data_samples"].metainfo


def test_mmdetections_preprocessor_is_told_what_it_lacks():
    with pytest.raises(UserError, match="set model.data_preprocessor.type to it"):
        DetDataPreprocessor()(padded_collate(items()), training=True)


@pytest.mark.parametrize("size", [(2, 20000), (20000, 2), (1, 1), (1, 700)])
def test_a_side_is_scaled_to_a_pixel_at_least(size):
    """Where OpenCV refuses to make an image without pixels."""
    height, width = size
    ours = Compose(pipelines((0.5, 0.5), SIZE, 0.0)[1])
    entry = {
        **image(0),
        "img": np.full((*size, 3), 7, np.uint8),
        "instances": [{"bbox": [0, 0, width, height], "bbox_label": 3, "ignore_flag": 0}],
    }
    with DefaultScope.overwrite_default_scope("mmdet"):
        packed = ours(entry)
    shape = packed["inputs"].shape[1:]
    assert min(shape) >= 1 and max(shape) == 48 and (packed["inputs"] == 7).all()
    boxes = packed["data_samples"].gt_instances.bboxes
    assert boxes.tolist() == [[0, 0, shape[1], shape[0]]]
