"""Anchors, matching and losses against the installed effdet: same in, same out."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData

effdet = pytest.importorskip("effdet", reason="effdet is the peer that these are compared with")
from effdet.anchors import AnchorLabeler, Anchors  # noqa: E402
from effdet.config import get_efficientdet_config  # noqa: E402
from effdet.loss import loss_fn  # noqa: E402

from prunet_det.detection.anchors import AnchorGrid  # noqa: E402
from prunet_det.detection.head import EfficientDetHead  # noqa: E402

STRIDES = (8, 16, 32, 64, 128)
SIZE = 256
SIZES = [(SIZE // s, SIZE // s) for s in STRIDES]
CLASSES = 7


@pytest.fixture(scope="module")
def config():
    cfg = get_efficientdet_config("efficientdet_d0")
    cfg.image_size = (SIZE, SIZE)
    cfg.num_classes = CLASSES
    return cfg


def test_anchors(config):
    theirs = Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    assert torch.allclose(AnchorGrid(STRIDES).boxes(SIZES), theirs, atol=1e-4)


def random_boxes(count):
    """(count, 4) boxes x1, y1, x2, y2 inside the image, some of them tiny."""
    sides = 2 ** (torch.rand(count, 2) * 6 + 2)
    corner = torch.rand(count, 2) * (SIZE - sides).clamp(min=0)
    return torch.cat([corner, (corner + sides).clamp(max=SIZE)], dim=1)


@pytest.mark.parametrize("seed", range(8))
def test_targets_and_losses(config, seed):
    torch.manual_seed(seed)
    anchors = AnchorGrid(STRIDES).per_location
    gts = []
    for count in (0, 1, 12, 40):
        labels = torch.randint(CLASSES, (count,))
        gts.append(InstanceData(bboxes=random_boxes(count), labels=labels))
    logits = [torch.randn(4, anchors * CLASSES, *s, requires_grad=True) for s in SIZES]
    deltas = [(torch.randn(4, anchors * 4, *s) * 0.3).requires_grad_() for s in SIZES]

    head = EfficientDetHead(CLASSES, 8, STRIDES)
    ours = head.loss_by_feat(logits, deltas, gts, [{}] * 4)
    sum(ours.values()).backward()
    our_grads = [x.grad.clone() for x in (*logits, *deltas)]

    labeler = AnchorLabeler(Anchors.from_config(config), CLASSES)
    cls_t, box_t, positives = [], [], []
    for gt in gts:
        # effdet counts classes from 1 and boxes as y1, x1, y2, x2.
        c, b, n = labeler.label_anchors(gt.bboxes[:, [1, 0, 3, 2]], gt.labels + 1)
        cls_t.append(c)
        box_t.append(b)
        positives.append(n)
    order = torch.tensor([1, 0, 3, 2])
    yxhw = [d.unflatten(1, (anchors, 4))[:, :, order].flatten(1, 2) for d in deltas]
    for x in (*logits, *deltas):
        x.grad = None
    total, cls, box = loss_fn(
        logits,
        yxhw,
        [torch.stack(level) for level in zip(*cls_t, strict=True)],
        [torch.stack(level) for level in zip(*box_t, strict=True)],
        torch.stack(positives),
        CLASSES,
        alpha=0.25,
        gamma=1.5,
        delta=0.1,
        box_loss_weight=50.0,
    )
    total.backward()
    assert ours["loss_cls"].item() == pytest.approx(cls.item(), rel=1e-5)
    assert ours["loss_bbox"].item() == pytest.approx(50 * box.item(), rel=1e-5)
    for a, x in zip(our_grads, (*logits, *deltas), strict=True):
        assert torch.allclose(a, x.grad, rtol=1e-4, atol=1e-4 * float(x.grad.abs().max()))
