"""EfficientDet's head: separable convolutions shared over levels, with norms of each level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from prunet_det.detection.anchors import AnchorGrid, encode_boxes, match_anchors, pad_boxes
from prunet_det.detection.bifpn import NORM_CFG, ConvOptions, separable_conv
from prunet_det.utils.errors import InputError

# (height, width) of each level's map, and the device of the anchors
_AnchorKey: TypeAlias = tuple[tuple[tuple[int, int], ...], torch.device]


class HeadTower(BaseModule):
    """Repeated separable convolutions and one that predicts, shared over all levels.

    Args:
        channels: Channels of the input and of the repeated convolutions.
        outputs: Channels of the output.
        levels: Number of pyramid levels; each has its own norms.
        repeats: Number of convolutions before the one that predicts.
        options: Options of the convolutions.
        prior: Probability that a sigmoid of the initial prediction gives, 0..1; None for an initial
            bias of zero.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        levels: int,
        repeats: int,
        options: ConvOptions,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            separable_conv(channels, channels, options.pad_type, options.conv_bias)
            for _ in range(repeats)
        )
        self.norms: Any = nn.ModuleList(
            nn.ModuleList(options.norm(channels) for _ in range(levels)) for _ in range(repeats)
        )
        self.act = nn.SiLU()  # in place, it would copy its input for the backward pass
        self.predict = separable_conv(channels, outputs, options.pad_type, bias=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=fan_in**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if prior is not None:
            bias = self.predict.get_parameter("conv_pw.bias")
            nn.init.constant_(bias, -math.log((1 - prior) / prior))

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Predicts (N, outputs, H_i, W_i) for each map, (N, channels, H_i, W_i)."""
        outputs = []
        for level, x in enumerate(maps):
            for conv, norms in zip(self.convs, self.norms, strict=True):
                x = self.act(norms[level](conv(x)))
            outputs.append(self.predict(x))
        return outputs


@MODELS.register_module()
class EfficientDetHead(BaseDenseHead):
    """Predicts class scores and a box for each anchor, as EfficientDet does.

    Args:
        num_classes: Number of classes, without background.
        in_channels: Channels of the pyramid; OneStageDetector fills them in from the neck.
        strides: Strides of the pyramid's levels; OneStageDetector fills them in from the neck.
        repeats: Number of separable convolutions before the prediction.
        anchor_scale: Side of a level's smallest anchor, in strides.
        anchor_octaves: Number of anchor sizes per octave.
        anchor_aspects: (width, height) factors of the anchors, see `AnchorGrid`.
        match_iou: Minimum IoU at which an anchor is matched to a box, 0..1.
        alpha: Weight of positives in the focal loss, 0..1.
        gamma: Exponent of the focal loss.
        delta: Difference at which the Huber loss turns from quadratic to linear.
        box_weight: Weight of the Huber loss.
        norm_cfg: mmcv's config of the norms; None for BN with eps 1e-3 and momentum 0.01, as
            EfficientDet has.
        pad_type: timm's padding type: empty for symmetric padding, `same` for TensorFlow's.
        conv_bias: Biases in front of norms, as the weights converted from TensorFlow have.
        train_cfg: Not used; MMDetection passes it.
        test_cfg: Selection of detections: `max_points` (box-class pairs kept before NMS, over all
            levels), `score_thr`, `nms_iou`, `max_per_img`. Defaults are EfficientDet's.
        init_cfg: Config of mmengine's weight initialisation.

    Raises:
        InputError: If `test_cfg` has an unknown key.
    """

    TEST_CFG = dict(max_points=5000, score_thr=0.0, nms_iou=0.5, max_per_img=100)

    def __init__(  # noqa: PLR0913 (the keys of a config)
        self,
        num_classes: int,
        in_channels: int,
        strides: Sequence[int],
        *,
        repeats: int = 3,
        anchor_scale: float = 4.0,
        anchor_octaves: int = 3,
        anchor_aspects: Sequence[tuple[float, float]] = AnchorGrid.aspects,
        match_iou: float = 0.5,
        alpha: float = 0.25,
        gamma: float = 1.5,
        delta: float = 0.1,
        box_weight: float = 50.0,
        norm_cfg: Mapping[str, Any] | None = None,
        pad_type: str = "",
        conv_bias: bool = False,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        unknown = set(test_cfg or {}) - set(self.TEST_CFG)
        if unknown:
            raise InputError(
                f"EfficientDetHead's test_cfg has no {sorted(unknown)[0]!r}; it has "
                f"{', '.join(self.TEST_CFG)}."
            )
        self.num_classes = num_classes
        self.grid = AnchorGrid(
            tuple(strides), anchor_scale, anchor_octaves, tuple((w, h) for w, h in anchor_aspects)
        )
        self.match_iou, self.alpha, self.gamma = match_iou, alpha, gamma
        self.delta, self.box_weight = delta, box_weight
        self.test_cfg = {**self.TEST_CFG, **(test_cfg or {})}
        self.coder = TASK_UTILS.build(
            dict(type="DeltaXYWHBBoxCoder", target_means=(0.0,) * 4, target_stds=(1.0,) * 4)
        )
        anchors = self.grid.per_location
        levels, options = len(strides), ConvOptions(norm_cfg or NORM_CFG, pad_type, conv_bias)
        self.class_tower = HeadTower(
            in_channels, anchors * num_classes, levels, repeats, options, prior=0.01
        )
        self.box_tower = HeadTower(in_channels, anchors * 4, levels, repeats, options)
        self._anchor_cache: tuple[_AnchorKey, torch.Tensor] | None = None

    def forward(
        self, maps: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predicts logits and box deltas of all anchors.

        Args:
            maps: Maps of the pyramid, finest first, each (N, in_channels, H_i, W_i).

        Returns:
            Logits, (N, anchors * num_classes, H_i, W_i) for each level, and deltas dx, dy, dw, dh
            relative to the anchor, (N, anchors * 4, H_i, W_i) for each level; anchors are those of
            one cell.
        """
        return self.class_tower(maps), self.box_tower(maps)

    def _anchors(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        key = (tuple((m.shape[-2], m.shape[-1]) for m in maps), maps[0].device)
        if self._anchor_cache is None or self._anchor_cache[0] != key:
            self._anchor_cache = key, self.grid.boxes(key[0], key[1])
        return self._anchor_cache[1]

    @staticmethod
    def _flatten(maps: Sequence[torch.Tensor], last: int) -> torch.Tensor:
        """Joins levels of (N, anchors * last, H, W) to (N, A, last) float32, in anchor order."""
        flat = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, last) for m in maps]
        return torch.cat(flat, dim=1).float()

    def assign(
        self, anchors: torch.Tensor, batch_gt_instances: list[InstanceData]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the targets of all anchors of a batch of B images.

        Args:
            anchors: Anchors of an image, (A, 4).
            batch_gt_instances: `bboxes` and `labels` of each image.

        Returns:
            Labels, (B, A), -1 for background; and deltas, (B, A, 4), which mean nothing where the
            label is -1.
        """
        padded = pad_boxes(
            [get_box_tensor(gt.bboxes) for gt in batch_gt_instances],
            [gt.labels for gt in batch_gt_instances],
        )
        match = match_anchors(anchors, padded, self.match_iou)
        index = match.clamp(min=0)
        labels = padded.labels.gather(1, index).masked_fill_(match < 0, -1)
        boxes = padded.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        return labels, encode_boxes(anchors, boxes)

    def loss_by_feat(
        self,
        cls_scores: list[torch.Tensor],
        bbox_preds: list[torch.Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Computes the focal and the Huber loss, each divided by the number of positives plus one.

        Args:
            cls_scores: Logits of each level, (N, anchors * num_classes, H_i, W_i).
            bbox_preds: Deltas of each level, (N, anchors * 4, H_i, W_i).
            batch_gt_instances: `bboxes` and `labels` of each image.
            batch_img_metas: Not used.
            batch_gt_instances_ignore: Not used.

        Returns:
            `loss_cls` and `loss_bbox`.
        """
        logits = self._flatten(cls_scores, self.num_classes)
        deltas = self._flatten(bbox_preds, 4)
        labels, targets = self.assign(self._anchors(cls_scores), batch_gt_instances)
        positive = labels >= 0
        normalizer = reduce_mean(positive.sum() + 1.0)
        loss_cls = focal_loss_sum(logits, labels, self.alpha, self.gamma)
        loss_box = huber_loss_mean4(deltas, targets, positive, self.delta)
        return {
            "loss_cls": loss_cls / normalizer,
            "loss_bbox": self.box_weight * loss_box / normalizer,
        }

    def predict_by_feat(  # noqa: PLR0913, PLR0917 (MMDetection's signature)
        self,
        cls_scores: list[torch.Tensor],
        bbox_preds: list[torch.Tensor],
        score_factors: None = None,
        batch_img_metas: list[dict[str, Any]] | None = None,
        cfg: Mapping[str, Any] | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Selects detections: the best box-class pairs of all levels, then NMS of each class.

        Args:
            cls_scores: Logits of each level, (N, anchors * num_classes, H_i, W_i).
            bbox_preds: Deltas of each level, (N, anchors * 4, H_i, W_i).
            score_factors: Not used.
            batch_img_metas: `img_shape` and, to rescale, `scale_factor` of each image.
            cfg: Values that replace those of test_cfg.
            rescale: Give boxes in pixels of the original image, not of the resized one.
            with_nms: Apply NMS.

        Returns:
            `bboxes` (x1, y1, x2, y2), `scores` and `labels` of each image, best first.
        """
        cfg = {**self.test_cfg, **(cfg or {})}
        candidates = self.candidates(cls_scores, bbox_preds, int(cfg["max_points"]))
        results = []
        for *found, meta in zip(*candidates, batch_img_metas or [], strict=False):
            keep = found[1] > cfg["score_thr"]
            boxes, scores, classes = (t[keep] for t in found)
            if with_nms:
                kept = batched_nms(boxes, scores, classes, cfg["nms_iou"])[: cfg["max_per_img"]]
                boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
            boxes = clip_boxes_to_image(boxes, meta["img_shape"][:2])
            if rescale:
                boxes = boxes / boxes.new_tensor(meta["scale_factor"]).repeat(2)
            results.append(InstanceData(bboxes=boxes, scores=scores, labels=classes))
        return results

    def candidates(
        self, cls_scores: list[torch.Tensor], bbox_preds: list[torch.Tensor], max_points: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Selects the box-class pairs of the highest scores, over all levels.

        Args:
            cls_scores: Logits of each level, (N, anchors * num_classes, H_i, W_i).
            bbox_preds: Deltas of each level, (N, anchors * 4, H_i, W_i).
            max_points: Number P of pairs, at most all.

        Returns:
            Boxes (x1, y1, x2, y2), (N, P, 4), scores and labels, (N, P), best first; of equal
            scores, the anchor that comes first. Boxes are clipped to what the maps cover, which
            includes an image's padding, so that NMS compares the same boxes wherever the image
            ends.
        """
        best, pairs = topk(self._flatten(cls_scores, self.num_classes).flatten(1), max_points)
        rows, labels = pairs // self.num_classes, pairs % self.num_classes
        deltas = self._flatten(bbox_preds, 4).gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = self._decode(self._anchors(cls_scores)[rows], deltas, cls_scores[0])
        return boxes, best.sigmoid(), labels

    def all_boxes(
        self, cls_scores: list[torch.Tensor], bbox_preds: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decodes every anchor, for a runtime that selects itself.

        Args:
            cls_scores: Logits of each level, (N, anchors * num_classes, H_i, W_i).
            bbox_preds: Deltas of each level, (N, anchors * 4, H_i, W_i).

        Returns:
            Boxes (x1, y1, x2, y2), (N, A, 4), clipped as `candidates` are, and scores, (N, A,
            num_classes).
        """
        deltas = self._flatten(bbox_preds, 4)
        anchors = self._anchors(cls_scores).expand_as(deltas)
        boxes = self._decode(anchors, deltas, cls_scores[0])
        return boxes, self._flatten(cls_scores, self.num_classes).sigmoid()

    def _decode(
        self, anchors: torch.Tensor, deltas: torch.Tensor, finest: torch.Tensor
    ) -> torch.Tensor:
        """Applies deltas, (N, P, 4), to anchors, and clips to what the finest map covers."""
        height, width = (side * self.grid.strides[0] for side in finest.shape[-2:])
        boxes = self.coder.decode(
            anchors.reshape(-1, 4), deltas.reshape(-1, 4), max_shape=(height, width)
        )
        return boxes.view_as(deltas)


def topk(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the highest values of each row; of equal ones the first comes first, as in ONNX.

    Args:
        values: (N, M).
        count: Number P of values, at most all.

    Returns:
        Values, highest first, and their indices, (N, P) each.
    """
    count = min(count, values.shape[1])
    if torch.compiler.is_exporting():
        return values.topk(count)
    _, index = values.topk(count, sorted=False)  # in whatever order equal ones come
    index, _ = index.sort(dim=1)
    best, order = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return best, index.gather(1, order)


def focal_loss_sum(
    logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.25, gamma: float = 1.5
) -> torch.Tensor:
    """Computes the sum of the sigmoid focal loss (arXiv 1708.02002).

    Args:
        logits: (..., num_classes).
        labels: Class indices, (...), -1 for background.
        alpha: Weight of positives, 0..1; EfficientDet's by default.
        gamma: Exponent; EfficientDet's by default.

    Returns:
        A scalar.
    """

    def absent(x: torch.Tensor) -> torch.Tensor:  # what a logit costs whose class is not there
        return x.sigmoid() ** gamma * F.softplus(x)

    # One logit of a positive anchor has its class; all others are as in the background. So no
    # targets of the logits' size are needed, and half of the arithmetic.
    positive = labels >= 0
    own = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    exchanged = alpha * absent(-own) - (1 - alpha) * absent(own)
    return (1 - alpha) * absent(logits).sum() + (exchanged * positive).sum()


def huber_loss_mean4(
    predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, delta: float = 0.1
) -> torch.Tensor:
    """Computes the Huber loss, summed over boxes and averaged over their four coordinates.

    Args:
        predicted: Deltas, (..., 4).
        target: Deltas, (..., 4).
        mask: Whether a box counts, (...).
        delta: Difference at which the loss turns from quadratic to linear.

    Returns:
        A scalar.
    """
    loss = F.huber_loss(predicted, target, reduction="none", delta=delta)
    return (loss * mask[..., None]).sum() / 4
