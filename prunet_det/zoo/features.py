"""Networks that return feature maps: choosing their strides, and building timm's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import timm
import torch

from prunet_det.utils.errors import InputError

if TYPE_CHECKING:
    from timm.models._features import FeatureGetterNet

MIN_STRIDE = 8  # of the maps that a detector reads
_PROBE_SIZE = 256  # pixels


def choose_indices(
    strides: Sequence[int],
    out_strides: Sequence[int] | None,
    out_indices: Sequence[int] | None,
    name: str,
) -> tuple[int, ...]:
    """Chooses a network's features by stride or by index.

    Args:
        strides: Strides of the network's features, finest first.
        out_strides: Strides to choose; None for all from MIN_STRIDE upwards.
        out_indices: Indices to choose, in the place of out_strides; -1 is the last.
        name: Name of the network, for messages.

    Returns:
        Indices of the chosen features.

    Raises:
        InputError: If both are given, or the network has no such feature.
    """
    if out_strides is not None and out_indices is not None:
        raise InputError("give out_strides or out_indices, not both.")
    if out_indices is not None:
        if not out_indices or not all(-len(strides) <= i < len(strides) for i in out_indices):
            raise InputError(
                f"out_indices {list(out_indices)} do not fit: {name} has {len(strides)} features."
            )
        return tuple(i % len(strides) for i in out_indices)
    if out_strides is None:
        indices = tuple(i for i, stride in enumerate(strides) if stride >= MIN_STRIDE)
    else:
        indices = tuple(list(strides).index(s) for s in out_strides if s in strides)
    missing = [s for s in out_strides or () if s not in strides]
    if missing or not indices:
        raise InputError(
            f"{name} has no feature of stride {missing[0] if missing else f'{MIN_STRIDE} or more'};"
            f" it has {', '.join(map(str, strides))}."
        )
    return indices


def timm_features(
    name: str,
    out_strides: Sequence[int] | None = None,
    out_indices: Sequence[int] | None = None,
    *,
    check_maps: bool = False,
    **kwargs: Any,
) -> FeatureGetterNet:
    """Builds a timm network that returns feature maps, without pretrained weights.

    Args:
        name: Name of the network in timm.
        out_strides: Strides of the maps, see `choose_indices`.
        out_indices: Indices of the maps, see `choose_indices`.
        check_maps: Check that the maps have the channels and strides that the network declares;
            those of a transformer may not.
        **kwargs: Further arguments of `timm.create_model`.

    Raises:
        InputError: If timm has no such network, or it gives no such maps.
    """
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}; see timm.list_models().")
    options: dict[str, Any] = dict(features_only=True, feature_cls="getter", **kwargs)
    try:
        with torch.device("meta"):  # without memory
            probe = cast("FeatureGetterNet", timm.create_model(name, **options).eval())
            shape = (1, kwargs.get("in_chans", 3), _PROBE_SIZE, _PROBE_SIZE)
            maps = probe(torch.empty(shape)) if check_maps else ()
    except (TypeError, RuntimeError, AssertionError) as e:
        raise InputError(f"timm's {name} cannot give feature maps as a backbone: {e}") from e
    strides = probe.feature_info.reduction()
    sides = [_PROBE_SIZE // stride for stride in strides]
    declared = list(zip(probe.feature_info.channels(), sides, sides, strict=True))
    if check_maps and [tuple(m.shape[1:]) for m in maps] != declared:
        raise InputError(f"timm's {name} does not give the channels and strides that it declares.")
    # What the network returns by default need not begin with its first feature.
    available = cast("tuple[int, ...]", probe.out_indices)
    indices = [available[i] for i in choose_indices(strides, out_strides, out_indices, name)]
    net = timm.create_model(name, out_indices=indices, **options)
    return cast("FeatureGetterNet", net)
