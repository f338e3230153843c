"""Replacing the batch norms of timm networks by other norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.layers import BatchNormAct2d, GroupNormAct, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.utils.errors import InputError

NORMS = ("BN", "SyncBN", "GN")


def convert_norms(net: nn.Module, norm_cfg: Mapping[str, Any]) -> nn.Module:
    """Replaces batch norms by the norms of an MMDetection norm_cfg; names and weights stay.

    torch's own converter to SyncBN must not be used on timm's networks: many of their batch norms
    hold the activation, which it drops.

    Args:
        net: Network; changed in place.
        norm_cfg: `type` is BN (nothing to convert), SyncBN or GN; `num_groups` (32 by default) is
            for GN and is lowered to a divisor of the channels; `requires_grad` (True by default)
            is for all.

    Returns:
        The network.

    Raises:
        InputError: If a type or key is unknown, or the network has no batch norms.
    """
    cfg = {"num_groups": 32, "requires_grad": True, **norm_cfg}
    kind, groups, trained = cfg.pop("type", None), cfg.pop("num_groups"), cfg.pop("requires_grad")
    if kind not in NORMS:
        raise InputError(f"norm_cfg's type must be one of {', '.join(NORMS)}, got {kind!r}.")
    if cfg:
        raise InputError(f"norm_cfg of a backbone takes no {next(iter(cfg))!r}.")
    batch_norms = {n: m for n, m in net.named_modules() if isinstance(m, _BatchNorm)}
    if not batch_norms:
        raise InputError(f"{type(net).__name__} has no batch norms to turn into {kind}.")
    if kind == "SyncBN":
        net = convert_sync_batchnorm(net)
    elif kind == "GN":
        for name, module in batch_norms.items():
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, _group_norm(module, groups))
    if not trained:
        for name in batch_norms:
            net.get_submodule(name).requires_grad_(False)
    return net


def _group_norm(norm: _BatchNorm, num_groups: int) -> nn.GroupNorm:
    """Makes a group norm with the batch norm's weight and bias, so that an initial zero stays."""
    groups = math.gcd(norm.num_features, num_groups)
    converted: nn.GroupNorm
    if isinstance(norm, BatchNormAct2d):
        activated = GroupNormAct(norm.num_features, groups, eps=norm.eps, affine=norm.affine)
        activated.drop, activated.act = norm.drop, norm.act
        converted = activated
    else:
        converted = nn.GroupNorm(groups, norm.num_features, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        converted.weight, converted.bias = norm.weight, norm.bias
    return converted


def check_activations(net: nn.Module) -> None:
    """Refuses a network whose activations torch's converter to SyncBN has dropped.

    Raises:
        InputError: If a SyncBN holds an activation that it does not call.
    """
    for name, module in net.named_modules():
        # The converter keeps the activation as a child of a norm that does not call it.
        if type(module) is nn.SyncBatchNorm and hasattr(module, "act"):
            raise InputError(
                f"the conversion to SyncBN dropped the activation in {name}; leave sync_bn out of "
                "the config (a detector's backbone takes norm_cfg=dict(type='SyncBN') instead)."
            )
