"""A one-stage detector that takes channels and strides of its parts from one another."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.detection.transforms import PackedSamples
from prunet_det.utils.errors import InputError


@MODELS.register_module()
class OneStageDetector(SingleStageDetector):
    """MMDetection's SingleStageDetector, whose config need not repeat channels and strides.

    The neck's `in_channels` and `in_strides` come from the backbone's `out_channels` and
    `out_strides`, the head's `in_channels` and `strides` from the neck's, if a part takes them and
    the config does not give them. A value that the config gives must agree.

    Args:
        backbone: Config of the backbone.
        neck: Config of the neck.
        bbox_head: Config of the head.
        channels_last: Run the network in channels-last memory format.
        norm_eval: Keep the batch norms of neck and head in eval mode during training, for batches
            too small to normalise by; those of the backbone have a `norm_eval` of their own.
        train_cfg: MMDetection's training config; passed on to the head.
        test_cfg: MMDetection's test config; passed on to the head.
        data_preprocessor: Config of MMDetection's data preprocessor. DetDataPreprocessor is built
            as BatchPreprocessor, which gives the same with fewer operators.
        init_cfg: Config of mmengine's weight initialisation.

    Raises:
        InputError: If the config gives a value that does not agree, or a type that is not
            registered.
    """

    def __init__(  # noqa: PLR0913 (the keys of a config)
        self,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        bbox_head: Mapping[str, Any],
        *,
        channels_last: bool = False,
        norm_eval: bool = False,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        if data_preprocessor and MODELS.get(data_preprocessor["type"]) is DetDataPreprocessor:
            data_preprocessor = MODELS.build({**data_preprocessor, "type": "BatchPreprocessor"})
        BaseDetector.__init__(self, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        from_backbone = {
            "in_channels": list(self.backbone.out_channels),
            "in_strides": list(self.backbone.out_strides),
        }
        self.neck = MODELS.build(_fill("neck", neck, from_backbone))
        strides = getattr(self.neck, "out_strides", None)
        from_neck = {"in_channels": self.neck.out_channels}
        if strides is not None:
            from_neck["strides"] = list(strides)
        head = _fill("bbox_head", bbox_head, from_neck)
        self.bbox_head = MODELS.build({**head, "train_cfg": train_cfg, "test_cfg": test_cfg})
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.norm_eval = norm_eval
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> OneStageDetector:
        """Sets the training mode, except that norms stay in eval mode with `norm_eval`."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in (*self.neck.modules(), *self.bbox_head.modules()):
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def extract_feat(self, batch_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes the neck's maps, finest first, of images, (N, 3, H, W)."""
        if self.channels_last:
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        return super().extract_feat(batch_inputs)

    def val_step(self, data: dict[str, Any]) -> SampleList:
        """Finds the same objects in an image, whatever the shapes of the others in its batch.

        A batch is padded to its largest image, and padding changes what the network computes. So
        the images that have one shape when each is padded by itself are taken together.

        Args:
            data: `inputs`, (3, H_i, W_i) of each image or a stack, and `data_samples`.

        Returns:
            The samples with what was found, in their order.
        """
        images, samples = data["inputs"], data.get("data_samples")
        if isinstance(samples, PackedSamples):  # stacked with padding
            sizes, samples = samples.sizes.tolist(), samples.samples()
            images = [image[:, :h, :w] for image, (h, w) in zip(images, sizes, strict=True)]
        elif isinstance(images, torch.Tensor):
            return cast("SampleList", super().val_step(data))
        divisor = getattr(self.data_preprocessor, "pad_size_divisor", 1)
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            cells = tuple(-(-side // divisor) for side in image.shape[-2:])
            groups.setdefault(cells, []).append(i)
        found: SampleList = [DetDataSample()] * len(images)
        for indices in groups.values():
            part = {"inputs": [images[i] for i in indices]}
            if samples is not None:
                part["data_samples"] = [samples[i] for i in indices]
            for i, sample in zip(indices, super().val_step(part), strict=True):
                found[i] = sample
        return found

    test_step = val_step

    def network(self, images: torch.Tensor) -> tuple[list[torch.Tensor], ...]:
        """Computes the head's raw outputs: all that needs no boxes; see `training.graphs`.

        Args:
            images: (N, 3, H, W), normalised.

        Returns:
            Groups of maps, such as scores and boxes, each with one map for each level.
        """
        return self.bbox_head(self.extract_feat(images))

    def loss(
        self, batch_inputs: torch.Tensor, batch_data_samples: SampleList
    ) -> dict[str, torch.Tensor]:
        """Computes the head's losses, as MMDetection's detector does, but through `network`."""
        boxes, ignored, metas = unpack_gt_instances(batch_data_samples)
        return self.bbox_head.loss_by_feat(*self.network(batch_inputs), boxes, metas, ignored)


def _fill(part: str, cfg: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to `cfg` those of `values` that its class takes; those it has already must agree."""
    cls = MODELS.get(cfg["type"])
    if cls is None:
        raise InputError(f"{part} has the type {cfg['type']!r}, which is not registered.")
    filled = dict(cfg)
    takes = inspect.signature(cls.__init__).parameters
    for key, value in values.items():
        if key not in takes:
            continue
        given = filled.setdefault(key, value)
        same = list(given) == value if isinstance(value, list) else given == value
        if not same:
            raise InputError(
                f"{part}.{key} is {given} in the config, but what comes before it gives {value}; "
                "leave it out of the config."
            )
    return filled
