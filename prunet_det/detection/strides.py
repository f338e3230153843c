"""Checks that a detector's head lays its anchors where the maps of its backbone are.

MMDetection's configs state strides twice: the backbone's in its defaults, the head's in its anchor
generator. Where the two differ nothing fails, but every box is a factor of two or more off.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from prunet_det.detection.backbone import FeatureBackbone
from prunet_det.detection.bifpn import BiFPN
from prunet_det.detection.detector import OneStageDetector
from prunet_det.utils.errors import InputError

logger = logging.getLogger(__name__)

_SIZE = 1024  # pixels of the image whose maps are looked at


def check_strides(detector: BaseDetector, head: nn.Module) -> None:
    """Compares the finest stride that a head is built for with that of the maps that reach it.

    All strides of a head are a factor off where the backbone's are, so the finest tells.

    Args:
        detector: A detector with its backbone and, if it has one, its neck.
        head: Its head, RPN head or RoI head; one that declares no strides fits.

    Raises:
        InputError: If they differ; the sentence names the `out_strides` that fit, if there are any.
    """
    backbone = detector.backbone
    if not isinstance(backbone, FeatureBackbone):
        return
    for what, strides in _declared(head):
        maps = _map_strides(detector)[: len(strides)]
        if maps[:1] in ([], strides[:1]):
            continue
        raise InputError(
            f"{type(detector).__name__}'s {what} is built for strides {_listed(strides)}, but the "
            f"maps that reach it have {_listed(maps)}; {_advice(detector, strides, maps)}."
        )


def _advice(detector: BaseDetector, strides: Sequence[int], maps: Sequence[int]) -> str:
    """Says what makes a head's strides fit: all of the backbone's that the neck can take.

    Args:
        detector: The detector.
        strides: What the head is built for.
        maps: Strides of the maps that reach it.
    """
    backbone, now = detector.backbone, detector.backbone.out_strides
    neck: Any = detector.neck if detector.with_neck else None
    first = now[0] * strides[0] / maps[0]
    fitting = [s for s in backbone.strides if s >= first]
    if hasattr(neck, "num_outs"):  # FPN and its kin make what they lack
        fitting = fitting[: neck.num_outs + getattr(neck, "start_level", 0)]
        builds = True
    elif isinstance(neck, BiFPN):
        fitting = fitting[: len(neck.out_strides)]
        builds = True
    else:  # as many maps as it has inputs
        fitting = fitting[: len(now)]
        builds = len(fitting) == len(now)
    if not builds or fitting[:1] != [first]:
        return "set the head's strides to those of its maps"
    advice = f"give the backbone out_strides={fitting}"
    if isinstance(detector, OneStageDetector) or not hasattr(neck, "in_channels"):
        return advice
    channels = {f["reduction"]: f["num_chs"] for f in backbone.net.feature_info.info}
    several = isinstance(neck.in_channels, Sequence)
    needed = [channels[s] for s in fitting] if several else channels[first]
    return f"{advice} and the neck in_channels={needed}"


def level_strides(head: nn.Module) -> list[int]:
    """Finds the strides of a one-stage head's levels, on which its anchors lie.

    Args:
        head: Head of a one-stage detector.

    Returns:
        In the order of its outputs; empty if it does not say.
    """
    grid = getattr(head, "grid", None)  # EfficientDetHead's
    return list(grid.strides) if grid is not None else next((s for _, s in _declared(head)), [])


def _declared(head: nn.Module) -> Iterator[tuple[str, list[int]]]:
    """Yields the parts of a head that read the neck's maps, and the strides they are built for."""
    # Guided anchors have one of another name.
    generator = getattr(head, "prior_generator", getattr(head, "approx_anchor_generator", None))
    if generator is not None:
        sides = [s if isinstance(s, Sequence) else (s, s) for s in generator.strides]
        yield type(head).__name__, [int(side[0]) for side in sides]
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        extractors: nn.Module | None = getattr(head, name, None)
        for module in extractors.modules() if extractors is not None else ():
            featmap_strides: Any = getattr(module, "featmap_strides", None)
            if featmap_strides is not None:
                yield type(module).__name__, [int(s) for s in featmap_strides]


def _map_strides(detector: BaseDetector) -> list[int]:
    """Finds the strides of the neck's maps, or of the backbone's where there is no neck.

    It finds none if the neck does not run without memory, or does not take the backbone's maps.
    """
    backbone = detector.backbone
    if not detector.with_neck:
        return list(backbone.out_strides)
    shapes = zip(backbone.out_channels, backbone.out_strides, strict=True)
    try:
        with torch.device("meta"), torch.no_grad():
            neck = copy.deepcopy(detector.neck).to("meta").eval()
            maps = neck([torch.empty(1, chs, _SIZE // s, _SIZE // s) for chs, s in shapes])
        return [round(_SIZE / m.shape[-1]) for m in maps]
    except Exception as e:  # anyone's neck; what is wrong with it shows when it is used
        logger.debug("the strides of %s are not checked: %s", type(detector.neck).__name__, e)
        return []


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))


def _on_registration(parent: nn.Module, name: str, head: nn.Module | None) -> None:
    """Checks a head as its detector takes it: every detector of MMDetection makes it last."""
    if name.endswith("_head") and isinstance(parent, BaseDetector) and head is not None:
        check_strides(parent, head)


register_module_module_registration_hook(_on_registration)
