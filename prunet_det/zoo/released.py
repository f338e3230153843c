"""Tensor names of the checkpoints released for GPUNet, and ArchNet's names for the same tensors.

The originals name modules after their place in a layer list, with blanks and colons:
`network.stage: 3 layer8.conv_pw.weight` in one family, `network.stage: 2 irb5.body.3.weight` in the
other (D1 and D2). Source: NVIDIA DeepLearningExamples, PyTorch/Classification/GPUNet, 729963dd47e7.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch

from prunet_det.arch.spec import ArchSpec, BlockSpec
from prunet_det.utils.errors import InputError

_PARTS = {
    "stem": re.compile(r"network\.head:(?: \d+)?\.net\.(?P<module>\d+)\.(?P<tensor>\w+)"),
    "block": re.compile(
        r"network\.stage: \d+ (?:layer|irb)(?P<layer>\d+)\."
        r"(?P<module>(?:se\.)?\w+|body\.\d+)\.(?P<tensor>\w+)"
    ),
    "tail": re.compile(r"network\.(?: layer\d+|tail:)\.net\.(?P<module>\d+)\.(?P<tensor>\w+)"),
}
_SE = {"se.conv_reduce": "spatial.se.fc1", "se.conv_expand": "spatial.se.fc2"}
_BLOCK_MODULES = {
    "conv": {"conv": "spatial.conv", "bn1": "spatial.bn"},
    "irb": {
        "conv_pw": "expand.conv",
        "bn1": "expand.bn",
        "conv_dw": "spatial.conv",
        "bn2": "spatial.bn",
        **_SE,
        "conv_pwl": "project.conv",
        "bn3": "project.bn",
    },
    "fused_irb": {
        "conv_exp": "spatial.conv",
        "bn1": "spatial.bn",
        **_SE,
        "conv_pwl": "project.conv",
        "bn2": "project.bn",
    },
}


class ReleasedNameError(InputError):
    """A name that no released checkpoint of this network has."""


def is_released(state: Mapping[str, torch.Tensor]) -> bool:
    """Returns True if the tensors are named as in a released GPUNet checkpoint."""
    return any(part.fullmatch(key) for key in state for part in _PARTS.values())


def from_released(spec: ArchSpec, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the tensors of a released checkpoint as ArchNet names them.

    Args:
        spec: Spec of the network that the checkpoint is for.
        state: Tensors of the checkpoint by name.

    Returns:
        The same tensors by their new names; their shapes are not checked.

    Raises:
        ReleasedNameError: If a name is unknown, or the number of layers is not the spec's.
    """
    # (part, layer) to module to tensor name to tensor
    layers: dict[tuple[str, int], dict[str, dict[str, torch.Tensor]]] = defaultdict(dict)
    for key, value in state.items():
        part, match = next(
            ((p, m) for p, pattern in _PARTS.items() if (m := pattern.fullmatch(key))),
            (None, None),
        )
        if part is None or match is None:
            raise ReleasedNameError(f"{key!r} is no name of a released GPUNet checkpoint.")
        layer = int(match.groupdict().get("layer") or 0)
        layers[part, layer].setdefault(match["module"], {})[match["tensor"]] = value

    numbers = sorted(layer for part, layer in layers if part == "block")
    if len(numbers) != len(spec.blocks):
        raise ReleasedNameError(
            f"the checkpoint has {len(numbers)} blocks, {spec.name} {len(spec.blocks)}."
        )
    stem = [f"stem.{i}.{m}" for i in range(len(spec.stem.widths)) for m in ("conv", "bn")]
    hidden = ["pre_logits.0"] if spec.tail.hidden else []
    tail = ["conv_head.conv", "conv_head.bn", *hidden, "classifier"]
    renamed = {**_rename(layers["stem", 0], stem), **_rename(layers["tail", 0], tail)}
    places = [(i, j) for i, stage in enumerate(spec.stages) for j in range(len(stage.blocks))]
    for (i, j), layer, block in zip(places, numbers, spec.blocks, strict=True):
        modules = layers["block", layer]
        ours = _rename_block(modules, block)
        renamed.update({f"stages.{i}.{j}.{name}": value for name, value in ours.items()})
    return renamed


def _rename_block(
    modules: dict[str, dict[str, torch.Tensor]], block: BlockSpec
) -> dict[str, torch.Tensor]:
    names = _BLOCK_MODULES[block.kind]
    if any(name.startswith("body.") for name in modules):
        in_order = [ours for theirs, ours in names.items() if not theirs.startswith("se.")]
        numbered = {name.removeprefix("body."): tensors for name, tensors in modules.items()}
        return _rename(numbered, in_order)
    unknown = modules.keys() - names.keys()
    if unknown:
        raise ReleasedNameError(f"a {block.kind} block has no {sorted(unknown)[0]!r}.")
    return {
        f"{names[module]}.{name}": value
        for module, tensors in modules.items()
        for name, value in tensors.items()
    }


def _rename(
    modules: Mapping[str, dict[str, torch.Tensor]], names: list[str]
) -> dict[str, torch.Tensor]:
    """Gives numbered modules, in the order of their numbers, new names."""
    numbers = sorted(modules, key=int)
    if len(numbers) != len(names):
        raise ReleasedNameError(
            f"the checkpoint has {len(numbers)} modules where {', '.join(names)} are expected."
        )
    return {
        f"{ours}.{name}": value
        for number, ours in zip(numbers, names, strict=True)
        for name, value in modules[number].items()
    }
