"""EfficientDet's losses, summed over anchors; the head divides by the number of positives."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss


def focal_loss_sum(
    logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.25, gamma: float = 1.5
) -> torch.Tensor:
    """Sigmoid focal loss (arXiv 1708.02002) with EfficientDet's alpha and gamma.

    Args:
        logits: (M, classes).
        labels: (M,) class indices, -1 for background.
        alpha, gamma: Weight of positives, and focus.

    Returns:
        A scalar.
    """
    targets = torch.zeros_like(logits)
    positive = labels >= 0
    targets[positive, labels[positive]] = 1.0
    return sigmoid_focal_loss(logits, targets, alpha, gamma, reduction="sum")


def huber_loss_mean4(
    predicted: torch.Tensor, target: torch.Tensor, delta: float = 0.1
) -> torch.Tensor:
    """Huber loss summed over boxes and averaged over their four coordinates.

    Args:
        predicted, target: (P, 4) deltas.
        delta: Where the loss turns from quadratic to linear.

    Returns:
        A scalar.
    """
    return F.huber_loss(predicted, target, reduction="sum", delta=delta) / 4
