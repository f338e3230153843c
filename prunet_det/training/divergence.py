"""What ends a training that diverges, before its weights are saved or go on to be trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.runner import Runner

from prunet_det.utils.errors import UserError
from prunet_det.zoo.weights import not_finite

# torch.amp.GradScaler halves the scale whenever a gradient overflows. One that does at this scale
# would without any.
_MIN_LOSS_SCALE = 2.0**-10


class DivergedError(UserError):
    """Losses, gradients or weights that are not finite; the sentence says what to do."""


def check_scalars(runner: Runner, first: int, scalars: Sequence[Mapping[str, Any]]) -> None:
    """Checks losses and the norm of gradients, which are numbers by now.

    A gradient that overflows in float16 is no divergence: the scale of the loss falls, and the step
    is left out. Gradients that overflow at any scale are one.

    Args:
        runner: Runner of the training.
        first: Iteration of the first item, counted from 0.
        scalars: For each iteration, numbers by name.

    Raises:
        DivergedError: If a loss or gradient is not finite.
    """
    scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
    if scaler is not None and not scaler.is_enabled():  # of bfloat16
        scaler = None
    for iteration, values in enumerate(scalars, first):
        wrong = [
            name
            for name, value in values.items()
            if ("loss" in name or ("grad_norm" in name and scaler is None))
            and isinstance(value, (int, float))
            and not math.isfinite(value)
        ]
        if wrong:
            parts = [name for name in wrong if name != "train/loss"] or wrong
            names = ", ".join(name.removeprefix("train/") for name in parts)
            raise diverged(runner, f"{names} is {values[parts[0]]}", iteration)
    if scaler is not None and scaler.get_scale() < _MIN_LOSS_SCALE:
        last = first + len(scalars) - 1
        raise diverged(runner, "gradients overflow at every scale of the loss", last)


def check_weights(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Checks weights and their average before they are saved.

    Args:
        runner: Runner of the training.
        checkpoint: What mmengine would save, on the CPU.

    Raises:
        DivergedError: If a tensor is not finite.
    """
    for key in ("state_dict", "ema_state_dict"):
        state = checkpoint.get(key, {})
        names = not_finite(state)
        if names:
            what = f"{len(names)} of {len(state)} tensors ({names[0]}, ...) are not finite"
            raise diverged(runner, what, checkpoint["meta"]["iter"] - 1)


def diverged(runner: Runner, what: str, iteration: int) -> DivergedError:
    """Makes the sentence of a training that diverged.

    Args:
        runner: Runner of the training.
        what: What is not finite.
        iteration: Where that was seen, counted from 0.
    """
    rates = runner.optim_wrapper.get_lr()
    rate = next((values[0] for values in rates.values() if values), math.nan)
    mixed = ", leave out --amp" if hasattr(runner.optim_wrapper, "loss_scaler") else ""
    return DivergedError(
        f"the training diverged: {what} at iteration {iteration + 1}, learning rate {rate:g}. "
        f"Lower optim_wrapper.optimizer.lr{mixed} or warm up for longer; what was saved before is "
        f"still in {runner.work_dir}."
    )
