"""The EfficientDet head: separable convolutions shared over levels, batch norm of each level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import reduce_mean
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, sigmoid_focal_loss

from prunet_det.detection.anchors import AnchorGrid, match_anchors
from prunet_det.detection.bifpn import NORM_CFG, separable_conv


class HeadTower(BaseModule):
    """Repeated separable convolutions and one that predicts, applied to every level.

    Args:
        channels: In and inside.
        outputs: Channels out.
        levels: Pyramid levels; each has its own norms.
        repeats: Convolutions before the prediction.
        norm_cfg, pad_type, conv_bias: As for BiFPN.
        prior: Probability that the prediction's bias starts from; None for a bias of zero.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        levels: int,
        repeats: int,
        norm_cfg: Mapping[str, Any],
        pad_type: str,
        conv_bias: bool,
        prior: float | None,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            separable_conv(channels, channels, pad_type, conv_bias) for _ in range(repeats)
        )
        self.norms: Any = nn.ModuleList(
            nn.ModuleList(build_norm_layer(dict(norm_cfg), channels)[1] for _ in range(levels))
            for _ in range(repeats)
        )
        self.act = nn.SiLU(inplace=True)
        self.predict = separable_conv(channels, outputs, pad_type, bias=True)
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
        outputs = []
        for level, x in enumerate(maps):
            for conv, norms in zip(self.convs, self.norms, strict=True):
                x = self.act(norms[level](conv(x)))
            outputs.append(self.predict(x))
        return outputs


@MODELS.register_module()
class EfficientDetHead(BaseDenseHead):
    """Classes and boxes for every anchor, with EfficientDet's targets, losses and selection.

    Args:
        num_classes: Without background.
        in_channels, strides: Of the pyramid; OneStageDetector fills them in from the neck.
        repeats: Separable convolutions in each tower.
        anchor_scale, anchor_octaves, anchor_aspects: See AnchorGrid.
        match_iou: From which IoU an anchor stands for a box.
        alpha, gamma: Of the focal loss.
        delta, box_weight: Of the Huber loss.
        norm_cfg, pad_type, conv_bias: As for BiFPN.
        train_cfg: Unused; there for MMDetection.
        test_cfg: `max_points` (box-class pairs kept before NMS, over all levels), `score_thr`,
            `nms_iou`, `max_per_img`.
        init_cfg: mmengine's.
    """

    TEST_CFG = dict(max_points=5000, score_thr=0.0, nms_iou=0.5, max_per_img=100)

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        strides: Sequence[int],
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
            raise ValueError(
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
        tower: dict[str, Any] = dict(
            levels=len(self.grid.strides),
            repeats=repeats,
            norm_cfg=norm_cfg or NORM_CFG,
            pad_type=pad_type,
            conv_bias=conv_bias,
        )
        self.class_tower = HeadTower(in_channels, anchors * num_classes, prior=0.01, **tower)
        self.box_tower = HeadTower(in_channels, anchors * 4, prior=None, **tower)
        self._anchor_cache: tuple[Any, torch.Tensor] | None = None

    def forward(
        self, maps: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level, (N, anchors * classes, H, W) logits and (N, anchors * 4, H, W) deltas.

        Deltas are dx, dy, dw, dh, relative to the anchor.
        """
        return self.class_tower(maps), self.box_tower(maps)

    def _anchors(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        key = (tuple((m.shape[-2], m.shape[-1]) for m in maps), maps[0].device)
        if self._anchor_cache is None or self._anchor_cache[0] != key:
            self._anchor_cache = key, self.grid.boxes(key[0], key[1])
        return self._anchor_cache[1]

    @staticmethod
    def _flatten(maps: Sequence[torch.Tensor], last: int) -> torch.Tensor:
        """Levels of (N, anchors * last, H, W) to (N, A, last), in the anchors' order, float32."""
        flat = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, last) for m in maps]
        return torch.cat(flat, dim=1).float()

    def assign(
        self, anchors: torch.Tensor, batch_gt_instances: list[InstanceData]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What each anchor of a batch of B images should say.

        Args:
            anchors: (A, 4) of one image.
            batch_gt_instances: Boxes and labels of each image.

        Returns:
            (B * A,) labels, -1 for background; (B * A,) whether an anchor stands for a box; and the
            (P, 4) deltas of those P that do.
        """
        labels, positives, targets = [], [], []
        for gt in batch_gt_instances:
            boxes = gt.bboxes.tensor if hasattr(gt.bboxes, "tensor") else gt.bboxes
            match = match_anchors(anchors, boxes, self.match_iou)
            positive = match >= 0
            label = torch.full_like(match, -1)
            label[positive] = gt.labels[match[positive]]
            labels.append(label)
            positives.append(positive)
            targets.append(self.coder.encode(anchors[positive], boxes[match[positive]]))
        return torch.cat(labels), torch.cat(positives), torch.cat(targets)

    def loss_by_feat(
        self,
        cls_scores: list[torch.Tensor],
        bbox_preds: list[torch.Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Focal and Huber loss over all anchors of the batch, divided by its positives plus one."""
        logits = self._flatten(cls_scores, self.num_classes)
        deltas = self._flatten(bbox_preds, 4)
        labels, positive, targets = self.assign(self._anchors(cls_scores), batch_gt_instances)
        normalizer = reduce_mean(positive.sum() + 1.0)
        loss_cls = focal_loss_sum(logits.flatten(0, 1), labels, self.alpha, self.gamma)
        loss_box = huber_loss_mean4(deltas.flatten(0, 1)[positive], targets, self.delta)
        return {
            "loss_cls": loss_cls / normalizer,
            "loss_bbox": self.box_weight * loss_box / normalizer,
        }

    def predict_by_feat(
        self,
        cls_scores: list[torch.Tensor],
        bbox_preds: list[torch.Tensor],
        score_factors: None = None,
        batch_img_metas: list[dict[str, Any]] | None = None,
        cfg: Mapping[str, Any] | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of each image: the best box-class pairs of all levels, then NMS by class."""
        cfg = {**self.test_cfg, **(cfg or {})}
        logits = self._flatten(cls_scores, self.num_classes)
        deltas = self._flatten(bbox_preds, 4)
        anchors = self._anchors(cls_scores)
        results = []
        for i, meta in enumerate(batch_img_metas or []):
            flat = logits[i].flatten()
            best, pairs = flat.topk(min(int(cfg["max_points"]), len(flat)))
            scores = best.sigmoid()
            keep = scores > cfg["score_thr"]
            scores, pairs = scores[keep], pairs[keep]
            rows, classes = pairs // self.num_classes, pairs % self.num_classes
            boxes = self.coder.decode(anchors[rows], deltas[i][rows], max_shape=meta["img_shape"])
            if with_nms:
                kept = batched_nms(boxes, scores, classes, cfg["nms_iou"])[: cfg["max_per_img"]]
                boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
            if rescale:
                boxes = boxes / boxes.new_tensor(meta["scale_factor"]).repeat(2)
            results.append(InstanceData(bboxes=boxes, scores=scores, labels=classes))
        return results


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
