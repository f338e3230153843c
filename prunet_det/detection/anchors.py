"""EfficientDet's anchors, and matching them to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

PAIRS = 2**25  # of a box and an anchor, whose overlaps are computed at once


@dataclass(frozen=True)
class PaddedBoxes:
    """Boxes of B images, each filled up to the number G of the image with most boxes, at least 1.

    Attributes:
        boxes: (B, G, 4) as x1, y1, x2, y2.
        labels: (B, G).
        real: Whether it is a box of the image and no filling, (B, G).
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    real: torch.Tensor


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


def pad_boxes(boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> PaddedBoxes:
    """Puts the boxes of a batch into one tensor, with as many operators for any number of images.

    Args:
        boxes: (G_i, 4) of each image, all on one device.
        labels: (G_i,) of each image.
    """
    counts = np.array([len(b) for b in boxes])
    total, width = counts.sum(), max(1, counts.max())
    starts = counts.cumsum() - counts
    column = np.arange(width)
    rows = np.where(column < counts[:, None], starts[:, None] + column, total)
    # The host knows the lengths, so that nothing waits for the device.
    index = torch.from_numpy(rows).to(boxes[0].device, non_blocking=True)
    filling = boxes[0].new_ones(1, 4).cumsum(dim=1)  # its sides are above 0: deltas are finite
    return PaddedBoxes(
        boxes=torch.cat([*boxes, filling])[index],
        labels=torch.cat([*labels, labels[0].new_zeros(1)])[index],
        real=index < int(total),
    )


def match_anchors(
    anchors: torch.Tensor, padded: PaddedBoxes, threshold: float = 0.5
) -> torch.Tensor:
    """Matches the anchors of each image of a batch to its boxes.

    An anchor is matched to the box that it overlaps most, if their IoU reaches the threshold. The
    best anchor of a box is matched to it in any case; if it is the best of several boxes, to the
    first of them.

    Overlaps are computed for all images at once up to PAIRS of a box and an anchor, which takes
    about 1 GiB; beyond, for as many images at a time as stay below.

    Args:
        anchors: (A, 4) as x1, y1, x2, y2.
        padded: Boxes of B images, (B, G, 4).
        threshold: Minimum IoU, 0..1.

    Returns:
        Index of each anchor's box in its image, (B, A) int64, or -1.
    """
    images = max(1, PAIRS // (padded.boxes.shape[1] * len(anchors)))
    chunks = zip(padded.boxes.split(images), padded.real.split(images), strict=True)
    matches = []
    for boxes, real in chunks:
        iou = box_iou(boxes, anchors)
        # More than any overlap, and of several largest values the first is found.
        iou.scatter_(2, iou.argmax(dim=2, keepdim=True), 2.0)
        iou.masked_fill_(~real[..., None], -1.0)
        best, match = iou.max(dim=1)
        matches.append(match.masked_fill_(best < threshold, -1))
    return torch.cat(matches)


def encode_boxes(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Computes the deltas of boxes relative to anchors.

    Args:
        anchors: (A, 4) as x1, y1, x2, y2.
        boxes: (B, A, 4) as x1, y1, x2, y2.

    Returns:
        (B, A, 4): the distance of the centres in sides of the anchor, and the logarithms of the
        sides' ratios.
    """
    (from_centre, from_size), (to_centre, to_size) = (
        box_convert(b, "xyxy", "cxcywh").split(2, dim=-1) for b in (anchors, boxes)
    )
    return torch.cat([(to_centre - from_centre) / from_size, (to_size / from_size).log()], dim=-1)
