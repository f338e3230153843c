"""timm entry points, one a spec file, and `create` for everything that is not a name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model
from torch import nn

from prunet_det.arch.network import ArchNet
from prunet_det.arch.spec import ArchSpec
from prunet_det.zoo.registry import ALIASES, load_spec, model_names, resolve_spec
from prunet_det.zoo.weights import load_backbone_weights


def _data_cfg(spec: ArchSpec) -> dict[str, Any]:
    return dict(
        url="",
        num_classes=1000,
        input_size=(3, spec.input_size, spec.input_size),
        interpolation="bicubic",
        crop_pct=spec.crop_pct,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv="stem.0.conv",
        classifier="classifier",
    )


def _build(spec: ArchSpec, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    if pretrained:
        raise ValueError(
            f"no pretrained weights are published for {variant}; create it with pretrained=False, "
            "and load your own with prunet_det.create(..., checkpoint=FILE)."
        )
    kwargs.setdefault("pretrained_cfg", _data_cfg(spec))
    features = len(list(spec.feature_stages()))
    return build_model_with_cfg(
        partial(ArchNet, spec),
        variant,
        pretrained=False,
        feature_cfg=dict(out_indices=tuple(range(features)), feature_cls="getter"),
        **kwargs,
    )


def create(
    arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec,
    checkpoint: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Builds a network and, where `checkpoint` is given, loads it tolerantly.

    Args:
        arch: A name, the path of a spec file, a dict or an ArchSpec.
        checkpoint: A safetensors or weights-only PyTorch file, with or without a classifier (of
            any class count), from a classifier or a detector; see `load_backbone_weights`.
        **kwargs: timm's: num_classes, in_chans, drop_rate, drop_path_rate, global_pool,
            features_only, out_indices; and `padding`, see ArchNet.

    Returns:
        An ArchNet, or timm's feature extractor around one with `features_only=True`.
    """
    spec = resolve_spec(arch)
    model = _build(spec, spec.name, **kwargs)
    if checkpoint is not None:
        print(load_backbone_weights(model, checkpoint))
    return model


def _make_entrypoint(name: str, spec: ArchSpec) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(spec, name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = f"{name}, provenance: {spec.provenance.kind}."
    return entrypoint


default_cfgs: dict[str, dict[str, Any]] = {}
for _name in (*model_names(), *ALIASES):
    _spec = load_spec(_name)
    default_cfgs[_name] = _data_cfg(_spec)
    globals()[_name] = register_model(_make_entrypoint(_name, _spec))
