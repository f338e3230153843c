"""EfficientDet's anchors and the matching of boxes to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.ops import box_iou


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of every level, centred on the cells of its feature map.

    Attributes:
        strides: Of the levels.
        scale: Side of the smallest anchor of a level, in strides.
        octaves: Sizes per octave; anchor k of a level is 2 ** (k / octaves) times the smallest.
        aspects: (width, height) factors. Other generators take the root of a ratio instead of the
            published 1.4 and 0.7, and lie up to 22 px off on P7.
    """

    strides: tuple[int, ...]
    scale: float = 4.0
    octaves: int = 3
    aspects: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))

    @property
    def per_location(self) -> int:
        """Anchors of one cell."""
        return self.octaves * len(self.aspects)

    def sizes(self, stride: int) -> torch.Tensor:
        """(per_location, 2) widths and heights in pixels; the size varies slowest."""
        base = [self.scale * stride * 2 ** (k / self.octaves) for k in range(self.octaves)]
        sides = [[b * ax, b * ay] for b in base for ax, ay in self.aspects]
        return torch.tensor(sides, dtype=torch.float64)

    def boxes(
        self, feature_sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """(A, 4) anchors as x1, y1, x2, y2, ordered level, row, column, anchor.

        Args:
            feature_sizes: (height, width) of each level's feature map.
            device: Where to put them.
        """
        levels = []
        for (height, width), stride in zip(feature_sizes, self.strides, strict=True):
            half = self.sizes(stride) / 2
            ys = (torch.arange(height, dtype=torch.float64) + 0.5) * stride
            xs = (torch.arange(width, dtype=torch.float64) + 0.5) * stride
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            centres = torch.stack([x, y], dim=-1)[:, :, None]
            levels.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
        # Rounded once, from float64: a box inside several anchors of one size overlaps them all
        # equally, and only the peer's rounding breaks such a tie as the peer does.
        return torch.cat(levels).float().to(device)


def match_anchors(
    anchors: torch.Tensor, boxes: torch.Tensor, threshold: float = 0.5
) -> torch.Tensor:
    """Index of the box that each anchor stands for, or -1.

    An anchor stands for the box that it overlaps most where their IoU reaches the threshold; and
    each box's best anchor stands for it in any case (for the first such box, where several claim
    one anchor).

    Args:
        anchors: (A, 4), boxes: (G, 4), both x1, y1, x2, y2.
        threshold: IoU.

    Returns:
        (A,) int64.
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    iou = box_iou(boxes, anchors)
    best, match = iou.max(dim=0)
    match[best < threshold] = -1
    # From the last box to the first, so that the first one prevails.
    forced = {a: g for g, a in reversed(list(enumerate(iou.argmax(dim=1).tolist())))}
    match[list(forced)] = match.new_tensor(list(forced.values()))
    return match
