"""Tier 1: a block whose inner width is still open, as two paths of one shared set of weights.

The hidden channels of a block are worked out one by one (1x1 or dense convolution into them, batch
norm, activation, depthwise), so the smaller path is the first channels of the larger one, and only
the projection mixes them. With p the share of the larger path,

    (1 - p) P[:, :a] h[:a] + p P[:, :b] h[:b] = P[:, :a] h[:a] + p P[:, a:b] h[a:b]:

mixing the two paths before the projection's batch norm, which both share, is the larger path with
the projection's columns from a to b scaled by p. One path is computed, however many widths there
are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from prunet_det.arch.blocks import Block
from prunet_det.arch.spec import BlockSpec


class Prunode(nn.Module):
    """One candidate of a layer, as wide as what can still be chosen.

    Args:
        spec: The block at its greatest width; some kinds have none to choose.
        bn_eps: Epsilon of the batch norms.

    Shapes:
        (N, in_chs, H, W) to (N, out_chs, ceil(H / stride), ceil(W / stride)), without the residual.
    """

    def __init__(self, spec: BlockSpec, bn_eps: float = 1e-3) -> None:
        super().__init__()
        self.spec, self.bn_eps = spec, bn_eps
        self.block: Any = Block(spec.padded(), bn_eps)

    @property
    def has_residual(self) -> bool:
        """Whether the block adds its input to what `forward` gives."""
        return self.spec.has_residual

    def resize(self, hidden: int) -> None:
        """Keeps the first `hidden` channels; parameters are new objects, on the same device.

        Raises:
            ValueError: More channels than there are.
        """
        if hidden > self.spec.hidden:
            raise ValueError(f"a Prunode of {self.spec.hidden} channels cannot grow to {hidden}.")
        old = self.block.state_dict()
        self.spec = dataclasses.replace(self.spec, hidden=hidden)
        training = self.training
        like = next(iter(old.values()))
        with like.device:
            self.block = Block(self.spec.padded(), self.bn_eps)
        copy_leading(old, self.block.state_dict())
        if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
            self.block.to(memory_format=torch.channels_last)
        self.block.train(training)

    def forward(
        self, x: torch.Tensor, pair: tuple[int, int] = (0, 0), share: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mixture of the two paths.

        Args:
            x: The layer's input.
            pair: Inner widths a <= b of the two paths; not used by a block without one.
            share: Of the larger path, a scalar; None computes the larger path alone.
        """
        block, kind = self.block, self.spec.kind_info
        if not kind.has_hidden:
            return block.project(block.spatial(x))
        small, large = pair
        columns = None
        if share is not None and small < large:
            ones = x.new_ones(small, dtype=share.dtype)
            columns = torch.cat([ones, share.expand(large - small)])
        if kind.has_expand:
            x = _narrow(block.expand, x, large)
        x = _narrow(block.spatial, x, large, kind.is_depthwise)
        if self.spec.se:
            x = _squeeze_excite(block.spatial.se, x, large, columns)
        weight = block.project.conv.weight[:, :large]
        if columns is not None:
            weight = weight * columns[:, None, None].to(weight.dtype)
        return block.project.bn(functional.conv2d(x, weight))


def _narrow(step: Any, x: torch.Tensor, chs: int, depthwise: bool = False) -> torch.Tensor:
    """The first `chs` output channels of a step's convolution, batch norm and activation."""
    conv, bn = step.conv, step.bn
    groups = chs if depthwise else 1
    x = functional.conv2d(x, conv.weight[:chs], None, conv.stride, conv.padding, 1, groups)
    x = functional.batch_norm(
        x,
        bn.running_mean[:chs],
        bn.running_var[:chs],
        bn.weight[:chs],
        bn.bias[:chs],
        bn.training,
        bn.momentum,
        bn.eps,
    )
    return step.act(x)


def _squeeze_excite(
    se: Any, x: torch.Tensor, chs: int, columns: torch.Tensor | None
) -> torch.Tensor:
    """Squeeze-and-excitation of the first channels; squeezes are mixed like paths."""
    squeezed = x.mean((2, 3), keepdim=True)
    weight = se.fc1.weight[:, :chs]
    if columns is not None:
        weight = weight * columns[:, None, None].to(weight.dtype)
    squeezed = se.act(functional.conv2d(squeezed, weight, se.fc1.bias))
    scale = functional.conv2d(squeezed, se.fc2.weight[:chs], se.fc2.bias[:chs])
    return x * se.gate(scale)


def copy_leading(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    """Fills tensors with the leading parts of larger ones of the same names."""
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name][leading(tensor)])


def leading(tensor: torch.Tensor) -> tuple[slice, ...]:
    """The index of the part of a larger tensor that is as large as this one."""
    return tuple(slice(0, size) for size in tensor.shape)
