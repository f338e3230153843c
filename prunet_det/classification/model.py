"""Classifier for mmengine's Runner: network, loss, mixup and distillation from a teacher."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import timm
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from prunet_det.arch.spec import ArchSpec
from prunet_det.classification.data import imagenet_statistics, normalized
from prunet_det.classification.teacher import Teacher
from prunet_det.training.norms import check_activations
from prunet_det.utils.errors import InputError, UserError
from prunet_det.zoo import create, load_backbone_weights

logger = logging.getLogger(__name__)

LOSSES = ("cross_entropy", "binary_cross_entropy")


@MODELS.register_module()
class Classifier(BaseModel):
    """Classifier trained on labels and, optionally, on the predictions of a teacher.

    Args:
        arch: Name of a network of the zoo or of timm, path of a spec file (*.json), a spec as a
            dict, or a spec.
        num_classes: Number of classes.
        arch_args: Further arguments of the network, such as drop_rate and drop_path_rate.
        checkpoint: Weights to start from, with or without a classifier.
        loss: `cross_entropy`, or `binary_cross_entropy` for each class on its own.
        label_smoothing: Fraction of the target that is spread over all classes, 0..1.
        mixup: Arguments of `timm.data.Mixup` (mixup_alpha, cutmix_alpha, prob, ...); None for no
            mixup. It needs an even batch size.
        teacher: Arguments of `Teacher`, except for num_classes; None for no distillation.
        channels_last: Run the network in channels-last memory format.
        data_preprocessor: Config of mmengine's data preprocessor.
        init_cfg: Config of mmengine's weight initialisation.

    Raises:
        InputError: If `loss` is unknown.
    """

    def __init__(  # noqa: PLR0913 (the keys of a config)
        self,
        arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec,
        num_classes: int,
        *,
        arch_args: Mapping[str, Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        loss: str = "cross_entropy",
        label_smoothing: float = 0.1,
        mixup: Mapping[str, Any] | None = None,
        teacher: Mapping[str, Any] | None = None,
        channels_last: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            data_preprocessor or dict(type="BaseDataPreprocessor", non_blocking=True), init_cfg
        )
        if loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")
        self.num_classes = num_classes
        args = dict(arch_args or {}, num_classes=num_classes)
        self.net: nn.Module
        if isinstance(arch, str) and timm.is_model(arch):  # the zoo's networks are registered there
            self.net = timm.create_model(arch, **args)
        else:
            self.net = create(arch, **args)
        if checkpoint is not None:
            logger.info("classifier: %s", load_backbone_weights(self.net, checkpoint))
        self._mixup = None
        if mixup is not None:
            self._mixup = Mixup(**mixup, label_smoothing=label_smoothing, num_classes=num_classes)
        self.criterion = _criterion(loss, label_smoothing, mixed=mixup is not None)
        self._teacher = None
        if teacher is not None:
            self._teacher = Teacher(num_classes=num_classes, **teacher)
        mean, std = imagenet_statistics()
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Classifier:
        """Sets the training mode, after a check of the norms by `check_activations`.

        Raises:
            InputError: If a conversion to SyncBN has dropped activations.
        """
        check_activations(self.net)
        super().train(mode)
        return self

    def network(self, images: torch.Tensor) -> torch.Tensor:
        """Computes logits, (N, num_classes), of normalised images; see `training.graphs`."""
        return self.net(images)

    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor | None = None, mode: str = "tensor"
    ) -> torch.Tensor | dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """Runs the network.

        Args:
            inputs: Images, (N, 3, H, W), uint8 or normalised.
            labels: Class indices, (N,); needed in the modes `loss` and `predict`.
            mode: `tensor`, `loss` or `predict`.

        Returns:
            Logits, (N, num_classes), in the mode `tensor`; named losses in the mode `loss`; one
            dict of `scores` (logits) and `label` per image in the mode `predict`.

        Raises:
            UserError: If mixup is on and the batch size is odd.
        """
        inputs = normalized(inputs, self._mean, self._std)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == "tensor":
            return self.network(inputs)
        assert labels is not None, "the Runner gives labels in these modes"
        if mode == "predict":
            logits = self.network(inputs).float()
            return [dict(scores=s, label=k) for s, k in zip(logits, labels, strict=True)]
        targets = labels
        if self._mixup is not None:
            if len(inputs) % 2:
                raise UserError("mixup needs an even batch size.")
            inputs, targets = self._mixup(inputs.clone(), labels)
        logits = self.network(inputs)
        loss = self.criterion(logits, targets)
        if self._teacher is None:
            return {"loss": loss}
        weight = self._teacher.weight
        distilled = self._teacher.loss(inputs, logits)
        return {"loss_label": (1 - weight) * loss, "loss_teacher": weight * distilled}


def _criterion(loss: str, smoothing: float, mixed: bool) -> nn.Module:
    """Returns timm's loss; targets of mixup are soft and smoothed already."""
    if loss == "binary_cross_entropy":
        return BinaryCrossEntropy(smoothing=0.0 if mixed else smoothing)
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()
