"""Targets and losses of a whole batch: equal to those of its images, and few operators."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmengine.structures import InstanceData
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from prunet_det.detection import anchors
from prunet_det.detection.head import EfficientDetHead
from tests.dispatched import dispatched

STRIDES = (8, 16, 32, 64, 128)
SIZES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
CLASSES = 5


def random_boxes(count, size=128.0):
    sides = 2 ** (torch.rand(count, 2) * 5 + 2)
    corner = torch.rand(count, 2) * (size - sides).clamp(min=0)
    return torch.cat([corner, (corner + sides).clamp(max=size)], dim=1)


def instances(boxes, device="cpu"):
    labels = torch.randint(CLASSES, (len(boxes),))
    return InstanceData(bboxes=boxes.to(device), labels=labels.to(device))


def batches():
    """Random boxes; several boxes with one best anchor; ties; images and batches without boxes."""
    torch.manual_seed(0)
    tiny = torch.tensor([[60.0, 60, 62, 62], [60, 60, 61, 61], [61, 61, 63, 63]])
    same = random_boxes(1).repeat(3, 1)
    grid = torch.tensor([[0.0, 0, 64, 64], [64, 64, 128, 128], [32, 32, 96, 96], [0, 0, 128, 128]])
    none = torch.zeros(0, 4)
    random = [random_boxes(n) for n in (0, 1, 12, 40)]
    return [random, [tiny, none, same, grid], [none, none], [torch.cat([grid, tiny, same])]]


def by_image(head, grid, gts, logits, deltas):
    """Targets and losses as they are defined, image by image and box by box."""
    labels, cls, box = [], 0, 0
    for gt, logit, delta in zip(gts, logits, deltas, strict=True):
        match = torch.full((len(grid),), -1)
        if len(gt.bboxes):
            iou = box_iou(gt.bboxes, grid)
            best, match = iou.max(dim=0)
            match[best < head.match_iou] = -1
            for g in reversed(range(len(iou))):
                match[iou[g].argmax()] = g
        positive = match >= 0
        label = torch.full_like(match, -1)
        label[positive] = gt.labels[match[positive]]
        target = DeltaXYWHBBoxCoder().encode(grid[positive], gt.bboxes[match[positive]])
        labels.append((label, target))
        hot = torch.zeros_like(logit)
        hot[positive, label[positive]] = 1
        cls = cls + sigmoid_focal_loss(logit, hot, head.alpha, head.gamma, reduction="sum")
        box = box + F.huber_loss(delta[positive], target, reduction="sum", delta=head.delta) / 4
    count = 1 + sum(len(target) for _, target in labels)
    return labels, cls / count, head.box_weight * box / count


def outputs(batch, device="cpu"):
    per = anchors.AnchorGrid.octaves * len(anchors.AnchorGrid.aspects)
    logits = [torch.randn(batch, per * CLASSES, *s, device=device) * 3 for s in SIZES]
    deltas = [torch.randn(batch, per * 4, *s, device=device) * 0.3 for s in SIZES]
    return [x.requires_grad_() for x in logits], [x.requires_grad_() for x in deltas]


@pytest.mark.parametrize("pairs", [anchors.PAIRS, 1])
@pytest.mark.parametrize("boxes", batches(), ids=["random", "ties", "no boxes", "one image"])
def test_targets_and_losses_are_those_of_the_images(boxes, pairs, monkeypatch):
    monkeypatch.setattr(anchors, "PAIRS", pairs)
    torch.manual_seed(1)
    head = EfficientDetHead(CLASSES, 8, STRIDES)
    gts = [instances(b) for b in boxes]
    logits, deltas = outputs(len(gts))
    grid = head.grid.boxes(SIZES)
    flat = head._flatten(logits, CLASSES), head._flatten(deltas, 4)
    expected, cls, box = by_image(head, grid, gts, *flat)

    labels, targets = head.assign(grid, gts)
    for (label, target), ours, encoded in zip(expected, labels, targets, strict=True):
        assert torch.equal(ours, label)
        assert torch.equal(encoded[label >= 0], target)
    losses = head.loss_by_feat(logits, deltas, gts, [{}] * len(gts))
    assert losses["loss_cls"].item() == pytest.approx(cls.item(), rel=1e-5)
    assert losses["loss_bbox"].item() == pytest.approx(box.item(), rel=1e-5)
    grads = torch.autograd.grad(sum(losses.values()), logits + deltas)
    theirs = torch.autograd.grad(cls + box, logits + deltas)
    for a, b in zip(grads, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max()))


def test_extreme_logits_have_finite_losses_and_gradients():
    head = EfficientDetHead(CLASSES, 8, STRIDES)
    logits, deltas = outputs(1)
    large = [(1e4 * x).detach().requires_grad_() for x in logits]
    losses = head.loss_by_feat(large, deltas, [instances(random_boxes(3))], [{}])
    grads = torch.autograd.grad(sum(losses.values()), large)
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(g).all() for g in grads)


def test_losses_are_in_single_precision_under_autocast():
    head = EfficientDetHead(CLASSES, 8, STRIDES)
    half = [[x.detach().bfloat16() for x in group] for group in outputs(2)]
    gts = [instances(random_boxes(n)) for n in (2, 5)]
    expected = head.loss_by_feat(*[[x.float() for x in group] for group in half], gts, [{}] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss_by_feat(*half, gts, [{}] * 2)
    assert losses == expected and losses["loss_cls"].dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operators_do_not_grow_with_the_batch(device):
    """On the device `meta`, what would have to wait for a device's result is an error."""
    head = EfficientDetHead(CLASSES, 8, STRIDES)
    counts = []
    for batch in ((3,), (0, 0), (0, 1, 12, 40) * 4, (40,) * 32):
        gts = [instances(random_boxes(n), device) for n in batch]
        args = (*outputs(len(batch), device), gts, [{}] * len(batch))
        head.loss_by_feat(*args)  # makes the anchors
        counts.append(dispatched(lambda a=args: head.loss_by_feat(*a)).total())
    assert len(set(counts)) == 1
    assert counts[0] <= 120
