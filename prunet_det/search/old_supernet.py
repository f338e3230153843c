"""Tier 3: all layers of a space at once; layers leave when the search no longer wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from prunet_det.arch.blocks import conv_bn_act
from prunet_det.arch.network import init_weights
from prunet_det.search.layer import LayerMixture, SearchLayer
from prunet_det.search.prunode import leading
from prunet_det.search.space import SearchSpace

# What is left of a supernet: for every layer its candidates' widths, or None where it is gone.
Structure = list[dict[str, int] | None]
BN_EPS = 1e-3


class SuperNet(nn.Module):
    """Stem, search layers, and a classifier.

    The architecture's own weights live outside, in `Architecture`: every parameter here is an
    ordinary one of the networks', used in every step.

    Args:
        space: What may be chosen.
        num_classes: Of the classifier.

    Shapes:
        (N, 3, H, W) and a mixture a layer to (N, num_classes).
    """

    def __init__(self, space: SearchSpace, num_classes: int) -> None:
        super().__init__()
        self.space, self.num_classes = space, num_classes
        self.stem = nn.Sequential(
            conv_bn_act(3, space.stem, 3, stride=2, act=space.act, bn_eps=BN_EPS)
        )
        self.layers: Any = nn.ModuleDict(
            {str(i): SearchLayer(layer, BN_EPS) for i, layer in enumerate(space.layers)}
        )
        chs = space.layers[-1].out_chs
        self.conv_head = conv_bn_act(chs, space.tail, act="relu", bn_eps=BN_EPS)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.classifier = nn.Linear(space.tail, num_classes)
        self.apply(init_weights)

    def forward(
        self, images: torch.Tensor, mixtures: Sequence[LayerMixture | None]
    ) -> torch.Tensor:
        """Args: images, and for every layer of the space its mixture, None where it is gone."""
        x = self.stem(images)
        for key, layer in self.layers.items():
            mixture = mixtures[int(key)]
            assert mixture is not None, "a layer that is here has a mixture"
            x = layer(x, mixture)
        return self.classifier(self.global_pool(self.conv_head(x)))

    def structure(self) -> Structure:
        """What is left."""
        count = len(self.space.layers)
        here = {int(key): layer.structure() for key, layer in self.layers.items()}
        return [here.get(i) for i in range(count)]

    def restructure(self, structure: Structure) -> None:
        """Drops and narrows whatever the structure no longer has; never grows anything."""
        for i, widths in enumerate(structure):
            key = str(i)
            if widths is None:
                if key in self.layers:
                    del self.layers[key]
            else:
                self.layers[key].restructure(widths)


def rebind_optimizer(
    optimizer: torch.optim.Optimizer,
    before: dict[str, nn.Parameter],
    after: dict[str, nn.Parameter],
) -> None:
    """Puts a restructured network's parameters in the place of the old ones.

    Moments are cut like the weights; what left the network leaves the optimizer.

    Args:
        optimizer: Of the network.
        before, after: Name to parameter, from before and after `restructure`.
    """
    heirs = {id(old): after.get(name) for name, old in before.items()}
    for group in optimizer.param_groups:
        kept = []
        for old in group["params"]:
            new = heirs[id(old)]
            if new is None:
                optimizer.state.pop(old, None)
                continue
            kept.append(new)
            if new is old or old not in optimizer.state:
                continue
            state = optimizer.state.pop(old)
            optimizer.state[new] = {
                k: v[leading(new)].clone() if torch.is_tensor(v) and v.shape == old.shape else v
                for k, v in state.items()
            }
        group["params"] = kept
