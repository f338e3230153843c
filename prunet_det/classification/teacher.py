"""Distillation: a trained network whose predictions another network learns from."""

from __future__ import annotations

import logging
import os

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from torch import nn

from prunet_det.utils.errors import UserError
from prunet_det.zoo import load_backbone_weights

logger = logging.getLogger(__name__)


class Teacher:
    """A trained network whose predictions another network learns from.

    It is not a module, and copies of the student share it: its weights belong to no checkpoint,
    no optimizer and no moving average.

    Args:
        name: Name of a timm network. It sees the student's batch, normalised as it was trained
            and, if it takes one size only, scaled to that size.
        num_classes: Number of classes.
        checkpoint: Weights of the teacher; None to let timm download its own.
        weight: Weight of the teacher's loss, 0..1; the labels' loss has the rest.
        temperature: Temperature of the softmax of both networks, above 0.

    Raises:
        UserError: If timm has no such network, its weights cannot be downloaded or do not fit, or
            a value is out of range.
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
            logger.info("teacher: %s", report)
        else:
            try:
                net = timm.create_model(name, pretrained=True)
            except Exception as e:  # offline, unpublished, gated: as many kinds as there are hubs
                raise UserError(
                    f"the weights of the teacher {name} cannot be had: {' '.join(str(e).split())} "
                    "Give them with --teacher-checkpoint FILE."
                ) from e
            if net.num_classes != num_classes:
                raise UserError(
                    f"the weights of the teacher {name} know {net.num_classes} classes, the data "
                    f"{num_classes}; give weights that fit with --teacher-checkpoint FILE."
                )
        self._net: nn.Module = net.eval().requires_grad_(False)
        config = resolve_model_data_config(net)
        # From the student's normalisation, which is ImageNet's, to the teacher's.
        ours, theirs = (
            (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
            (config["mean"], config["std"]),
        )
        (m0, s0), (m1, s1) = (torch.tensor(t)[:, :, None, None] for t in (ours, theirs))
        self._scale, self._shift = s0 / s1, (m0 - m1) / s1
        fixed = (getattr(net, "pretrained_cfg", None) or {}).get("fixed_input_size", False)
        self._size = tuple(config["input_size"][-2:]) if fixed else None

    def __deepcopy__(self, memo: dict[int, object]) -> Teacher:
        return self

    @torch.no_grad()
    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predicts logits, (N, num_classes), of the student's inputs, (N, 3, H, W)."""
        self._net.to(inputs.device)
        x = inputs * self._scale.to(inputs) + self._shift.to(inputs)
        if self._size is not None and x.shape[2:] != self._size:
            x = nn.functional.interpolate(x, self._size, mode="bicubic", antialias=True)
        return self._net(x)

    def loss(self, inputs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Computes the divergence of the student's classes from the teacher's (Hinton 2015).

        Args:
            inputs: The student's inputs, (N, 3, H, W).
            logits: The student's outputs, (N, num_classes).

        Returns:
            The Kullback-Leibler divergence at the temperature, times its square; a scalar.
        """
        t = self.temperature
        divergence = nn.functional.kl_div(
            (logits / t).log_softmax(1),
            (self.predict(inputs) / t).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return t * t * divergence
