"""EfficientDet's anchors, and matching them to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.ops import box_iou


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of all pyramid levels, centred on the cells of the feature maps.

    Attributes:
        strides: Strides of the levels, finest first.
        scale: Side of a level's smallest anchor, in strides.
        octaves: Number of sizes per octave; size k of a level is 2 ** (k / octaves) times the
            smallest.
        aspects: (width, height) factors. Other generators take the root of a ratio instead of the
            published 1.4 and 0.7, and are up to 22 px off on P7.
    """

    strides: tuple[int, ...]
    scale: float = 4.0
    octaves: int = 3
    aspects: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))

    @property
    def per_location(self) -> int:
        """Number of anchors of a cell."""
        return self.octaves * len(self.aspects)

    def sizes(self, stride: int) -> torch.Tensor:
        """Computes widths and heights in pixels, (per_location, 2); the size varies slowest."""
        base = [self.scale * stride * 2 ** (k / self.octaves) for k in range(self.octaves)]
        sides = [[b * ax, b * ay] for b in base for ax, ay in self.aspects]
        return torch.tensor(sides, dtype=torch.float64)

    def boxes(
        self, feature_sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Computes all anchors of an image.

        Args:
            feature_sizes: (height, width) of each level's feature map.
            device: Device of the result.

        Returns:
            (A, 4) as x1, y1, x2, y2 in pixels, ordered by level, row, column and anchor.
        """
        levels = []
        for (height, width), stride in zip(feature_sizes, self.strides, strict=True):
            half = self.sizes(stride) / 2
            ys = (torch.arange(height, dtype=torch.float64) + 0.5) * stride
            xs = (torch.arange(width, dtype=torch.float64) + 0.5) * stride
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            centres = torch.stack([x, y], dim=-1)[:, :, None]
            levels.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
        # Rounded once, from float64, as effdet does: a box inside several anchors of one size
        # overlaps them all equally, and rounding decides which of them is matched to it.
        return torch.cat(levels).float().to(device)


def match_anchors(
    anchors: torch.Tensor, boxes: torch.Tensor, threshold: float = 0.5
) -> torch.Tensor:
    """Matches anchors to boxes.

    An anchor is matched to the box that it overlaps most, if their IoU reaches the threshold. The
    best anchor of a box is matched to it in any case; if it is the best of several boxes, to the
    first of them.

    Args:
        anchors: (A, 4) as x1, y1, x2, y2.
        boxes: (G, 4) as x1, y1, x2, y2.
        threshold: Minimum IoU, 0..1.

    Returns:
        Index of each anchor's box, (A,) int64, or -1.
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
