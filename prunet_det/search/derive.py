"""A supernet's weights in the network that the search decided on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunet_det.arch.network import ArchNet
from prunet_det.arch.spec import ArchSpec
from prunet_det.search.old_supernet import SuperNet
from prunet_det.search.prunode import Prunode
from prunet_det.search.space import Network


def inherit(
    supernet: SuperNet, spec: ArchSpec, network: Network, keys: list[str | None]
) -> ArchNet:
    """Builds a network and fills it with the supernet's weights.

    Where repair made a block wider than the supernet still is, the further channels keep their
    fresh weights and a projection of zero: the block's function is the supernet's.

    Args:
        supernet: At the end of the search.
        spec: Of the network.
        network: The same, one entry a layer of the space.
        keys: The candidate that each layer decided on; None where it is skipped, or where the block
            is of another operator and starts afresh.

    Returns:
        On the CPU, in eval mode; its batch norms' statistics are those of the supernet's mixtures,
        so `reestimate_norms` has to follow.
    """
    net = ArchNet(spec, num_classes=supernet.num_classes, padding="same")
    for name in ("stem", "conv_head", "classifier"):
        getattr(net, name).load_state_dict(getattr(supernet, name).state_dict())
    places = [0] * len(net.stages)
    for i, (layer, block) in enumerate(zip(supernet.space.layers, network, strict=True)):
        if block is None:
            continue
        target: Any = net.get_submodule(f"stages.{layer.stage}.{places[layer.stage]}")
        places[layer.stage] += 1
        key = keys[i]
        if key is not None and str(i) in supernet.layers:
            candidates = supernet.layers[str(i)].candidates
            if key in candidates:
                _fill(target, candidates[key])
    return net.cpu().eval()


@torch.no_grad()
def _fill(block: nn.Module, candidate: Prunode) -> None:
    source = candidate.block.state_dict()
    for name, tensor in block.state_dict().items():
        have = source[name].to(tensor.device)
        reads_hidden = name in ("project.conv.weight", "spatial.se.fc1.weight")
        if reads_hidden and tensor.shape[1] > have.shape[1]:
            tensor.zero_()  # channels that are new change nothing
        common = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, have.shape, strict=True))
        tensor[common] = have[common]
