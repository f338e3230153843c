"""Detectors as one module from pixels to boxes, which can be exported whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector
from torch import nn
from torchvision.ops import batched_nms

from prunet_det.detection.build import NetworkPart
from prunet_det.detection.head import EfficientDetHead
from prunet_det.detection.head import topk as ordered_topk
from prunet_det.utils.errors import InputError

PLUGIN = "TRT::EfficientNMS_TRT"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How detections are selected.

    Attributes:
        score_thr: Score that a detection must exceed, 0..1.
        nms_iou: Overlap above which the lower score of a class goes, 0..1.
        max_per_img: Number K of detections of an image, at most.

    Raises:
        InputError: If a value is out of range.
    """

    score_thr: float
    nms_iou: float
    max_per_img: int

    def __post_init__(self) -> None:
        for what in ("score_thr", "nms_iou"):
            if not 0 <= getattr(self, what) <= 1:
                raise InputError(f"{what} must lie in 0..1, got {getattr(self, what)}.")
        if self.max_per_img < 1:
            raise InputError(f"max_per_img must be at least 1, got {self.max_per_img}.")

    @classmethod
    def of_head(cls, head: nn.Module, **values: float | None) -> Selection:
        """Returns what a head's test_cfg says.

        Args:
            head: The head.
            **values: Attributes of another value, where it is not None.

        Raises:
            InputError: If the head does not select by NMS of each class, or a value is out of
                range.
        """
        _require_traceable(head)
        cfg: Mapping[str, Any] = getattr(head, "test_cfg", None) or {}
        nms = cfg.get("nms") or {}
        if isinstance(head, EfficientDetHead):
            iou = cfg["nms_iou"]
        elif nms.get("type") == "nms" and not nms.get("class_agnostic"):
            iou = nms.get("iou_threshold", 0.5)
        else:
            raise InputError(
                f"{type(head).__name__}'s test_cfg has no NMS of type nms of each class, which is "
                "what ONNX has; export the scope detector."
            )
        found = dict(score_thr=cfg.get("score_thr", 0.0), nms_iou=iou)
        found["max_per_img"] = cfg.get("max_per_img", 100)
        return cls(**found | {k: v for k, v in values.items() if v is not None})

    def test_cfg(self, head: nn.Module) -> Any:
        """Returns the test_cfg with which a head selects like this."""
        cfg: Any = head.test_cfg
        nms: dict[str, Any] = {"nms_iou": self.nms_iou}
        if not isinstance(head, EfficientDetHead):
            nms = {"nms": {**cfg["nms"], "iou_threshold": self.nms_iou}}
        own = dict(score_thr=self.score_thr, max_per_img=self.max_per_img)
        return type(cfg)({**cfg, **own, **nms})


class EndToEnd(nn.Module):
    """A one-stage detector from the pixels of square images to boxes, scores and labels.

    Args:
        detector: MMDetection's detector, in eval mode on the CPU.
        part: Its network.
        selection: How detections are selected.
        network: What computes the outputs of `part`, such as its graph in half precision; takes
            images of its parameters' type.
        plugin: Leave selection and NMS to TensorRT's EfficientNMS, which nothing else can run.

    Raises:
        InputError: If the selection of the detector's head cannot be traced, or K is larger than
            the number of candidates.
    """

    def __init__(
        self,
        detector: BaseDetector,
        part: NetworkPart,
        selection: Selection,
        network: nn.Module | None = None,
        plugin: bool = False,
    ) -> None:
        super().__init__()
        self.head: Any = detector.bbox_head
        _require_traceable(self.head)
        self.selection = selection
        preprocessor = detector.data_preprocessor
        # The pipelines read BGR, so that what is then swapped wants RGB.
        self.swap = not preprocessor._channel_conversion
        self.normalise = preprocessor._enable_normalize
        if self.normalise:
            self.mean, self.std = preprocessor.mean.float(), preprocessor.std.float()
        self.network, self.plugin = network or part, plugin
        self.dtype = next(self.network.parameters()).dtype
        self.classes = int(self.head.num_classes)
        self.part = part

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Detects objects.

        Args:
            images: (N, 3, S, S) in RGB, 0..255, of any type.

        Returns:
            Boxes (x1, y1, x2, y2) in pixels of the square, (N, K, 4); scores, (N, K), highest
            first; labels, (N, K) int64; rows beyond an image's last detection have score 0 and
            label -1. Then the network's raw outputs, by which the others can be checked.
        """
        x = images.float()
        x = x.flip(1) if self.swap else x
        x = (x - self.mean) / self.std if self.normalise else x
        maps = self.network(x.to(self.dtype))
        levels = [level.float() for level in maps]
        detect = self._by_plugin if self.plugin else self.detections
        found = detect(levels, images.shape[-1])
        return *found, *maps

    def _candidates(
        self, levels: Sequence[torch.Tensor], size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns boxes (N, P, 4), scores and labels (N, P); scores that do not count are 0."""
        threshold = self.selection.score_thr
        if isinstance(self.head, EfficientDetHead):
            maps, deltas = self.part.grouped(levels)
            points = self.head.test_cfg["max_points"]
            boxes, scores, labels = self.head.candidates(maps, deltas, points)
            return boxes, torch.where(scores > threshold, scores, 0.0), labels
        return _traced_candidates(self.head, self.part.grouped(levels), size, threshold)

    def detections(self, levels: Sequence[torch.Tensor], size: int) -> tuple[torch.Tensor, ...]:
        """Selects detections; of equal scores, the anchor that comes first.

        Args:
            levels: The network's raw outputs, float32.
            size: Side S of the images.

        Returns:
            Boxes, scores and labels, as `forward` gives them.

        Raises:
            InputError: If K is larger than the number of candidates.
        """
        boxes, scores, labels = self._candidates(levels, size)
        count = self.selection.max_per_img
        if boxes.shape[1] < count:
            raise InputError(
                f"max_per_img is {count}, but an image of {size} px has {boxes.shape[1]} "
                "candidates; give a smaller one."
            )
        return select(boxes, scores, labels, self.classes, self.selection.nms_iou, count)

    def _by_plugin(self, levels: Sequence[torch.Tensor], size: int) -> tuple[torch.Tensor, ...]:
        if isinstance(self.head, EfficientDetHead):  # the plugin's own selection is as this head's
            boxes, scores = self.head.all_boxes(*self.part.grouped(levels))
        else:
            boxes, best, labels = self._candidates(levels, size)
            own = labels[..., None] == torch.arange(self.classes)
            scores = torch.where(own, best[..., None], 0.0)
        batch, count = boxes.shape[0], self.selection.max_per_img
        number, boxes, scores, labels = torch.onnx.ops.symbolic_multi_out(
            PLUGIN,
            (boxes, scores),
            dict(
                plugin_version="1",
                background_class=-1,
                max_output_boxes=count,
                score_threshold=self.selection.score_thr,
                iou_threshold=self.selection.nms_iou,
                score_activation=0,
                class_agnostic=0,
                box_coding=0,
            ),
            dtypes=(torch.int32, torch.float32, torch.float32, torch.int32),
            shapes=((batch, 1), (batch, count, 4), (batch, count), (batch, count)),
            version=1,
        )
        real = torch.arange(count, dtype=torch.int32) < number
        labels = torch.where(real, labels.long(), -1)
        return torch.where(real[..., None], boxes, 0.0), torch.where(real, scores, 0.0), labels


@torch.library.custom_op("prunet_det::select", mutates_args=())
def select(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    nms_iou: float,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Applies NMS of each class; one operator, so that the exporter can translate it as a whole.

    Args:
        boxes: Candidates (x1, y1, x2, y2), (N, P, 4).
        scores: (N, P), highest first; 0 for what is no candidate.
        labels: (N, P), 0..classes - 1.
        classes: Number of classes.
        nms_iou: Overlap above which the lower score of a class goes, 0..1.
        count: Number K of detections, at most P.

    Returns:
        Boxes (N, K, 4), scores and labels (N, K); 0, 0 and -1 in what is left over.
    """
    found = boxes.new_zeros(len(boxes), count, 4)
    best = scores.new_zeros(len(boxes), count)
    names = labels.new_full((len(boxes), count), -1)
    for i in range(len(boxes)):
        valid = (scores[i] > 0).nonzero()[:, 0]
        kept = batched_nms(boxes[i][valid], scores[i][valid], labels[i][valid], nms_iou)
        kept = valid[kept.sort().values[:count]]  # equal scores come in any order from NMS
        found[i, : len(kept)], best[i, : len(kept)] = boxes[i][kept], scores[i][kept]
        names[i, : len(kept)] = labels[i][kept]
    return found, best, names


@select.register_fake
def _(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    nms_iou: float,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (boxes.shape[0], count)
    return boxes.new_empty(*shape, 4), scores.new_empty(shape), labels.new_empty(shape)


def onnx_select(
    boxes: Any, scores: Any, labels: Any, classes: int, nms_iou: float, count: int
) -> tuple[Any, Any, Any]:
    """Translates `select`, whose arguments it has, to ONNX, for torch.onnx.export."""
    from onnxscript import opset18 as op

    ids = op.Constant(value_ints=list(range(classes)))
    own = op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(ids, [0, 2]))
    by_class = op.Where(own, op.Unsqueeze(scores, [1]), 0.0)  # (N, classes, P)
    # Rows of image, class and candidate. A score must exceed the threshold of 0.
    chosen = op.NonMaxSuppression(boxes, by_class, [count], [nms_iou], [0.0])
    place = op.Gather(chosen, [0, 2], axis=1)
    kept = op.ScatterND(op.Mul(scores, 0.0), place, op.GatherND(scores, place))
    best, index = op.TopK(kept, [count])  # of equal ones the first, and candidates are sorted
    real = op.Greater(best, 0.0)
    columns = op.Expand(op.Unsqueeze(index, [2]), [1, 1, 4])
    found = op.GatherElements(boxes, columns, axis=1)
    return (
        op.Where(op.Unsqueeze(real, [2]), found, 0.0),
        best,
        op.Where(real, op.GatherElements(labels, index, axis=1), -1),
    )


_FILTER = "filter_scores_and_topk"


def _require_traceable(head: nn.Module) -> None:
    """Refuses heads of MMDetection that do not select level by level with its own filter."""
    if isinstance(head, EfficientDetHead):
        return
    single = getattr(type(head), "_predict_by_feat_single", None)
    usual = getattr(type(head), "predict_by_feat", None) is BaseDenseHead.predict_by_feat
    if not usual or _FILTER not in getattr(single, "__globals__", {}):
        raise InputError(
            f"{type(head).__name__} selects detections in a way of its own, which cannot be "
            "traced; export the scope detector."
        )


def _traced_candidates(
    head: Any, groups: Sequence[Sequence[torch.Tensor]], size: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Candidates by the head's own code for one image; see `EndToEnd._candidates`.

    The code is run with other global names than its module's, which stays as it is for others.
    It is given the images of the batch on top of each other, as one, so that the batch may have
    any size in an exported graph.
    """
    batch = groups[0][0].shape[0]
    tall = [[m.transpose(0, 1).flatten(1, 2) for m in group] for group in groups]
    priors = head.prior_generator.grid_priors(
        [tuple(m.shape[-2:]) for m in groups[0]], dtype=tall[0][0].dtype, device=tall[0][0].device
    )
    smallest = head.test_cfg.get("min_bbox_size", -1)
    cfg = type(head.test_cfg)({**head.test_cfg, "score_thr": threshold, "min_bbox_size": -1})
    counts: list[int] = []
    no_factors: list[Any] = [None] * len(priors)

    def filter_images(
        scores: torch.Tensor, score_thr: float, topk: int, results: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        found = _filter(scores, score_thr, topk, results, batch)
        counts.append(found[0].shape[0] // batch)
        return found

    single: Any = type(head)._predict_by_feat_single
    names = {**single.__globals__, _FILTER: filter_images, "InstanceData": _Found}
    own = FunctionType(single.__code__, names, closure=single.__closure__)
    found = own(
        head,
        cls_score_list=tall[0],
        bbox_pred_list=tall[1],
        score_factor_list=tall[2] if len(tall) > 2 else no_factors,
        mlvl_priors=[p.repeat(batch, 1) for p in priors],
        img_meta=dict(img_shape=(size, size)),
        cfg=cfg,
        rescale=False,
        with_nms=False,
    )

    def by_image(values: torch.Tensor) -> torch.Tensor:
        levels = values.split([batch * count for count in counts])
        return torch.cat([level.unflatten(0, (batch, -1)) for level in levels], dim=1)

    boxes, scores, labels = map(by_image, (found.bboxes, found.scores, found.labels))
    if smallest >= 0:
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = torch.where((sides > smallest).all(dim=-1), scores, 0.0)
    scores, order = ordered_topk(scores, scores.shape[1])
    columns = order[..., None].expand(-1, -1, 4)
    return boxes.gather(1, columns), scores, labels.gather(1, order)


class _Found(SimpleNamespace):
    """In the place of MMDetection's InstanceData, whose checks would fix the size of the batch."""

    def pop(self, name: str) -> torch.Tensor:
        return self.__dict__.pop(name)


def _filter(
    scores: torch.Tensor, score_thr: float, topk: int, results: Any, batch: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    """MMDetection's `filter_scores_and_topk` of a batch, with shapes that depend on no score.

    Args:
        scores: (batch * A, classes).
        score_thr: Score that a candidate must exceed; 0 is given to what does not.
        topk: Number of candidates of an image, at most all; -1 for all.
        results: Tensors of batch * A rows, as a dict or one, to be filtered too.
        batch: Number of images.

    Returns:
        Scores, labels, rows, and the filtered results, for one image after the other.
    """
    classes = scores.shape[1]
    flat = torch.where(scores > score_thr, scores, 0.0).reshape(batch, -1)
    best, pairs = ordered_topk(flat, topk if topk > 0 else flat.shape[1])
    first = torch.arange(batch, device=scores.device)[:, None] * (flat.shape[1] // classes)
    rows, labels = (first + pairs // classes).flatten(), (pairs % classes).flatten()
    if isinstance(results, dict):
        results = {name: value[rows] for name, value in results.items()}
    elif results is not None:
        results = results[rows]
    return best.flatten(), labels, rows, results
