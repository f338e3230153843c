"""Other norms in the place of a timm network's batch norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.layers import BatchNormAct2d, GroupNormAct, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMS = ("BN", "SyncBN", "GN")


def convert_norms(net: nn.Module, norm_cfg: Mapping[str, Any]) -> nn.Module:
    """Replaces the batch norms of `net` as MMDetection's norm_cfg says; names and weights stay.

    torch's own converter to SyncBN must not be used on timm's networks: many of their batch norms
    hold the activation, which it drops.

    Args:
        net: Changed in place.
        norm_cfg: `type` is BN (nothing to convert), SyncBN or GN; `num_groups` [32] is for GN and
            lowered to what divides the channels; `requires_grad` [True] is for all.

    Raises:
        ValueError: An unknown type or key.
    """
    cfg = {"num_groups": 32, "requires_grad": True, **norm_cfg}
    kind, groups, trained = cfg.pop("type", None), cfg.pop("num_groups"), cfg.pop("requires_grad")
    if kind not in NORMS:
        raise ValueError(f"norm_cfg's type must be one of {', '.join(NORMS)}, got {kind!r}.")
    if cfg:
        raise ValueError(f"norm_cfg of a backbone takes no {next(iter(cfg))!r}.")
    if kind == "SyncBN":
        net = convert_sync_batchnorm(net)
    elif kind == "GN":
        for name, module in list(net.named_modules()):
            if isinstance(module, _BatchNorm):
                parent, _, last = name.rpartition(".")
                setattr(net.get_submodule(parent), last, _group_norm(module, groups))
    if not trained:
        for module in net.modules():
            if isinstance(module, (_BatchNorm, nn.GroupNorm)):
                module.requires_grad_(False)
    return net


def _group_norm(norm: _BatchNorm, num_groups: int) -> nn.GroupNorm:
    groups = math.gcd(norm.num_features, num_groups)
    if not isinstance(norm, BatchNormAct2d):
        return nn.GroupNorm(groups, norm.num_features, eps=norm.eps)
    converted = GroupNormAct(norm.num_features, groups, eps=norm.eps)
    converted.drop, converted.act = norm.drop, norm.act
    return converted


def activated_norms(net: nn.Module) -> list[str]:
    """Names of the norms that hold an activation."""
    return [
        name
        for name, module in net.named_modules()
        if hasattr(module, "act") and (isinstance(module, (_BatchNorm, nn.GroupNorm)))
    ]
