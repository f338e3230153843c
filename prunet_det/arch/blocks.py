"""Block of a network, in the steps expand, spatial and project.

Each step is a module of its own: a search runs them with fewer channels than the block was built
with, and still shares this implementation.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from timm.layers import DropPath, SEModule
from torch import nn

from prunet_det.arch.spec import BlockSpec

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


def conv_bn_act(
    in_chs: int,
    out_chs: int,
    kernel: int = 1,
    *,
    act: str | None = None,
    bn_eps: float = 1e-3,
    **conv: Any,
) -> nn.Sequential:
    """Builds a convolution without bias, its batch norm and, optionally, an activation.

    Args:
        in_chs: Number of input channels.
        out_chs: Number of output channels.
        kernel: Side of the square kernel.
        act: Key of ACTIVATION_MODULES; None for no activation.
        bn_eps: Epsilon of the batch norm.
        **conv: Further arguments of nn.Conv2d; its padding is kernel // 2 by default.

    Returns:
        A Sequential with the children conv, bn and, with an activation, act.
    """
    conv.setdefault("padding", kernel // 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_chs, out_chs, kernel, bias=False, **conv),
        bn=nn.BatchNorm2d(out_chs, eps=bn_eps),
    )
    if act is not None:
        # SiLU in place copies its input for the backward pass.
        layers["act"] = ACTIVATION_MODULES[act](inplace=act != "silu")
    return nn.Sequential(layers)


class Block(nn.Module):
    """Block `project(spatial(expand(x)))`, plus `x` where the spec has a residual.

    A step that the block's kind does not have is an Identity.

    Args:
        spec: The block to build.
        bn_eps: Epsilon of the batch norms.
        drop_path: Rate of stochastic depth on the branch, 0..1; no effect without a residual.
    """

    def __init__(self, spec: BlockSpec, bn_eps: float = 1e-3, drop_path: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.has_residual = spec.has_residual
        # The order of these three names is that in which a seed's weights are drawn.
        self.expand: nn.Module = nn.Identity()
        self.project: nn.Module = nn.Identity()
        self.spatial: nn.Module
        kind = spec.kind_info
        chs, mid_chs = spec.spatial_chs
        if kind.has_expand:
            self.expand = conv_bn_act(spec.in_chs, chs, act=spec.act, bn_eps=bn_eps)
        self.spatial = conv_bn_act(
            chs,
            mid_chs,
            spec.kernel,
            act=spec.act,
            bn_eps=bn_eps,
            stride=spec.stride,
            padding=0 if spec.padding == "valid" else spec.kernel // 2,
            groups=chs if kind.is_depthwise else 1,
        )
        if spec.se:
            act_layer = ACTIVATION_MODULES[spec.act]
            squeeze_excite = SEModule(mid_chs, rd_channels=spec.se, act_layer=act_layer)
            self.spatial.add_module("se", squeeze_excite)
        if kind.has_project:
            self.project = conv_bn_act(mid_chs, spec.out_chs, bn_eps=bn_eps)
        use_drop = spec.has_residual and drop_path > 0
        self.drop_path: nn.Module = DropPath(drop_path) if use_drop else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block.

        Args:
            x: Feature maps, (N, in_chs, H, W).

        Returns:
            Feature maps, (N, out_chs, ceil(H / stride), ceil(W / stride)); with the padding
            `valid`, floor((H - kernel) / stride) + 1 high and as wide accordingly.
        """
        out = self.project(self.spatial(self.expand(x)))
        if self.has_residual:
            out = x + self.drop_path(out)
        return out
