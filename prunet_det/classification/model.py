"""A network as a classifier: loss, mixup, and distillation from a teacher."""

from __future__ import annotations

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
from prunet_det.classification.teacher import Teacher
from prunet_det.training.norms import check_activations
from prunet_det.utils.errors import UserError
from prunet_det.zoo import create, load_backbone_weights

LOSSES = ("cross_entropy", "binary_cross_entropy")


@MODELS.register_module()
class Classifier(BaseModel):
    """A network under mmengine's contract, trained on labels and, optionally, on a teacher.

    Args:
        arch: A name of the zoo, any other name that timm knows, a spec file, or a spec as a dict.
        num_classes: Of the data.
        arch_args: Further arguments of the network, such as drop_rate and drop_path_rate.
        checkpoint: Weights to start from, with or without a classifier.
        loss: `cross_entropy`, or `binary_cross_entropy` of every class on its own.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Arguments of `timm.data.Mixup` (mixup_alpha, cutmix_alpha, prob, ...), or None.
        teacher: Arguments of `Teacher`, or None.
        channels_last: Run the network in channels-last memory format.
        data_preprocessor, init_cfg: mmengine's.
    """

    def __init__(
        self,
        arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec,
        num_classes: int,
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
        super().__init__(data_preprocessor, init_cfg)
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")
        self.num_classes = num_classes
        args = dict(arch_args or {}, num_classes=num_classes)
        self.net: Any
        if isinstance(arch, str) and timm.is_model(arch):  # ours are timm's too
            self.net = timm.create_model(arch, **args)
        else:
            self.net = create(arch, **args)
        if checkpoint is not None:
            print(f"classifier: {load_backbone_weights(self.net, checkpoint)}")
        self._mixup = None
        if mixup is not None:
            self._mixup = Mixup(**mixup, label_smoothing=label_smoothing, num_classes=num_classes)
        self.criterion = _criterion(loss, label_smoothing, mixed=mixup is not None)
        self._teacher = None
        if teacher is not None:
            self._teacher = Teacher(num_classes=num_classes, **teacher)
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Classifier:
        """As torch's, after a check of the norms; see `check_activations`."""
        check_activations(self.net)
        super().train(mode)
        return self

    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor | None = None, mode: str = "tensor"
    ) -> Any:
        """The network, its loss or its predictions.

        Args:
            inputs: (N, 3, H, W), normalised.
            labels: (N,), for `loss` and `predict`.
            mode: `tensor` gives (N, num_classes) logits, `loss` a dict of losses, `predict` a dict
                of scores (logits) and label an image.
        """
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == "tensor":
            return self.net(inputs)
        assert labels is not None, "the Runner gives labels in these modes"
        if mode == "predict":
            logits = self.net(inputs).float()
            return [dict(scores=s, label=k) for s, k in zip(logits, labels, strict=True)]
        targets = labels
        if self._mixup is not None:
            if len(inputs) % 2:
                raise UserError("mixup needs an even batch size.")
            inputs, targets = self._mixup(inputs.clone(), labels)
        logits = self.net(inputs)
        loss = self.criterion(logits, targets)
        if self._teacher is None:
            return {"loss": loss}
        weight = self._teacher.weight
        distilled = self._teacher.loss(inputs, logits)
        return {"loss_label": (1 - weight) * loss, "loss_teacher": weight * distilled}


def _criterion(loss: str, smoothing: float, mixed: bool) -> nn.Module:
    """timm's loss; mixed targets are soft and smoothed already."""
    if loss == "binary_cross_entropy":
        return BinaryCrossEntropy(smoothing=0.0 if mixed else smoothing)
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()
