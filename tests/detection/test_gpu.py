"""The detector on a CUDA device; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS

from tests.detection.test_detector import batch, detector_cfg

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
