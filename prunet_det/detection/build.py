"""Building detectors from configs, and splitting off the network that a runtime executes."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.package import find_config
from prunet_det.zoo.weights import load_all_weights

_GROUPS = ("scores", "boxes", "centerness")


def build_detector(
    config: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None
) -> tuple[BaseDetector, int | None]:
    """Builds a config's detector.

    Args:
        config: Path of the config of a one-stage detector.
        checkpoint: Weights to load, see `load_all_weights`.

    Returns:
        The detector in eval mode, and the side of its test images in pixels, or None if the
        config does not give it.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the config is not of a one-stage detector.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """
    path = find_config(config)
    if not path.is_file():
        raise MissingFileError(f"there is no config file {os.fspath(config)}.")
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model) if "model" in cfg else None
    if model is None or not (hasattr(model, "bbox_head") and hasattr(model, "backbone")):
        raise InputError(f"{os.fspath(config)} is no one-stage detector's config.")
    if checkpoint is not None:
        count = load_all_weights(model, checkpoint)
        print(f"{count}/{count} tensors from {os.fspath(checkpoint)}")
    return model.eval(), _test_size(cfg)


def _test_size(cfg: Config) -> int | None:
    """Finds the larger side that the test pipeline resizes images to, in pixels."""
    pipeline = cfg.get("test_pipeline") or cfg.get("val_pipeline") or []
    for step in pipeline:
        if step.get("type") == "Resize" and "scale" in step:
            return int(max(step["scale"]))
    return None


class NetworkPart(nn.Module):
    """Backbone, neck and head of a one-stage detector, up to the head's raw outputs.

    Args:
        detector: MMDetection's detector.
        input_size: Side of the images in pixels, from which the strides of the outputs are found.

    Attributes:
        strides: Strides of the levels, for each group of outputs (scores, boxes, ...).
    """

    def __init__(self, detector: BaseDetector, input_size: int) -> None:
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
        """Computes the head's maps, one group after the other, of normalised (N, 3, H, W)."""
        return tuple(level for group in self._groups(images) for level in group)

    def grouped(self, outputs: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Divides the flat tuple of `forward` into the head's groups of levels."""
        flat = iter(outputs)
        return [[next(flat) for _ in group] for group in self.strides]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, such as `scores_stride8`."""
        groups = zip(_GROUPS, self.strides, strict=False)
        return tuple(f"{name}_stride{s}" for name, strides in groups for s in strides)

    def end_to_end(
        self,
        detector: BaseDetector,
        run_network: Callable[[torch.Tensor], Callable[[], Sequence[torch.Tensor]]],
        images: torch.Tensor,
    ) -> Callable[[], Sequence[torch.Tensor]]:
        """Makes a function from images in memory to boxes, with the network in any runtime.

        Args:
            detector: MMDetection's detector, for normalisation, selection and NMS.
            run_network: The method `bind` of a Program that executes this network.
            images: (N, 3, H, W) uint8, decoded and resized.

        Returns:
            A function that runs once and returns boxes, scores and labels of each image, one
            image after the other.
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
                results = detector.bbox_head.predict_by_feat(
                    *groups, batch_img_metas=[meta] * len(images), rescale=True
                )
            return [t for r in results for t in (r.bboxes, r.scores, r.labels)]

        return run
