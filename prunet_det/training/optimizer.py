"""Optimizers of timm that torch lacks, for mmengine's configs: `TimmMuon` and `TimmLamb`.

Muon orthogonalises the update of every weight matrix (a convolution is flattened to one) and leaves
norms and biases to AdamW, whose learning rate is of the same size (`match_rms_adamw`). Detectors
that start from random weights learn from it in far fewer iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from timm.optim import Lamb, Muon
from torch.overrides import TorchFunctionMode


class _SinglePrecision(TorchFunctionMode):
    """Casts to float32 where bfloat16 is asked for."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") is torch.bfloat16:
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)


class TimmMuon(Muon):
    """timm's Muon, which orthogonalises in bfloat16; in float32 on CPUs without AVX-512.

    Those CPUs emulate bfloat16: a product takes 15 to 30 times as long as in float32, and the
    optimizer most of an iteration.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Performs an optimization step, see `torch.optim.Optimizer.step`."""
        on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
        if on_cpu and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
            with _SinglePrecision():
                return super().step(closure)
        return super().step(closure)


OPTIMIZERS.register_module(module=TimmMuon)
OPTIMIZERS.register_module(module=Lamb, name="TimmLamb")
