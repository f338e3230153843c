"""The supernet: all candidates of a space as one network with shared weights.

A candidate of a layer is a `Prunode`: a block whose inner width is still open. The hidden channels
of a block are worked out one by one (1x1 or dense convolution into them, batch norm, activation,
depthwise), so a narrower block is the first channels of a wider one, and only the projection mixes
them. Widths share weights in this way, and what a step costs does not hang on how many there are.

Two ways lead through it. A *path* is one network of the space: one candidate a layer, its first so
many channels, and some layers left out. A *mixture* adds up all candidates of a layer, each with
its weight, and each as two of its widths: with p the share of the wider one,

    (1 - p) P[:, :a] h[:a] + p P[:, :b] h[:b] = P[:, :a] h[:a] + p P[:, a:b] h[a:b],

so that the wider one alone is computed, with the projection's columns from a to b scaled by p.

cuDNN plans a convolution anew for every shape, some 30 ms each on an H100, and paths have new
widths in every step. So on a GPU a path is computed at the next of a few widths, with p = 0, and
1x1 convolutions are matrix products.

All batch norms normalise by the batch at hand: their running statistics are those of no single
network, so a result estimates its own (`prunet_det.arch.network.reestimate_norms`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.nn import functional

from prunet_det.arch.blocks import Block, conv_bn_act
from prunet_det.arch.network import ArchNet, init_weights
from prunet_det.arch.spec import ArchSpec, BlockSpec
from prunet_det.search.space import LayerSpace, SearchSpace, Shape

# What is left of a supernet: for every layer the candidates, by index; none where it is gone.
Structure = list[list[int]]
BN_EPS = 1e-3
_STEP = 8 ** (1 / 7)  # between widths that paths are computed at on a GPU


@dataclass(frozen=True)
class Path:
    """One network of the space.

    Attributes:
        operators: Index of each layer's candidate; -1 where the layer is left out.
        hidden: Inner width of each layer's candidate, in channels.
    """

    operators: Sequence[int] | np.ndarray
    hidden: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of candidates and widths. Arrays and tensors are (layers, operators).

    Attributes:
        weights: Weights of the candidates on the device; those of a layer's live ones sum to 1.
        shares: Shares of the wider of two widths on the device, 0..1.
        small, large: The two inner widths, in channels.
    """

    weights: torch.Tensor
    shares: torch.Tensor
    small: np.ndarray
    large: np.ndarray


# What of a supernet runs: one network, or all that are left in one sum.
Choice = Path | Mixture


class Prunode(nn.Module):
    """One candidate of a layer, as wide as what can still be chosen.

    Args:
        spec: The block at its greatest width; some kinds have none to choose.

    Shapes:
        (N, in_chs, H, W) to (N, out_chs, ceil(H / stride), ceil(W / stride)), without the residual.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec
        self.block: Any = Block(spec.padded(), BN_EPS)

    def computed_width(self, hidden: int) -> int:
        """The next of a few widths, each 1.35 times the one below it, up to the greatest."""
        greatest = self.spec.hidden
        if not 0 < hidden < greatest:
            return hidden
        steps = math.floor(math.log(greatest / hidden) / math.log(_STEP))
        return min(max(math.ceil(greatest * _STEP**-steps / 8) * 8, hidden), greatest)

    def forward(
        self, x: torch.Tensor, hidden: int, small: int = 0, share: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The block's branch at one width, or the mixture of two.

        Args:
            x: The layer's input.
            hidden: Inner width; not used by a block without one.
            small: The narrower inner width of a mixture.
            share: Share of the wider one in a mixture, a scalar; None runs that one alone.
        """
        block, kind = self.block, self.spec.kind_info
        if not kind.has_hidden:
            x = _conv_bn_act(block.spatial, x, self.spec.spatial_chs[1], kind.is_depthwise)
            return _conv_bn_act(block.project, x, self.spec.out_chs) if kind.has_project else x
        columns = None
        if share is not None and small < hidden:
            columns = torch.cat([x.new_ones(small), share.to(x.dtype).expand(hidden - small)])
            columns = columns[:, None, None]
        if kind.has_expand:
            x = _conv_bn_act(block.expand, x, hidden)
        x = _conv_bn_act(block.spatial, x, hidden, kind.is_depthwise)
        if self.spec.se:
            x = _squeeze_excite(block.spatial.se, x, hidden, columns)
        weight = _columns(block.project.conv.weight, hidden, columns)
        return _batch_norm(block.project.bn, _pointwise(x, weight))


def _first(tensor: torch.Tensor, count: int) -> torch.Tensor:
    return tensor if len(tensor) == count else tensor[:count]


def _columns(weight: torch.Tensor, count: int, scale: torch.Tensor | None) -> torch.Tensor:
    weight = weight if weight.shape[1] == count else weight[:, :count]
    return weight if scale is None else weight * scale.to(weight.dtype)


def _batch_norm(bn: Any, x: torch.Tensor) -> torch.Tensor:
    """Normalises by the batch; scale and shift are those of the first channels."""
    weight, bias = _first(bn.weight, x.shape[1]), _first(bn.bias, x.shape[1])
    return functional.batch_norm(x, None, None, weight, bias, True, 0.0, bn.eps)


def _pointwise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution; on a GPU a matrix product, which needs no plan."""
    return as_product(x, weight) if x.is_cuda else functional.conv2d(x, weight)


def as_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution as a matrix product: channels_last in, channels_last out."""
    return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def _conv_bn_act(step: Any, x: torch.Tensor, chs: int, depthwise: bool = False) -> torch.Tensor:
    """The first `chs` output channels of a convolution, its batch norm and its activation."""
    conv, groups = step.conv, chs if depthwise else 1
    weight = _first(conv.weight, chs)
    if conv.kernel_size == conv.stride == (1, 1):
        x = _pointwise(x, weight)
    else:
        x = functional.conv2d(x, weight, None, conv.stride, conv.padding, 1, groups)
    x = _batch_norm(step.bn, x)
    return step.act(x) if hasattr(step, "act") else x


def _squeeze_excite(
    se: Any, x: torch.Tensor, chs: int, columns: torch.Tensor | None
) -> torch.Tensor:
    """Squeeze-and-excitation of the first channels; squeezes are mixed like widths."""
    squeezed = x.mean((2, 3), keepdim=True)
    weight = _columns(se.fc1.weight, chs, columns)
    squeezed = se.act(functional.conv2d(squeezed, weight, se.fc1.bias))
    scale = functional.conv2d(squeezed, _first(se.fc2.weight, chs), _first(se.fc2.bias, chs))
    return x * se.gate(scale)


class SearchLayer(nn.Module):
    """The candidates of a layer.

    Args:
        space: What the layer may be.

    Shapes:
        (N, in_chs, H, W) to (N, out_chs, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, space: LayerSpace) -> None:
        super().__init__()
        self.space = space
        self.candidates: Any = nn.ModuleDict(
            {
                str(i): Prunode(space.block(o, space.widths_of(o)[-1]))
                for i, o in enumerate(space.operators)
            }
        )

    def path(self, x: torch.Tensor, operator: int, hidden: int) -> torch.Tensor:
        """One candidate at one inner width, with its residual."""
        candidate, share = self.candidates[str(operator)], None
        wide = candidate.computed_width(hidden) if x.is_cuda else hidden
        if wide > hidden:
            share = x.new_zeros(())
        branch = candidate(x, wide, hidden, share)
        return x + branch if candidate.spec.has_residual else branch

    def forward(self, x: torch.Tensor, choice: Choice, index: int) -> torch.Tensor:
        """Runs a choice.

        Args:
            x: The layer's input.
            choice: What runs of all layers.
            index: Number of this layer among them.
        """
        if isinstance(choice, Mixture):
            return self._mixed(x, choice, index)
        operator = int(choice.operators[index])
        return x if operator < 0 else self.path(x, operator, int(choice.hidden[index]))

    def _mixed(self, x: torch.Tensor, mixture: Mixture, index: int) -> torch.Tensor:
        """Sum over the candidates of weight * (branch + its residual)."""
        live = [int(key) for key in self.candidates]
        weights, shares = mixture.weights[index].unbind(), mixture.shares[index].unbind()
        out, shortcuts = None, []
        for key, candidate in self.candidates.items():
            o = int(key)
            small, large = int(mixture.small[index, o]), int(mixture.large[index, o])
            branch = candidate(x, large, small, shares[o])
            if len(live) > 1:
                branch = weights[o] * branch
            out = branch if out is None else out + branch
            if candidate.spec.has_residual:
                shortcuts.append(weights[o])
        assert out is not None, "a layer that is here has a candidate"
        if len(shortcuts) == len(live):  # their weights sum to one
            return x + out
        return out + sum(shortcuts[1:], shortcuts[0]) * x if shortcuts else out


class SuperNet(nn.Module):
    """Stem, search layers, and a classifier. Preferences live outside, in `Architecture`.

    Args:
        space: What may be chosen.
        num_classes: Number of classifier classes; 0 for no classifier.

    Shapes:
        (N, 3, H, W) to (N, num_classes).
    """

    def __init__(self, space: SearchSpace, num_classes: int) -> None:
        super().__init__()
        self.space, self.num_classes = space, num_classes
        self.stem = nn.Sequential(
            conv_bn_act(3, space.stem, 3, stride=2, act=space.act, bn_eps=BN_EPS)
        )
        self.layers: Any = nn.ModuleDict(
            {str(i): SearchLayer(layer) for i, layer in enumerate(space.layers)}
        )
        if num_classes:
            chs = space.layers[-1].out_chs
            self.conv_head = conv_bn_act(chs, space.tail, act="relu", bn_eps=BN_EPS)
            self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
            self.classifier = nn.Linear(space.tail, num_classes)
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, Prunode) and module.spec.has_residual:
                # A deep sum of random branches takes long to learn anything.
                nn.init.zeros_(module.block.project.bn.weight)

    def forward(self, images: torch.Tensor, choice: Choice) -> torch.Tensor:
        """Logits of a path or of a mixture.

        Args:
            images: (N, 3, H, W).
            choice: What runs.
        """
        x = self.features(images, choice)[-1]
        x = _conv_bn_act(self.conv_head, x, self.space.tail)
        return self.classifier(self.global_pool(x))

    def features(self, images: torch.Tensor, choice: Choice) -> list[torch.Tensor]:
        """The last map of each stage.

        Args:
            images: (N, 3, H, W).
            choice: What runs.
        """
        x, maps = _conv_bn_act(self.stem[0], images, self.space.stem), {}
        for i, space in enumerate(self.space.layers):
            if str(i) in self.layers:
                x = self.layers[str(i)](x, choice, i)
            maps[space.stage] = x
        return list(maps.values())

    def structure(self) -> Structure:
        """What is left."""
        left = [list[int]() for _ in self.space.layers]
        for i, layer in self.layers.items():
            left[int(i)] += map(int, layer.candidates)
        return left

    def restructure(self, structure: Structure) -> None:
        """Drops all candidates that a structure does not have, and layers without any."""
        for i, kept in enumerate(structure):
            if str(i) not in self.layers:
                continue
            candidates = self.layers[str(i)].candidates
            for j in set(candidates) - set(map(str, kept)):
                del candidates[j]
            if not candidates:
                del self.layers[str(i)]

    def inherit(self, spec: ArchSpec, shape: Shape) -> ArchNet:
        """Builds a network of the space and fills it with the weights of its path.

        Args:
            spec: The network.
            shape: The same network.

        Returns:
            On the CPU, in eval mode. `reestimate_norms` has to follow: the statistics of its batch
            norms are none yet.
        """
        net = ArchNet(spec, num_classes=self.num_classes, padding="same")
        for name in ("conv_head", "classifier"):
            getattr(net, name).load_state_dict(getattr(self, name).state_dict())
        self.fill(net, shape)
        return net.cpu().eval()

    @torch.no_grad()
    def fill(self, net: Any, shape: Shape) -> None:
        """Fills stem and stages of a network with the weights of its path.

        Blocks whose candidates have left keep the weights that they are built with.

        Args:
            net: An ArchNet of the space, perhaps without its last stages.
            shape: The same network.
        """
        net.stem.load_state_dict(self.stem.state_dict())
        places, left = [0] * len(self.space.depths), self.structure()
        for i, (layer, operator) in enumerate(zip(self.space.layers, shape.operators, strict=True)):
            if operator < 0:
                continue
            name = f"stages.{layer.stage}.{places[layer.stage]}"
            places[layer.stage] += 1
            if operator in left[i] and layer.stage < len(net.stages):
                source = self.layers[str(i)].candidates[str(operator)].block.state_dict()
                for key, tensor in net.get_submodule(name).state_dict().items():
                    tensor.copy_(leading(source[key], tensor))


def leading(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The leading part of a tensor that is as large as another one."""
    return tensor[tuple(slice(0, size) for size in like.shape)]


def drop_parameters(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Leaves parameters alone in an optimizer, with their moments.

    Args:
        optimizer: Optimizer of a network that was restructured.
        parameters: Those that are left.
    """
    kept = set(parameters)
    for group in optimizer.param_groups:
        for gone in (p for p in group["params"] if p not in kept):
            optimizer.state.pop(gone, None)
        group["params"] = [p for p in group["params"] if p in kept]
