"""BiFPN: EfficientDet's feature pyramid (arXiv 1911.09070), described by a list of nodes."""

from __future__ import annotations

import functools
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

from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError

NORM_CFG = dict(type="BN", eps=1e-3, momentum=0.01)


@dataclass(frozen=True)
class Node:
    """A node of a cell.

    Attributes:
        level: Index of the pyramid level whose size the node has; 0 is the finest.
        inputs: Indices of the maps that it fuses: 0 to num_levels - 1 are the cell's inputs, finest
            first; the nodes follow in their order.
    """

    level: int
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class ConvOptions:
    """Options shared by all convolutions of a pyramid or a head.

    Attributes:
        norm_cfg: mmcv's config of the norms.
        pad_type: timm's padding type: empty for symmetric padding, `same` for TensorFlow's.
        conv_bias: Biases in front of norms, as the weights converted from TensorFlow have.
    """

    norm_cfg: Mapping[str, Any]
    pad_type: str = ""
    conv_bias: bool = False

    def norm(self, channels: int) -> nn.Module:
        """Builds a norm."""
        return build_norm_layer(dict(self.norm_cfg), channels)[1]


def bifpn_nodes(levels: int) -> tuple[Node, ...]:
    """Lists the nodes of EfficientDet's cell: a top-down pass, then a bottom-up pass.

    Raises:
        InputError: If there are less than 2 levels.
    """
    if levels < 2:
        raise InputError(f"a BiFPN needs at least 2 levels, got {levels}.")
    last = list(range(levels))  # the newest map of each level
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
    """Builds a 3x3 depthwise convolution, a 1x1 convolution and, if given, a norm.

    Args:
        in_chs: Input channels.
        out_chs: Output channels.
        pad_type: timm's padding type.
        bias: Add a bias to the 1x1 convolution.
        norm: Norm of `out_chs` channels that comes last.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv_dw=create_conv2d(in_chs, in_chs, 3, padding=pad_type, depthwise=True),
        conv_pw=create_conv2d(in_chs, out_chs, 1, padding=pad_type, bias=bias),
    )
    if norm is not None:
        layers["bn"] = norm
    return nn.Sequential(layers)


class Resample(nn.Module):
    """Brings a feature map to the pyramid's channels and to a node's size.

    Args:
        in_chs: Input channels.
        out_chs: Output channels; if they differ, a 1x1 convolution with norm comes first.
        steps: Number of times to halve the size, by 3x3 max pooling; with 0 or less, the map keeps
            its size or is enlarged to the size given at run time, by nearest neighbour.
        options: Options of the convolutions.
    """

    def __init__(self, in_chs: int, out_chs: int, steps: int, options: ConvOptions) -> None:
        super().__init__()
        pad_type = options.pad_type
        self.conv: nn.Module = nn.Identity()
        if in_chs != out_chs:
            self.conv = nn.Sequential(
                OrderedDict(
                    conv=create_conv2d(
                        in_chs, out_chs, 1, padding=pad_type, bias=options.conv_bias
                    ),
                    bn=options.norm(out_chs),
                )
            )
        self.downsample: nn.Module = nn.Identity()
        if steps > 0:
            self.downsample = nn.Sequential(
                *(create_pool2d("max", 3, stride=2, padding=pad_type) for _ in range(steps))
            )

    def forward(self, x: torch.Tensor, size: torch.Size | None = None) -> torch.Tensor:
        """Resamples a map.

        Args:
            x: (N, in_chs, H, W).
            size: (height, width) of the result; None for the halved or the given size.

        Returns:
            (N, out_chs, *size).
        """
        x = self.downsample(self.conv(x))
        if size is not None and x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="nearest")
        return x


class FusionNode(nn.Module):
    """Fast normalised fusion of a node's inputs, then SiLU, separable convolution and norm.

    Args:
        node: Level and inputs.
        in_chs: Channels of each input.
        in_levels: Level of each input.
        channels: Channels of the pyramid.
        options: Options of the convolutions.
    """

    def __init__(
        self,
        node: Node,
        in_chs: Sequence[int],
        in_levels: Sequence[int],
        channels: int,
        options: ConvOptions,
    ) -> None:
        super().__init__()
        self.inputs = node.inputs
        self.level = node.level
        self.resample = nn.ModuleList(
            Resample(chs, channels, node.level - level, options)
            for chs, level in zip(in_chs, in_levels, strict=True)
        )
        self.edge_weights = nn.Parameter(torch.ones(len(node.inputs)))
        self.act = nn.SiLU()  # in place, it would copy its input for the backward pass
        self.conv = separable_conv(
            channels, channels, options.pad_type, options.conv_bias, options.norm(channels)
        )

    def forward(
        self,
        maps: Sequence[torch.Tensor],
        size: torch.Size,
        weights: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Fuses the node's inputs.

        Args:
            maps: All maps of the cell so far, each (N, C, H, W): its inputs and earlier nodes.
            size: (height, width) of the node's level.
            weights: Weight of each input, scalars from `fusion_weights`.

        Returns:
            (N, channels, *size).
        """
        resampled = (r(maps[i], size) for i, r in zip(self.inputs, self.resample, strict=True))
        weighted = (m * w.to(m.dtype) for m, w in zip(resampled, weights, strict=True))
        return self.conv(self.act(functools.reduce(torch.add, weighted)))


def fusion_weights(edge_weights: Sequence[torch.Tensor]) -> list[Sequence[torch.Tensor]]:
    """Makes nodes' weights non-negative and their sums 1, for all nodes with few operators.

    Args:
        edge_weights: Raw weights of each node, (inputs,).

    Returns:
        The weight of each input, a scalar, of each node.
    """
    normalised: dict[int, Sequence[torch.Tensor]] = {}
    for inputs in {len(w) for w in edge_weights}:
        nodes = [i for i, w in enumerate(edge_weights) if len(w) == inputs]
        weights = F.relu(torch.stack([edge_weights[i] for i in nodes]))
        weights = weights / (weights.sum(dim=1, keepdim=True) + 1e-4)
        scalars = weights.flatten().unbind()
        for k, i in enumerate(nodes):
            normalised[i] = scalars[k * inputs : (k + 1) * inputs]
    return [normalised[i] for i in range(len(edge_weights))]


@MODELS.register_module()
class BiFPN(BaseModule):
    """Weighted bidirectional feature pyramid: cells of fusion nodes, one after the other.

    The backbone's maps are the finest levels; a network that reaches stride 64 gives P6 itself.
    Only the levels that are missing up to `num_levels` are added, the first by 1x1 convolution and
    max pooling of the backbone's last map, the others by max pooling.

    Args:
        in_channels: Channels of the backbone's maps, finest first; OneStageDetector fills them in.
        in_strides: Strides of the backbone's maps, each twice the one before; OneStageDetector
            fills them in.
        channels: Channels of each output.
        num_cells: Number of cells.
        num_levels: Number of outputs.
        nodes: Nodes of a cell, each a Node or a dict such as {"level": 0, "inputs": (0, 1)}; None
            for EfficientDet's, see `bifpn_nodes`.
        norm_cfg: mmcv's config of the norms; None for BN with eps 1e-3 and momentum 0.01, as
            EfficientDet has.
        pad_type: timm's padding type: empty for symmetric padding, `same` for TensorFlow's.
        conv_bias: Biases in front of norms, as the weights converted from TensorFlow have.
        init_cfg: Config of mmengine's weight initialisation.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Strides of the outputs, finest first.

    Raises:
        InputError: If the backbone's maps or the nodes do not fit the levels.
    """

    def __init__(  # noqa: PLR0913 (the keys of a config)
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
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
        positive_int(num_cells, "num_cells")
        if len(in_channels) != len(strides) or not 1 <= len(strides) <= num_levels:
            raise InputError(
                f"BiFPN with {num_levels} levels got {len(in_channels)} channel counts and "
                f"{len(strides)} strides from the backbone; lower the backbone's out_strides or "
                "raise num_levels."
            )
        if any(b != 2 * a for a, b in pairwise(strides)):
            raise InputError(f"BiFPN needs strides that double from level to level, got {strides}.")
        options = ConvOptions(norm_cfg or NORM_CFG, pad_type, conv_bias)
        chs = list(in_channels)
        self.extra_levels = nn.ModuleList()
        while len(chs) < num_levels:
            self.extra_levels.append(Resample(chs[-1], channels, 1, options))
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
                        options,
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
        """Computes the pyramid.

        Args:
            x: Maps of the backbone, finest first, each (N, in_channels[i], H_i, W_i).

        Returns:
            `num_levels` maps, finest first, each (N, channels, H_i, W_i).
        """
        maps = list(x)
        for resample in self.extra_levels:
            maps.append(resample(maps[-1]))
        sizes = [m.shape[-2:] for m in maps]
        weights = iter(fusion_weights([node.edge_weights for cell in self.cells for node in cell]))
        for cell in self.cells:
            for node in cell:
                maps.append(node(maps, sizes[node.level], next(weights)))
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
            raise InputError(f"BiFPN node {i} has level {node.level} of {num_levels} levels.")
        if not node.inputs or not all(0 <= j < num_levels + i for j in node.inputs):
            raise InputError(
                f"BiFPN node {i} takes {node.inputs}, which do not all come before it."
            )
        read.append(node)
    return tuple(read)


def _output_ids(nodes: tuple[Node, ...], num_levels: int) -> list[int]:
    """Returns the index of the last node on each level."""
    last = {node.level: num_levels + i for i, node in enumerate(nodes)}
    if len(last) != num_levels:
        missing = sorted(set(range(num_levels)) - set(last))
        raise InputError(f"BiFPN has no node on level {missing[0]}; every level needs one.")
    return [last[level] for level in range(num_levels)]
