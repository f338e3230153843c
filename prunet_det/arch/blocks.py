"""The three blocks, each in the steps expand, spatial, project.

A step is a module of its own, so that a search can run the steps with other widths than the block
was built with and still share this one implementation.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import DropPath, SEModule
from torch import nn

from prunet_det.arch.spec import BlockSpec

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


def conv_bn_act(
    in_chs: int,
    out_chs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    depthwise: bool = False,
    padding: str = "same",
    act: str | None = None,
    bn_eps: float = 1e-3,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, where `act` is given, an activation.

    Args:
        in_chs, out_chs: Channels.
        kernel, stride: Of the convolution.
        depthwise: One group a channel.
        padding: `same` is kernel // 2 on every side, `valid` is none.
        act: A key of ACTIVATION_MODULES, or None.
        bn_eps: Epsilon of the batch norm.

    Returns:
        A Sequential with the children conv, bn and, where asked for, act.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(
            in_chs,
            out_chs,
            kernel,
            stride,
            padding=0 if padding == "valid" else kernel // 2,
            groups=in_chs if depthwise else 1,
            bias=False,
        ),
        bn=nn.BatchNorm2d(out_chs, eps=bn_eps),
    )
    if act is not None:
        layers["act"] = ACTIVATION_MODULES[act](inplace=True)
    return nn.Sequential(layers)


class Block(nn.Module):
    """`project(spatial(expand(x)))`, plus `x` where the spec has a residual.

    Args:
        spec: What to build.
        padding: `published` follows the spec, `same` pads every convolution with kernel // 2.
        bn_eps: Epsilon of the batch norms.
        drop_path: Rate of stochastic depth on the branch; without a residual it has no effect.

    Shapes:
        (N, in_chs, H, W) to (N, out_chs, ceil(H / stride), ceil(W / stride)), or
        floor((H - kernel) / 2) + 1 for a strided block of padding `valid`.
    """

    def __init__(
        self,
        spec: BlockSpec,
        padding: str = "published",
        bn_eps: float = 1e-3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.bn_eps = bn_eps
        self.padding = spec.padding if padding == "published" else padding
        self.has_residual = spec.has_residual
        self.expand: nn.Module = nn.Identity()
        self.project: nn.Module = nn.Identity()
        self.spatial: nn.Module
        self._build_steps()
        use_drop = spec.has_residual and drop_path > 0
        self.drop_path: nn.Module = DropPath(drop_path) if use_drop else nn.Identity()

    def _build_steps(self) -> None:
        raise TypeError("Block is abstract; use make_block(spec).")

    def _make_spatial(self, in_chs: int, out_chs: int, depthwise: bool = False) -> nn.Sequential:
        """The kxk convolution with BN, activation and, where the spec has it, SE."""
        s = self.spec
        spatial = conv_bn_act(
            in_chs,
            out_chs,
            s.kernel,
            s.stride,
            depthwise=depthwise,
            padding=self.padding,
            act=s.act,
            bn_eps=self.bn_eps,
        )
        if s.se:
            act_layer = ACTIVATION_MODULES[s.act]
            spatial.add_module("se", SEModule(out_chs, rd_channels=s.se, act_layer=act_layer))
        return spatial

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.project(self.spatial(self.expand(x)))
        if self.has_residual:
            out = x + self.drop_path(out)
        return out


class ConvBnAct(Block):
    """A plain convolution; never a residual."""

    def _build_steps(self) -> None:
        self.spatial = self._make_spatial(self.spec.in_chs, self.spec.out_chs)


class IRB(Block):
    """Inverted residual: 1x1 expand, kxk depthwise, optional SE, 1x1 project without activation."""

    def _build_steps(self) -> None:
        s = self.spec
        self.expand = conv_bn_act(s.in_chs, s.hidden, act=s.act, bn_eps=self.bn_eps)
        self.spatial = self._make_spatial(s.hidden, s.hidden, depthwise=True)
        self.project = conv_bn_act(s.hidden, s.out_chs, bn_eps=self.bn_eps)


class FusedIRB(Block):
    """Fused inverted residual: dense kxk to the hidden width, optional SE, 1x1 project."""

    def _build_steps(self) -> None:
        s = self.spec
        self.spatial = self._make_spatial(s.in_chs, s.hidden)
        self.project = conv_bn_act(s.hidden, s.out_chs, bn_eps=self.bn_eps)


_BLOCKS: dict[str, type[Block]] = {"conv": ConvBnAct, "irb": IRB, "fused_irb": FusedIRB}


def make_block(
    spec: BlockSpec, padding: str = "published", bn_eps: float = 1e-3, drop_path: float = 0.0
) -> Block:
    """The block of the spec's kind; arguments as in :class:`Block`."""
    return _BLOCKS[spec.kind](spec, padding, bn_eps, drop_path)
