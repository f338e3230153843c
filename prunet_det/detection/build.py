"""A detector taken apart: the network that a runtime executes, and what stands around it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from prunet_det.zoo.weights import load_all_weights

_GROUPS = ("scores", "boxes", "centerness")


def build_detector(
    config: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None
) -> tuple[Any, int | None]:
    """A config's detector in eval mode, and the side of its test images where the config says it.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It is no one-stage detector's.
        CheckpointError: The checkpoint does not fit.
    """
    if not os.path.isfile(config):
        raise FileNotFoundError(f"there is no config file {os.fspath(config)}.")
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model: Any = MODELS.build(cfg.model) if "model" in cfg else None
    if not hasattr(model, "bbox_head") or not hasattr(model, "backbone"):
        raise ValueError(f"{os.fspath(config)} is no one-stage detector's config.")
    if checkpoint is not None:
        count = load_all_weights(model, checkpoint)
        print(f"{count}/{count} tensors from {os.fspath(checkpoint)}")
    return model.eval(), _test_size(cfg)


def _test_size(cfg: Config) -> int | None:
    """The larger side that the test pipeline resizes to."""
    pipeline = cfg.get("test_pipeline") or cfg.get("val_pipeline") or []
    for step in pipeline:
        if step.get("type") == "Resize" and "scale" in step:
            return int(max(step["scale"]))
    return None


class NetworkPart(nn.Module):
    """Backbone, neck and head of a one-stage detector, up to raw outputs.

    Args:
        detector: MMDetection's model.
        input_size: Side of the images, from which the strides of the outputs are found.

    Attributes:
        strides: One list for each group of outputs (scores, boxes, ...), one stride a level.

    Shapes:
        (N, 3, H, W), normalised, to a flat tuple: the head's first list of maps, then the second.
    """

    def __init__(self, detector: Any, input_size: int) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.neck = detector.neck if detector.with_neck else nn.Identity()
        self.bbox_head = detector.bbox_head
        with torch.no_grad(), torch.device("meta"):
            groups = (
                copy.deepcopy(self).to("meta")._groups(torch.empty(1, 3, input_size, input_size))
            )
        self.strides = [[round(input_size / level.shape[-1]) for level in g] for g in groups]

    def _groups(self, images: torch.Tensor) -> Sequence[Sequence[torch.Tensor]]:
        return self.bbox_head(self.neck(self.backbone(images)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(level for group in self._groups(images) for level in group)

    def grouped(self, outputs: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """What the head's forward returns, from the flat tuple."""
        flat = iter(outputs)
        return [[next(flat) for _ in group] for group in self.strides]

    @property
    def output_names(self) -> tuple[str, ...]:
        """One name a tensor, such as scores_stride8."""
        groups = zip(_GROUPS, self.strides, strict=False)
        return tuple(f"{name}_stride{s}" for name, strides in groups for s in strides)

    def end_to_end(
        self,
        detector: Any,
        run_network: Callable[[torch.Tensor], Callable[[], Sequence[torch.Tensor]]],
        images: torch.Tensor,
    ) -> Callable[[], Sequence[torch.Tensor]]:
        """From images in memory to boxes, with the network in any runtime.

        Args:
            detector: MMDetection's model, for normalisation before and selection and NMS after.
            run_network: A Program's `bind`.
            images: (N, 3, H, W) uint8, decoded and resized already.

        Returns:
            A function that runs once and returns boxes, scores and labels of each image.
        """
        height, width = images.shape[2:]
        meta = dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            pad_shape=(height, width),
            batch_input_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
        samples = [DetDataSample(metainfo=meta) for _ in images]

        def run() -> Sequence[torch.Tensor]:
            with torch.inference_mode():
                data = {"inputs": list(images), "data_samples": samples}
                normalised = detector.data_preprocessor(data, False)["inputs"]
                outputs = list(run_network(normalised)())
                groups = self.grouped([o.float() for o in outputs])
                found = detector.bbox_head.predict_by_feat(
                    *groups, batch_img_metas=[meta] * len(images), rescale=True
                )
            return [t for f in found for t in (f.bboxes, f.scores, f.labels)]

        return run
