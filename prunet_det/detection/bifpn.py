"""BiFPN: a feature pyramid as a list of node records (EfficientDet, arXiv 1911.09070)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import create_conv2d, create_pool2d
from torch import nn
from torch.nn import functional as F

NORM_CFG = dict(type="BN", eps=1e-3, momentum=0.01)


@dataclass(frozen=True)
class Node:
    """One node of a cell.

    Attributes:
        level: Index of the pyramid level whose size the node has; 0 is the finest.
        inputs: What it fuses: 0 to levels - 1 are the cell's inputs, finest first; the nodes
            follow in their order.
    """

    level: int
    inputs: tuple[int, ...]


def bifpn_nodes(levels: int) -> tuple[Node, ...]:
    """The nodes of EfficientDet's cell: a top-down pass, then a bottom-up pass with the inputs."""
    if levels < 2:
        raise ValueError(f"a BiFPN needs at least 2 levels, got {levels}.")
    last = list(range(levels))  # the newest node of each level
    at_level = [[i] for i in range(levels)]
    nodes: list[Node] = []

    def add(level: int, inputs: list[int]) -> None:
        nodes.append(Node(level, tuple(inputs)))
        last[level] = levels + len(nodes) - 1
        at_level[level].append(last[level])

    for level in range(levels - 2, -1, -1):
        add(level, [last[level], last[level + 1]])
    for level in range(1, levels):
        add(level, [*at_level[level], last[level - 1]])
    return tuple(nodes)


def separable_conv(
    in_chs: int, out_chs: int, pad_type: str = "", bias: bool = False, norm: nn.Module | None = None
) -> nn.Sequential:
    """3x3 depthwise convolution, 1x1 convolution and, where given, a norm."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv_dw=create_conv2d(in_chs, in_chs, 3, padding=pad_type, depthwise=True),
        conv_pw=create_conv2d(in_chs, out_chs, 1, padding=pad_type, bias=bias),
    )
    if norm is not None:
        layers["bn"] = norm
    return nn.Sequential(layers)


class Resample(nn.Module):
    """Brings a map to the pyramid's channels and to a node's size.

    Args:
        in_chs, out_chs: Where they differ, a 1x1 convolution with norm comes first.
        steps: Levels to go down (each halves, by 3x3 max pooling); 0 or less keeps the size or
            enlarges to the size given at run time, by nearest neighbour.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        steps: int,
        norm_cfg: Mapping[str, Any],
        pad_type: str,
        conv_bias: bool,
    ) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Identity()
        if in_chs != out_chs:
            self.conv = nn.Sequential(
                OrderedDict(
                    conv=create_conv2d(in_chs, out_chs, 1, padding=pad_type, bias=conv_bias),
                    bn=build_norm_layer(dict(norm_cfg), out_chs)[1],
                )
            )
        self.downsample: nn.Module = nn.Identity()
        if steps > 0:
            self.downsample = nn.Sequential(
                *(create_pool2d("max", 3, stride=2, padding=pad_type) for _ in range(steps))
            )

    def forward(self, x: torch.Tensor, size: torch.Size | None = None) -> torch.Tensor:
        x = self.downsample(self.conv(x))
        if size is not None and x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="nearest")
        return x


class FusionNode(nn.Module):
    """Fast normalised fusion of a node's inputs, then SiLU, separable convolution and norm."""

    def __init__(
        self,
        node: Node,
        in_chs: Sequence[int],
        in_levels: Sequence[int],
        channels: int,
        norm_cfg: Mapping[str, Any],
        pad_type: str,
        conv_bias: bool,
    ) -> None:
        super().__init__()
        self.inputs = node.inputs
        self.level = node.level
        self.resample = nn.ModuleList(
            Resample(c, channels, node.level - level, norm_cfg, pad_type, conv_bias)
            for c, level in zip(in_chs, in_levels, strict=True)
        )
        self.edge_weights = nn.Parameter(torch.ones(len(node.inputs)))
        self.act = nn.SiLU(inplace=True)
        norm = build_norm_layer(dict(norm_cfg), channels)[1]
        self.conv = separable_conv(channels, channels, pad_type, conv_bias, norm)

    def forward(self, maps: Sequence[torch.Tensor], size: torch.Size) -> torch.Tensor:
        weights = F.relu(self.edge_weights).to(maps[0].dtype)
        weights = weights / (weights.sum() + 1e-4)
        resampled = (r(maps[i], size) for i, r in zip(self.inputs, self.resample, strict=True))
        out = sum(m * w for m, w in zip(resampled, weights, strict=True))
        return self.conv(self.act(out))


@MODELS.register_module()
class BiFPN(BaseModule):
    """Stacked cells of fusion nodes over the levels that the backbone has and further, made ones.

    The backbone's maps are taken as the finest levels; a network that reaches stride 64 gives P6
    itself. Only the levels that are missing up to `num_levels` are made, the first by 1x1
    convolution and max pooling of the last map, the others by max pooling.

    Args:
        in_channels: Channels of the backbone's maps, finest first; OneStageDetector fills them in.
        in_strides: Their strides, likewise; each must be twice the one before.
        channels: Of every output.
        num_cells: Cells.
        num_levels: Outputs.
        nodes: The cell as data, each node a Node or {"level": .., "inputs": (..)}; by default
            `bifpn_nodes(num_levels)`.
        norm_cfg: mmcv's; BN with eps 1e-3 and momentum 0.01 by default.
        pad_type: timm's padding: empty is symmetric, `same` TensorFlow's.
        conv_bias: Biases in front of norms, as the weights converted from TensorFlow have.
        init_cfg: mmengine's.

    Attributes:
        out_channels: `channels`.
        out_strides: Of the outputs, finest first.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: int = 64,
        num_cells: int = 3,
        num_levels: int = 5,
        nodes: Sequence[Node | Mapping[str, Any]] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        pad_type: str = "",
        conv_bias: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        strides = list(in_strides)
        if len(in_channels) != len(strides) or not 1 <= len(strides) <= num_levels:
            raise ValueError(
                f"BiFPN with {num_levels} levels got {len(in_channels)} channel counts and "
                f"{len(strides)} strides from the backbone; lower the backbone's out_strides or "
                "raise num_levels."
            )
        if any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(f"BiFPN needs strides that double from level to level, got {strides}.")
        norm_cfg = dict(norm_cfg or NORM_CFG)
        extra: dict[str, Any] = dict(norm_cfg=norm_cfg, pad_type=pad_type, conv_bias=conv_bias)
        chs = list(in_channels)
        self.extra_levels = nn.ModuleList()
        while len(chs) < num_levels:
            self.extra_levels.append(Resample(chs[-1], channels, 1, **extra))
            chs.append(channels)
            strides.append(2 * strides[-1])
        self.nodes = _read_nodes(nodes, num_levels)
        self.cells: Any = nn.ModuleList()
        for _ in range(num_cells):
            all_chs = chs + [channels] * len(self.nodes)
            all_levels = list(range(num_levels)) + [n.level for n in self.nodes]
            self.cells.append(
                nn.ModuleList(
                    FusionNode(
                        node,
                        [all_chs[i] for i in node.inputs],
                        [all_levels[i] for i in node.inputs],
                        channels,
                        **extra,
                    )
                    for node in self.nodes
                )
            )
            chs = [channels] * num_levels
        self._outputs = _output_ids(self.nodes, num_levels)
        self.out_channels = channels
        self.out_strides = tuple(strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Backbone maps, finest first, to `num_levels` maps of `channels` channels."""
        maps = list(x)
        for resample in self.extra_levels:
            maps.append(resample(maps[-1]))
        sizes = [m.shape[-2:] for m in maps]
        for cell in self.cells:
            for node in cell:
                maps.append(node(maps, sizes[node.level]))
            maps = [maps[i] for i in self._outputs]
        return tuple(maps)


def _read_nodes(
    nodes: Sequence[Node | Mapping[str, Any]] | None, num_levels: int
) -> tuple[Node, ...]:
    if nodes is None:
        return bifpn_nodes(num_levels)
    read = []
    for i, record in enumerate(nodes):
        node = record if isinstance(record, Node) else Node(record["level"], (*record["inputs"],))
        if not 0 <= node.level < num_levels:
            raise ValueError(f"BiFPN node {i} has level {node.level} of {num_levels} levels.")
        if not node.inputs or not all(0 <= j < num_levels + i for j in node.inputs):
            raise ValueError(
                f"BiFPN node {i} takes {node.inputs}, which do not all come before it."
            )
        read.append(node)
    return tuple(read)


def _output_ids(nodes: tuple[Node, ...], num_levels: int) -> list[int]:
    """For each level, the last node on it."""
    last = {node.level: num_levels + i for i, node in enumerate(nodes)}
    if len(last) != num_levels:
        missing = sorted(set(range(num_levels)) - set(last))
        raise ValueError(f"BiFPN has no node on level {missing[0]}; every level needs one.")
    return [last[level] for level in range(num_levels)]
