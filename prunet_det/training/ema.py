"""Averaged weights in a few launches: mmengine's and mmdet's averages, all tensors at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import Tensor, nn

# What ForeachEMA equals, with the default of their `gamma`.
_GAMMA = {"ExponentialMovingAverage": None, "ExpMomentumEMA": 2000}


@MODELS.register_module()
class ForeachEMA(ExponentialMovingAverage):
    """mmengine's ExponentialMovingAverage or mmdet's ExpMomentumEMA, through `torch._foreach_*`.

    Theirs take one tensor at a time, some 600 to 1,300 operators an iteration. Averages and
    checkpoints are theirs.

    Args:
        model: Model to average.
        momentum: Share of the model in an update, 0..1.
        gamma: Updates in which the momentum falls from 1 to `momentum`, exponentially, as
            ExpMomentumEMA's; None for a constant momentum, as ExponentialMovingAverage's.
        **options: `interval`, `device` and `update_buffers`, see ExponentialMovingAverage.
    """

    steps: Tensor

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, momentum, **options)
        self.gamma = gamma
        # Read in every iteration: a number on the GPU would have to be waited for.
        self.steps = self.steps.cpu()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the model's weights into the average; buffers are copied if they are not averaged.

        Args:
            model: Model after an optimizer step.
        """
        steps = int(self.steps)
        averages, sources = self._averaged(self.module), self._averaged(model)
        if steps == 0:
            _by_type(torch._foreach_copy_, averages, sources)
        elif steps % self.interval == 0:
            floating = [average.is_floating_point() for average in averages]
            averages, sources = (list(compress(t, floating)) for t in (averages, sources))
            _by_type(torch._foreach_lerp_, averages, sources, self._momentum(steps))
        if not self.update_buffers:
            _by_type(torch._foreach_copy_, list(self.module.buffers()), list(model.buffers()))
        self.steps += 1

    def _averaged(self, model: nn.Module) -> list[Tensor]:
        return list(model.state_dict().values() if self.update_buffers else model.parameters())

    def _momentum(self, steps: int) -> float:
        if self.gamma is None:
            return self.momentum
        return (1 - self.momentum) * math.exp(-(1 + steps) / self.gamma) + self.momentum


def _by_type(
    function: Callable[..., object], averages: list[Tensor], sources: list[Tensor], *args: float
) -> None:
    """Calls a foreach function once a type: CUDA's kernels take lists of one type.

    Args:
        function: Function of `torch._foreach_*`.
        averages: Tensors to change.
        sources: Tensors to read, of the same types; moved to the averages' device if need be.
        *args: Further arguments.
    """
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for average, source in zip(averages, sources, strict=True):
        lists = by_type.setdefault(average.dtype, ([], []))
        lists[0].append(average)
        lists[1].append(source if source.device == average.device else source.to(average.device))
    for lists in by_type.values():
        function(*lists, *args)


def use_foreach(hooks: Sequence[dict[str, Any]]) -> None:
    """Puts ForeachEMA in the place of the averages that it equals.

    Configs name mmengine's and mmdet's: they are what a reader knows.

    Args:
        hooks: A config's custom hooks; changed in place.
    """
    for hook in hooks:
        kind = hook.get("ema_type", "ExponentialMovingAverage")
        if hook["type"] == "EMAHook" and kind in _GAMMA:
            hook["gamma"] = hook.get("gamma", _GAMMA[kind])
            hook["ema_type"] = "ForeachEMA"
