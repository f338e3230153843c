"""Building detectors from configs, and splitting off the network that a runtime executes."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector, SingleStageDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from prunet_det.detection.letterbox import Letterbox, test_pipeline
from prunet_det.detection.strides import level_strides
from prunet_det.runtime.subject import normalise
from prunet_det.training.hooks import class_counts
from prunet_det.utils.config import config_errors, read_config
from prunet_det.utils.env import check_device
from prunet_det.utils.errors import InputError
from prunet_det.zoo.weights import load_all_weights

logger = logging.getLogger(__name__)

_GROUPS = ("scores", "boxes", "centerness")
_WHOLE = 1024  # pixels: a multiple of every stride


def build_detector(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    device: str = "cpu",
) -> BaseDetector:
    """Builds a config's detector in eval mode.

    Args:
        config: Config of a detector, or its path.
        checkpoint: Weights to load, by default none; every tensor must fit. What a backbone of
            ours was started from is not read then.
        classes: Class names, in the order of the labels, by default MMDetection's own.
        device: Torch device to put the detector on.

    Returns:
        The detector, with the config as `cfg`.

    Raises:
        MissingFileError: If there is no such config or checkpoint.
        CheckpointError: If the checkpoint cannot be read or does not fit.
        InputError: If the config is not of a detector, the number of classes is not the head's, or
            there is no such device.
    """
    check_device(device)
    if not isinstance(config, Config):
        config = read_config(config)
    init_default_scope(config.get("default_scope", "mmdet"))
    options = copy.deepcopy(config.get("model") or {})
    backbone = options.get("backbone") or {}
    if checkpoint is not None and backbone.get("type") in ("PruNet", "TimmBackbone"):
        backbone.pop("checkpoint", None)  # which need not be here any more
    with config_errors():
        model = MODELS.build(options) if "type" in options else None
    if not isinstance(model, BaseDetector):
        raise InputError(f"{config.filename or 'the config'} is no detector's config.")
    if classes is not None:
        for option, outputs in class_counts(model).items():
            if outputs != len(classes):
                raise InputError(
                    f"the model has {outputs} classes, but {len(classes)} names were given "
                    f"({option}={outputs})."
                )
        model.dataset_meta = {"classes": tuple(classes)}
    if checkpoint is not None:
        count = load_all_weights(model, checkpoint)
        logger.info("%d/%d tensors from %s", count, count, checkpoint)
    model.cfg = config
    return model.to(device).eval()


def image_size(config: Config) -> int | None:
    """Finds the side of the square that the test pipeline fits images into, in pixels."""
    try:
        return Letterbox.from_config(config).size
    except InputError:  # such as one that does not keep the aspect ratio
        scales = [step["scale"] for step in test_pipeline(config) if step.get("scale")]
        return int(np.max(scales[0])) if scales else None


class NetworkPart(nn.Module):
    """Backbone, neck and head of a one-stage detector, up to the head's raw outputs.

    Args:
        detector: MMDetection's detector.
        input_size: Side of images that the network can take, in pixels.

    Attributes:
        strides: Strides of the levels, for each group of outputs (scores, boxes, ...).

    Raises:
        InputError: If it is no detector of one stage.
    """

    def __init__(self, detector: BaseDetector, input_size: int) -> None:
        super().__init__()
        if not isinstance(detector, SingleStageDetector):
            raise InputError(
                f"a {type(detector).__name__} is no one-stage detector: it has no network that "
                "ends in maps of scores and boxes."
            )
        self.backbone = detector.backbone
        self.neck = detector.neck if detector.with_neck else nn.Identity()
        self.bbox_head = detector.bbox_head
        self.strides = self._find_strides(input_size)

    def _find_strides(self, size: int) -> list[list[int]]:
        """Finds the strides of the outputs: those of the head's anchors, if it has some.

        A map's size is rounded, and tells its stride only where the image's is a multiple of it.
        """
        network, declared = copy.deepcopy(self).to("meta"), level_strides(self.bbox_head)

        def sides(size: int) -> list[list[int]]:
            with torch.no_grad(), torch.device("meta"):
                groups = network._groups(torch.empty(1, 3, size, size))
            return [[level.shape[-1] for level in group] for group in groups]

        found = sides(size)
        if all(len(group) == len(declared) for group in found):
            return [declared] * len(found)
        return [[round(_WHOLE / side) for side in group] for group in sides(_WHOLE)]

    def _groups(self, images: torch.Tensor) -> Sequence[Sequence[torch.Tensor]]:
        return self.bbox_head(self.neck(self.backbone(images)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes the head's maps, one group after the other, of normalised (N, 3, H, W)."""
        return tuple(level for group in self._groups(images) for level in group)

    def grouped(self, outputs: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Divides the flat tuple of `forward` into the head's groups of levels."""
        flat = iter(outputs)
        return [[next(flat) for _ in group] for group in self.strides]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, such as `scores_stride8`."""
        names = (*_GROUPS, *(f"group{k}" for k in range(len(_GROUPS), len(self.strides))))
        groups = zip(names, self.strides, strict=False)
        return tuple(f"{name}_stride{s}" for name, strides in groups for s in strides)

    def detect(
        self,
        detector: BaseDetector,
        run_network: Callable[[torch.Tensor], Callable[[], Sequence[torch.Tensor]]],
        images: torch.Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[InstanceData]:
        """Detects objects, with the network in any runtime.

        Args:
            detector: MMDetection's detector, for normalisation, selection and NMS.
            run_network: The method `bind` of a Program that executes this network.
            images: (N, 3, H, W) uint8, decoded and resized.
            metas: What MMDetection's heads know of an image, for the first images or all of them:
                `img_shape`, `scale_factor` and others.

        Returns:
            `bboxes`, in pixels of the image before it was scaled, `scores` and `labels` of each
            image that `metas` has.
        """
        with torch.inference_mode():
            normalised = normalise(detector.data_preprocessor, images)
            outputs = list(run_network(normalised)())
            groups = [
                [level[: len(metas)].float() for level in group] for group in self.grouped(outputs)
            ]
            found: list[InstanceData] = detector.bbox_head.predict_by_feat(
                *groups, batch_img_metas=list(metas), rescale=True
            )
        return found
