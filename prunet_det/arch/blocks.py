"""The block, of whichever kind, in the steps expand, spatial, project.

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

    A step that the block's kind does not have is an Identity.

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
            spec.stride,
            depthwise=kind.is_depthwise,
            padding=spec.padding if padding == "published" else padding,
            act=spec.act,
            bn_eps=bn_eps,
        )
        if spec.se:
            act_layer = ACTIVATION_MODULES[spec.act]
            self.spatial.add_module(
                "se", SEModule(mid_chs, rd_channels=spec.se, act_layer=act_layer)
            )
        if kind.has_project:
            self.project = conv_bn_act(mid_chs, spec.out_chs, bn_eps=bn_eps)
        use_drop = spec.has_residual and drop_path > 0
        self.drop_path: nn.Module = DropPath(drop_path) if use_drop else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.project(self.spatial(self.expand(x)))
        if self.has_residual:
            out = x + self.drop_path(out)
        return out
