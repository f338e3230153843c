"""Networks by name: their specs, `create`, and a timm entry point for each."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model, resolve_pretrained_cfg
from torch import nn

from prunet_det.arch.network import ArchNet
from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.errors import InputError
from prunet_det.zoo.weights import checkpoint_filter_fn, load_backbone_weights

logger = logging.getLogger(__name__)

SPEC_DIR = Path(__file__).parent / "specs"
ALIASES = {"gpunet_p0": "prunet_p0", "gpunet_p1": "prunet_p1"}


class UnknownModelError(InputError, KeyError):
    """A name that no spec file has; the message lists the known names."""

    def __str__(self) -> str:
        return str(self.args[0])


@cache
def model_names() -> tuple[str, ...]:
    """Lists the names of the networks, without aliases."""
    return tuple(sorted(path.stem for path in SPEC_DIR.glob("*.json")))


@cache
def load_spec(name: str) -> ArchSpec:
    """Loads the spec of a named network or alias.

    Raises:
        UnknownModelError: If no network has this name.
    """
    known = model_names()
    stem = ALIASES.get(name, name)
    if stem not in known:
        near = difflib.get_close_matches(name, (*known, *ALIASES), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownModelError(
            f"there is no network {name!r}; the known ones are {', '.join(known)}.{hint}"
        )
    return ArchSpec.load(SPEC_DIR / f"{stem}.json")


def resolve_spec(arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec) -> ArchSpec:
    """Returns the spec of a name, of the path of a spec file (*.json), of a dict, or of a spec.

    Raises:
        UnknownModelError: If no network has this name.
        MissingFileError: If there is no such spec file.
        SpecError: If the spec is not valid.
    """
    if isinstance(arch, ArchSpec):
        return arch
    if isinstance(arch, Mapping):
        return ArchSpec.from_dict(arch)
    text = os.fspath(arch)
    if text.endswith(".json") or os.sep in text:
        return ArchSpec.load(text)
    return load_spec(text)


def _data_cfg(spec: ArchSpec) -> dict[str, Any]:
    return dict(
        url="",
        num_classes=1000,
        input_size=(3, spec.input_size, spec.input_size),
        pool_size=spec.output_size((spec.input_size, spec.input_size)),
        interpolation="bicubic",
        crop_pct=spec.crop_pct,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv="stem.0.conv",
        classifier="classifier",
    )


def _build(spec: ArchSpec, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    kwargs["pretrained_cfg"] = kwargs.get("pretrained_cfg") or _data_cfg(spec)
    if pretrained:
        overlay = kwargs.get("pretrained_cfg_overlay")
        source = resolve_pretrained_cfg(variant, kwargs["pretrained_cfg"], overlay)
        if not (source.has_weights or source.state_dict):
            raise InputError(
                f"no pretrained weights are published for {variant}; load your own with "
                "prunet_det.create(..., checkpoint=FILE), or give timm their source with "
                "pretrained_cfg_overlay=dict(file=FILE)."
            )
    deepest = spec.strides()[-1]
    if kwargs.pop("output_stride", deepest) != deepest:
        raise InputError(f"{variant} has the output_stride {deepest}; it cannot be dilated.")
    features = len(list(spec.feature_stages()))
    feature_cfg = dict(out_indices=tuple(range(features)), feature_cls="getter")
    return build_model_with_cfg(
        partial(ArchNet, spec),
        variant,
        pretrained,
        feature_cfg={**feature_cfg, **kwargs.pop("feature_cfg", {})},
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )


def create(
    arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec,
    checkpoint: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Builds a network and, if a checkpoint is given, loads its weights.

    Args:
        arch: Name of a network, path of a spec file (*.json), a spec as a dict, or a spec.
        checkpoint: A safetensors or weights-only PyTorch file of a classifier or a detector, with
            or without a classifier (of any class count); see `load_backbone_weights`.
        **kwargs: timm's num_classes, in_chans, drop_rate, drop_path_rate, global_pool,
            features_only and out_indices, and ArchNet's padding.

    Returns:
        An ArchNet, or timm's feature extractor around one with `features_only=True`.

    Raises:
        UnknownModelError: If no network has this name.
        MissingFileError: If there is no such spec file or checkpoint.
        SpecError: If the spec is not valid.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """
    spec = resolve_spec(arch)
    model = _build(spec, spec.name, **kwargs)
    if checkpoint is not None:
        logger.info("%s", load_backbone_weights(model, checkpoint))
    return model


default_cfgs = {name: _data_cfg(load_spec(name)) for name in (*model_names(), *ALIASES)}


@register_model
def gpunet_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GPUNet-0, as published."""
    return _build(load_spec("gpunet_0"), "gpunet_0", pretrained, **kwargs)


@register_model
def gpunet_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GPUNet-1, as published."""
    return _build(load_spec("gpunet_1"), "gpunet_1", pretrained, **kwargs)


@register_model
def gpunet_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GPUNet-2, as published."""
    return _build(load_spec("gpunet_2"), "gpunet_2", pretrained, **kwargs)


@register_model
def gpunet_d1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GPUNet-D1, as published."""
    return _build(load_spec("gpunet_d1"), "gpunet_d1", pretrained, **kwargs)


@register_model
def gpunet_d2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GPUNet-D2, as published."""
    return _build(load_spec("gpunet_d2"), "gpunet_d2", pretrained, **kwargs)


@register_model
def prunet_demo(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A small network written by hand for CPUs and tests; not a result of the search."""
    return _build(load_spec("prunet_demo"), "prunet_demo", pretrained, **kwargs)


@register_model
def prunet_l(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Searched for 1.80 ms on a V100 at 512 px, on crops of digits."""
    return _build(load_spec("prunet_l"), "prunet_l", pretrained, **kwargs)


@register_model
def prunet_m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Searched for 1.09 ms on a V100 at 512 px, on crops of digits."""
    return _build(load_spec("prunet_m"), "prunet_m", pretrained, **kwargs)


@register_model
def prunet_n(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Searched for 0.50 ms on a V100 at 512 px, on crops of digits."""
    return _build(load_spec("prunet_n"), "prunet_n", pretrained, **kwargs)


@register_model
def prunet_p0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PruNet P0, published as GPUNet-P0; reaches stride 64."""
    return _build(load_spec("prunet_p0"), "prunet_p0", pretrained, **kwargs)


@register_model
def prunet_p1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PruNet P1, published as GPUNet-P1; reaches stride 64."""
    return _build(load_spec("prunet_p1"), "prunet_p1", pretrained, **kwargs)


@register_model
def prunet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Searched for 0.83 ms on a V100 at 512 px, on crops of digits."""
    return _build(load_spec("prunet_s"), "prunet_s", pretrained, **kwargs)


@register_model
def prunet_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Searched for 0.65 ms on a V100 at 512 px, on crops of digits."""
    return _build(load_spec("prunet_t"), "prunet_t", pretrained, **kwargs)


@register_model
def gpunet_p0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Alias of prunet_p0, under the name of its publication."""
    return _build(load_spec("gpunet_p0"), "gpunet_p0", pretrained, **kwargs)


@register_model
def gpunet_p1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Alias of prunet_p1, under the name of its publication."""
    return _build(load_spec("gpunet_p1"), "gpunet_p1", pretrained, **kwargs)
