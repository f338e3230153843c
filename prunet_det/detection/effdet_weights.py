"""Converting models of the package effdet to OneStageDetector, with the same outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS

from prunet_det.detection.bifpn import BiFPN
from prunet_det.detection.detector import OneStageDetector
from prunet_det.utils.errors import InputError, MissingPackageError
from prunet_det.zoo.weights import CheckpointError, check_fit

if TYPE_CHECKING:
    from omegaconf import DictConfig

# effdet's COCO models have 90 outputs; these ids stand for none of COCO's 80 classes.
_UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
# effdet regresses y, x, height, width; MMDetection's coder x, y, width, height.
_BOX_ORDER = (1, 0, 3, 2)


def detector_config(effdet_config: DictConfig) -> dict[str, Any]:
    """Writes the config of a OneStageDetector that is the same network as effdet's.

    Args:
        effdet_config: Result of `effdet.get_efficientdet_config(name)`.

    Raises:
        InputError: If the config has an option that does not convert.
    """
    c = effdet_config
    for key, supported in (
        ("separable_conv", True),
        ("apply_resample_bn", True),
        ("conv_bn_relu_pattern", False),
        ("downsample_type", "max"),
        ("upsample_type", "nearest"),
        ("act_type", "swish"),
    ):
        if c[key] != supported:
            raise InputError(
                f"effdet's {c.name} has {key} {c[key]!r}; only {supported!r} converts."
            )
    if c.fpn_name not in (None, "bifpn_fa"):
        raise InputError(f"effdet's {c.name} has the pyramid {c.fpn_name!r}; only BiFPN converts.")
    shared = dict(
        norm_cfg=dict(type="BN", **c.norm_kwargs),
        pad_type=c.pad_type,
        conv_bias=bool(c.redundant_bias),
    )
    return dict(
        type="OneStageDetector",
        backbone=dict(
            type="TimmBackbone",
            name=c.backbone_name,
            out_strides=[8, 16, 32],
            timm_args=dict(c.backbone_args or {}),
        ),
        neck=dict(
            type="BiFPN",
            channels=c.fpn_channels,
            num_cells=c.fpn_cell_repeats,
            num_levels=c.num_levels,
            **shared,
        ),
        bbox_head=dict(
            type="EfficientDetHead",
            num_classes=c.num_classes,
            repeats=c.box_class_repeats,
            anchor_scale=c.anchor_scale,
            anchor_octaves=c.num_scales,
            anchor_aspects=[tuple(a) for a in c.aspect_ratios],
            alpha=c.alpha,
            gamma=c.gamma,
            delta=c.delta,
            box_weight=c.box_loss_weight,
            **shared,
        ),
        test_cfg=dict(max_points=c.max_detection_points, max_per_img=c.max_det_per_image),
    )


def convert_state(
    state: Mapping[str, torch.Tensor], detector: OneStageDetector
) -> dict[str, torch.Tensor]:
    """Renames effdet's tensors and reorders the outputs of the box regression.

    Args:
        state: State dict of an effdet EfficientDet.
        detector: Detector built from `detector_config`.

    Returns:
        A state dict that fits `detector` exactly.

    Raises:
        CheckpointError: If a name is unknown, or the result does not fit.
    """
    converted = {_rename(name, detector.neck): value for name, value in state.items()}
    for name in ("weight", "bias"):
        key = f"bbox_head.box_tower.predict.conv_pw.{name}"
        if key in converted:
            by_anchor = converted[key].unflatten(0, (-1, 4))
            converted[key] = by_anchor[:, list(_BOX_ORDER)].flatten(0, 1)
    check_fit(detector.state_dict(), converted, "the effdet checkpoint")
    return converted


def convert_checkpoint(
    name: str, state: Mapping[str, torch.Tensor], coco80: bool = True
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    """Converts a checkpoint of an effdet model to a config and weights of a OneStageDetector.

    Args:
        name: Name of the model in effdet, such as `tf_efficientdet_d0`.
        state: Tensors of the checkpoint by name.
        coco80: Keep only the 80 classes that COCO uses, in its order, if the model has 90.

    Returns:
        The model's config with its normalisation; its state dict; and the config of the Letterbox
        that gives it the pixels that effdet gives its own, to which the published mAP belongs.

    Raises:
        MissingPackageError: If effdet is missing.
        InputError: If effdet has no such model, or it does not convert.
        CheckpointError: If the checkpoint is not of this model.
    """
    try:
        from effdet import get_efficientdet_config
        from effdet.config.model_config import efficientdet_model_param_dict
        from effdet.data.input_config import resolve_input_config
        from effdet.data.transforms import resolve_fill_color
    except ImportError as e:
        raise MissingPackageError(
            "effdet describes its models and is missing: pip install -c constraints.txt effdet."
        ) from e
    if name not in efficientdet_model_param_dict:
        known = ", ".join(n for n in efficientdet_model_param_dict if "efficientdet_d" in n)
        raise InputError(f"effdet has no model {name!r}; those that convert are among {known}.")
    theirs = get_efficientdet_config(name)
    detector_config(theirs)  # says what does not convert, before anything else
    anchors = theirs.num_scales * len(theirs.aspect_ratios)
    key = "class_net.predict.conv_pw"
    for part in ("weight", "bias"):
        if f"{key}.{part}" not in state:
            raise CheckpointError(
                f"the checkpoint has no {key}.{part}; it is no effdet detector's."
            )
    theirs.num_classes = len(state[f"{key}.bias"]) // anchors
    state = dict(state)
    if coco80 and theirs.num_classes == 90:
        kept = [i - 1 for i in range(1, 91) if i not in _UNUSED_COCO_IDS]
        for part in ("weight", "bias"):
            by_anchor = state[f"{key}.{part}"].unflatten(0, (anchors, 90))
            state[f"{key}.{part}"] = by_anchor[:, kept].flatten(0, 1)
        theirs.num_classes = 80
    config = detector_config(theirs)
    with torch.device("meta"):
        detector = MODELS.build(config)
    pixels = resolve_input_config({}, theirs)
    mean, std = ([255 * v for v in pixels[key]] for key in ("mean", "std"))
    config["data_preprocessor"] = dict(
        type="DetDataPreprocessor", mean=mean, std=std, bgr_to_rgb=True, pad_size_divisor=128
    )
    fill = resolve_fill_color(pixels["fill_color"], pixels["mean"])
    letterbox = dict(
        type="Letterbox",
        scale=tuple(theirs.image_size[::-1]),
        antialias=True,
        rounding="floor",
        pad_val=fill[::-1],  # BGR
    )
    return config, convert_state(state, detector), letterbox


def coco_classes(outputs: int) -> list[str]:
    """Lists the classes of effdet's COCO models by their outputs.

    Args:
        outputs: 80, or 90 with those that stand for no class, which are called `unused ID`.
    """
    names = list(CocoDataset.METAINFO["classes"])
    for i in _UNUSED_COCO_IDS if outputs == 90 else ():
        names.insert(i - 1, f"unused {i}")
    return names


def _rename(name: str, neck: BiFPN) -> str:
    part, _, rest = name.partition(".")
    if part == "backbone":
        return f"backbone.net.model.{rest}"
    if part in ("class_net", "box_net"):
        rest = rest.replace("conv_rep.", "convs.")
        rest = re.sub(r"bn_rep\.(\d+)\.(\d+)\.bn\.", r"norms.\1.\2.", rest)
        return f"bbox_head.{part.removesuffix('_net')}_tower.{rest}"
    if extra := re.fullmatch(r"fpn\.resample\.(\d+)\.(.+)", name):
        index = int(extra[1]) - (len(neck.out_strides) - len(neck.extra_levels))
        return f"neck.extra_levels.{index}.{extra[2]}"
    if node := re.fullmatch(r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.(.+)", name):
        cell, index, rest = int(node[1]), int(node[2]), node[3]
        if edge := re.fullmatch(r"combine\.resample\.(\d+)\.(.+)", rest):
            place = neck.nodes[int(index)].inputs.index(int(edge[1]))
            rest = f"resample.{place}.{edge[2]}"
        rest = rest.replace("combine.edge_weights", "edge_weights")
        rest = rest.replace("after_combine.conv.", "conv.")
        return f"neck.cells.{cell}.{index}.{rest}"
    raise CheckpointError(f"{name!r} is no name of an effdet detector.")
