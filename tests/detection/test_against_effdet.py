"""Anchors, matching, losses, pyramid and head against the installed effdet: same in, same out."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData

effdet = pytest.importorskip("effdet", reason="effdet is the peer that these are compared with")
from effdet.anchors import AnchorLabeler, Anchors  # noqa: E402
from effdet.config import get_efficientdet_config  # noqa: E402
from effdet.efficientdet import BiFpn, HeadNet  # noqa: E402
from effdet.loss import loss_fn  # noqa: E402

from prunet_det.detection.anchors import AnchorGrid  # noqa: E402
from prunet_det.detection.bifpn import BiFPN  # noqa: E402
from prunet_det.detection.head import EfficientDetHead  # noqa: E402

STRIDES = (8, 16, 32, 64, 128)
SIZE = 256
SIZES = [(SIZE // s, SIZE // s) for s in STRIDES]
CLASSES = 7


def copy_in_order(ours, theirs):
    """Copies weights by position: both list the same layers in the same order."""
    a, b = ours.state_dict(), theirs.state_dict()
    with torch.no_grad():
        for (ka, va), (kb, vb) in zip(a.items(), b.items(), strict=True):
            assert va.shape == vb.shape, (ka, kb)
            va.copy_(vb)


@pytest.fixture(scope="module")
def config():
    cfg = get_efficientdet_config("efficientdet_d0")
    cfg.image_size = (SIZE, SIZE)
    cfg.num_classes = CLASSES
    return cfg


def randomise(module):
    """Weights and norm statistics away from their starting values."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.2, 1.0) if "var" in name else value.normal_(0.0, 0.4)
        if "edge_weights" in name:
            torch.nn.init.uniform_(value, -0.2, 1.0)


def test_anchors(config):
    theirs = Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    assert torch.allclose(AnchorGrid(STRIDES).boxes(SIZES), theirs, atol=1e-4)


def test_bifpn(config):
    feature_info = [
        dict(num_chs=c, reduction=s) for c, s in zip((24, 40, 96), STRIDES[:3], strict=True)
    ]
    theirs = BiFpn(config, feature_info).eval()
    randomise(theirs)
    ours = BiFPN([24, 40, 96], STRIDES[:3], config.fpn_channels, config.fpn_cell_repeats).eval()
    own = ours.state_dict()
    names = {}
    for name in theirs.state_dict():
        new = name.replace("resample.", "extra_levels.", 1) if name.startswith("resample") else name
        if new.startswith("extra_levels."):
            level = int(new.split(".")[1])
            new = new.replace(f"extra_levels.{level}", f"extra_levels.{level - 3}", 1)
        new = new.replace("cell.", "cells.", 1).replace(".fnode.", ".", 1)
        if ".combine.resample." in new:
            head, rest = new.split(".combine.resample.")
            cell, node = head.split(".")[1:3]
            offset, rest = rest.split(".", 1)
            index = ours.cells[int(cell)][int(node)].inputs.index(int(offset))
            new = f"{head}.resample.{index}.{rest}"
        names[name] = new.replace(".combine.", ".").replace(".after_combine.conv.", ".conv.")
    assert set(names.values()) == set(own)
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            own[names[name]].copy_(value)
    maps = [torch.randn(2, c, *s) for c, s in zip((24, 40, 96), SIZES[:3], strict=True)]
    for a, b in zip(ours([m.clone() for m in maps]), theirs(list(maps)), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_head(config):
    head = EfficientDetHead(CLASSES, config.fpn_channels, STRIDES).eval()
    maps = [torch.randn(2, config.fpn_channels, *s) for s in SIZES]
    for tower, outputs in ((head.class_tower, CLASSES), (head.box_tower, 4)):
        theirs = HeadNet(config, num_outputs=outputs).eval()
        randomise(theirs)
        copy_in_order(tower, theirs)
        for a, b in zip(tower(maps), theirs(maps), strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def random_boxes(count):
    """(count, 4) boxes x1, y1, x2, y2 inside the image, some of them tiny."""
    sides = 2 ** (torch.rand(count, 2) * 6 + 2)
    corner = torch.rand(count, 2) * (SIZE - sides).clamp(min=0)
    return torch.cat([corner, (corner + sides).clamp(max=SIZE)], dim=1)


@pytest.mark.parametrize("seed", range(20))
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
    assert float(ours["loss_cls"]) == pytest.approx(float(cls), rel=1e-5)
    assert float(ours["loss_bbox"]) == pytest.approx(50 * float(box), rel=1e-5)
    for a, x in zip(our_grads, (*logits, *deltas), strict=True):
        assert torch.allclose(a, x.grad, rtol=1e-4, atol=1e-4 * float(x.grad.abs().max()))
