"""Gradient checkpointing that changes nothing, batch norms' running statistics included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@torch.jit.ignore
def checkpoint_stage(stage: Any, x: torch.Tensor) -> torch.Tensor:
    """Runs the blocks of a stage, each of which is run again in the backward pass.

    Args:
        stage: A Sequential.
        x: Its input.
    """
    for block in stage:
        if torch.compiler.is_compiling():  # which has no place for our contexts
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = checkpoint(block, x, use_reentrant=False, context_fn=_Contexts(block))
    return x


class _Contexts:
    """The contexts of the first and of the second run."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_statistics(self.block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """The second run must not count the batch into the running statistics again."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
