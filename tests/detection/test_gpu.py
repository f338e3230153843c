"""The detector on a CUDA device; skipped where there is none."""

from __future__ import annotations

import contextlib

import pytest
import torch
from mmdet.registry import MODELS
from torch.utils.data import DataLoader

from prunet_det.detection.head import EfficientDetHead
from prunet_det.detection.preprocessor import BatchPreprocessor
from prunet_det.detection.transforms import padded_collate
from tests.detection.test_detector import batch, detector_cfg
from tests.detection.test_preprocessor import CFG, stacked
from tests.detection.test_preprocessor import batch as batch_of
from tests.detection.test_targets import CLASSES, STRIDES, batches, instances, outputs
from tests.detection.test_transforms import Items, items

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("amp", [False, True])
def test_trains_and_predicts(amp):
    model = MODELS.build(dict(**detector_cfg(), channels_last=True)).cuda().train()
    images, samples = batch()
    images, samples = images.cuda(), [s.to("cuda") for s in samples]
    with torch.autocast("cuda", enabled=amp):
        losses = model(images, samples, mode="loss")
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad(), torch.autocast("cuda", enabled=amp):
        found = model.eval()(images, samples, mode="predict")
    assert found[0].pred_instances.bboxes.is_cuda


def test_equals_the_cpu(full_precision):
    model = MODELS.build(detector_cfg()).eval()
    images, _ = batch()
    with torch.no_grad():
        expected = model(images)
        found = model.cuda()(images.cuda())
    for a, b in zip(expected[0] + expected[1], found[0] + found[1], strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-3, atol=1e-3)


def test_a_pinned_batch_is_the_same_on_the_gpu():
    loader = DataLoader(Items(), 5, collate_fn=padded_collate, num_workers=1, pin_memory=True)
    pinned, expected = next(iter(loader)), padded_collate(items())
    samples = pinned["data_samples"]
    assert all(t.is_pinned() for t in (pinned["inputs"], samples.objects, samples.sizes))
    inputs = pinned["inputs"].to("cuda", non_blocking=True)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(inputs.cpu(), expected["inputs"])
    for a, b in zip(
        samples.to("cuda", non_blocking=True).samples(),
        expected["data_samples"].samples(),
        strict=True,
    ):
        assert torch.equal(a.gt_instances.bboxes.cpu(), b.gt_instances.bboxes)
        assert torch.equal(a.gt_instances.labels.cpu(), b.gt_instances.labels)


@contextlib.contextmanager
def no_waiting():
    """Makes it an error that the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_targets_and_losses_equal_the_cpus_and_wait_for_nothing():
    head = EfficientDetHead(CLASSES, 8, STRIDES)
    gts, maps = [instances(boxes) for boxes in batches()[0]], outputs(4)
    expected = head.loss_by_feat(*maps, gts, [{}] * 4)
    on_device = [[x.detach().cuda() for x in group] for group in maps], [g.cuda() for g in gts]
    head.loss_by_feat(*on_device[0], on_device[1], [{}] * 4)  # makes the anchors
    with no_waiting():
        found = head.loss_by_feat(*on_device[0], on_device[1], [{}] * 4)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-4)


def test_preprocessing_equals_the_cpus_and_waits_for_nothing():
    data = stacked(batch_of([(64, 96), (50, 70), (33, 96)]))
    preprocess = BatchPreprocessor(**CFG, pad_size_divisor=128)
    expected = preprocess(data, True)["inputs"]
    preprocess = preprocess.cuda()
    with no_waiting():
        found = preprocess(data, True)
    assert torch.allclose(found["inputs"].cpu(), expected)
    assert all(s.gt_instances.bboxes.is_cuda for s in found["data_samples"])
