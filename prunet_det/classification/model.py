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
from prunet_det.errors import UserError
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

    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor | None = None, mode: str = "tensor"
    ) -> Any:
        """The network, its loss or its predictions.

        Args:
            inputs: (N, 3, H, W), normalised.
            labels: (N,), for `loss` and `predict`.
            mode: `tensor` gives (N, num_classes) logits, `loss` a dict of losses, `predict` a dict
                of scores and label an image.
        """
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == "tensor":
            return self.net(inputs)
        assert labels is not None, "the Runner gives labels in these modes"
        if mode == "predict":
            scores = self.net(inputs).float().softmax(1)
            return [dict(scores=s, label=k) for s, k in zip(scores, labels, strict=True)]
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


class Teacher:
    """A trained network whose predictions another one learns from.

    It is no module, and copies of the student share it: its weights belong to no checkpoint, no
    optimizer and no moving average.

    Args:
        name: A name that timm knows.
        num_classes: Of the data.
        checkpoint: Its weights; without, timm downloads its own.
        weight: Share of its loss; the labels' has the rest.
        temperature: Of the softmax on both sides.

    Raises:
        UserError: timm does not know it, or its weights are neither given nor to be had.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        checkpoint: str | os.PathLike[str] | None = None,
        weight: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        if not timm.is_model(name):
            raise UserError(
                f"timm has no model {name!r} to be the teacher; see timm.list_models()."
            )
        if not 0 <= weight <= 1 or temperature <= 0:
            raise UserError(
                "a teacher's weight must lie in 0..1 and its temperature above 0, got "
                f"{weight} and {temperature}."
            )
        self.weight, self.temperature = weight, temperature
        if checkpoint is not None:
            net = timm.create_model(name, num_classes=num_classes)
            report = load_backbone_weights(net, checkpoint)
            if not report.head_loaded:
                raise UserError(
                    f"{checkpoint} has no classifier of {num_classes} classes, so {name} cannot "
                    "teach with it."
                )
            print(f"teacher: {report}")
        else:
            try:
                net = timm.create_model(name, pretrained=True, num_classes=num_classes)
            except Exception as e:  # offline, unpublished, gated: as many kinds as there are hubs
                raise UserError(
                    f"the weights of the teacher {name} cannot be had: {' '.join(str(e).split())} "
                    "Give them with --teacher-checkpoint FILE."
                ) from e
        self._net: Any = net.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @torch.no_grad()
    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, classes) logits."""
        self._net.to(inputs.device)
        return self._net(inputs)

    def loss(self, inputs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence from the teacher's to the student's classes (Hinton 2015)."""
        t = self.temperature
        return (
            t
            * t
            * nn.functional.kl_div(
                (logits / t).log_softmax(1),
                (self.predict(inputs) / t).log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
        )
