"""mmengine's optimizer wrappers without a look at the gradient norm: that waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


class _ClipsQuietly:
    """Clips gradients; their norm stays on the device."""

    clip_func: Callable[..., object]
    clip_grad_kwargs: dict[str, Any]
    optimizer: torch.optim.Optimizer

    def _clip_grad(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        with_gradient = [p for p in parameters if p.requires_grad and p.grad is not None]
        if with_gradient:
            self.clip_func(with_gradient, **self.clip_grad_kwargs)


@OPTIM_WRAPPERS.register_module()
class SearchOptimWrapper(_ClipsQuietly, OptimWrapper):
    """See mmengine's OptimWrapper."""


@OPTIM_WRAPPERS.register_module()
class AmpSearchOptimWrapper(_ClipsQuietly, AmpOptimWrapper):
    """See mmengine's AmpOptimWrapper."""
