"""Loading weights: tolerant about containers and heads, strict about the backbone, counted."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prunet_det.arch.network import ArchNet
from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.io import atomic_path
from prunet_det.zoo.released import ReleasedNameError, from_released, is_released

# Where training frameworks keep the tensors, averaged ones first. (mmengine's `ema_state_dict`
# holds the raw weights: its EMA hook swaps the averaged ones into `state_dict` before saving.)
_CONTAINERS = ("state_dict_ema", "state_dict", "model")
# What wrappers put before the names of a network; tried in this order, the longest match first.
_PREFIXES = ("module.", "model.", "backbone.", "net.")
_HEAD = ("conv_head.", "pre_logits.", "classifier.")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the sentence says why."""


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    Attributes:
        loaded, total: Backbone tensors loaded, and in the model.
        head_loaded: Whether the classifier's tensors were loaded too.
        source: The file.
    """

    loaded: int
    total: int
    head_loaded: bool
    source: str

    def __str__(self) -> str:
        head = ", classifier included" if self.head_loaded else ", classifier not loaded"
        return f"{self.loaded}/{self.total} backbone tensors from {self.source}{head}"


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors in a safetensors file or in a PyTorch file, read without unpickling code.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, holds more than tensors, or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # timm's training checkpoints hold their arguments, a class without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]):
            data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"{path} is damaged or holds pickled objects, which are not read for safety. A "
            "training checkpoint (iter_*.pth) is for --resume only; name the weights.safetensors "
            "beside it instead."
        ) from e
    except Exception as e:  # bytes that are no checkpoint fail in as many ways as there are bytes
        raise CheckpointError(f"{path} is truncated or no checkpoint: {e}.") from e
    for key in _CONTAINERS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
            break
    is_map = isinstance(data, Mapping)
    tensors = {k: v for k, v in data.items() if torch.is_tensor(v)} if is_map else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors under a name that is known.")
    return tensors


def _strip_prefixes(state: dict[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """Removes wrapper prefixes as long as that makes more names fit."""
    while True:
        hits = len(wanted & state.keys())
        for prefix in _PREFIXES:
            shorter = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            if len(wanted & shorter.keys()) > hits or (not hits and shorter):
                state = shorter
                break
        else:
            return state


def check_fit(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str
) -> None:
    """Raises CheckpointError unless `state` has exactly the names and shapes of `own`."""
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    problems = {
        "is missing": [k for k in own if k not in state],
        "is not in the model": [k for k in state if k not in own],
        "has another shape": wrong,
    }
    for what, names in problems.items():
        if names:
            fits = len(own.keys() & state.keys()) - len(wrong)
            raise CheckpointError(
                f"{source} does not fit the model: {names[0]} {what} ({fits}/{len(own)} tensors "
                "fit); use the config that it was trained with."
            )


def load_all_weights(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Loads every tensor of a model from a checkpoint of the same model.

    Returns:
        The number of tensors.

    Raises:
        FileNotFoundError, CheckpointError: See `read_state_dict`; also where a tensor is missing,
            left over or of another shape.
    """
    own, state = model.state_dict(), read_state_dict(path)
    check_fit(own, state, str(path))
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])
    return len(own)


def save_safetensors(
    state: Mapping[str, torch.Tensor], path: str | os.PathLike[str], half: bool = False
) -> None:
    """Writes tensors to a safetensors file, atomically.

    Args:
        state: Name to tensor.
        path: The file.
        half: Store floating-point tensors as FP16.
    """
    tensors = {}
    for key, value in state.items():
        value = value.detach().cpu()
        if half and value.is_floating_point():
            value = value.half()
            if not torch.isfinite(value).all():
                raise ValueError(f"{key} does not fit into FP16; store the weights in full.")
        tensors[key] = value.contiguous().clone()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def convert_released(spec: ArchSpec, path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """A checkpoint that was released for GPUNet under our names, every tensor of it.

    Args:
        spec: The network that it is for; the number of classes is the checkpoint's.
        path: See `read_state_dict`.

    Raises:
        FileNotFoundError, CheckpointError: See `read_state_dict`; also where a name is unknown, or
            a tensor is missing, left over or of another shape.
    """
    released = read_state_dict(path)
    if not is_released(released):
        raise CheckpointError(
            f"{path} has none of the names of a released GPUNet checkpoint; if it is another "
            "kind of checkpoint, it needs no conversion to be loaded."
        )
    try:
        state = from_released(spec, released)
    except ReleasedNameError as e:
        raise CheckpointError(f"{path} is a GPUNet checkpoint of another network: {e}") from e
    if "classifier.weight" not in state:
        raise CheckpointError(f"{path} has no classifier.weight.")
    with torch.device("meta"):
        model = ArchNet(spec, num_classes=len(state["classifier.weight"]))
    check_fit(model.state_dict(), state, str(path))
    return state


def _classifier_prefixes(model: Any) -> list[str]:
    """Where timm says that a network of its own has its classifier."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return [f"{name}." for name in ((names,) if isinstance(names, str) else names)]


def load_backbone_weights(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Loads a checkpoint into a network, with or without classifier, or into its features alone.

    Every backbone tensor must be there in its shape. Of the classifier and the convolutions before
    it, those tensors are loaded that fit; what the checkpoint holds beyond the model is ignored.

    Args:
        model: An ArchNet, timm's feature extractor around one, or any timm model.
        path: See `read_state_dict`.

    Returns:
        The counts.

    Raises:
        FileNotFoundError, CheckpointError: See `read_state_dict`; also where no tensor or not
            every backbone tensor fits.
    """
    target: Any = model.model if isinstance(getattr(model, "model", None), nn.Module) else model
    own = target.state_dict()
    state = read_state_dict(path)
    if is_released(state):
        try:
            state = from_released(target.spec, state)
        except (ReleasedNameError, AttributeError) as e:
            raise CheckpointError(f"{path} is a GPUNet checkpoint of another network: {e}") from e
    state = _strip_prefixes(state, set(own))
    head = (*_HEAD, *_classifier_prefixes(target))
    head_names = [k for k in own if k.startswith(head)]
    backbone = [k for k in own if not k.startswith(head)]
    missing = [k for k in backbone if k not in state]
    if len(missing) == len(backbone):
        raise CheckpointError(
            f"0/{len(backbone)} backbone tensors from {path}: no name fits; it belongs to another "
            "network."
        )
    wrong = [k for k in backbone if k in state and state[k].shape != own[k].shape]
    if missing or wrong:
        name = (missing or wrong)[0]
        what = (
            f"{name} is missing"
            if missing
            else f"{name} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        )
        fits = len(backbone) - len(missing) - len(wrong)
        raise CheckpointError(
            f"only {fits}/{len(backbone)} backbone tensors from {path} fit ({what}); it belongs to "
            "another network."
        )
    head_fits = [k for k in head_names if k in state and state[k].shape == own[k].shape]
    with torch.no_grad():
        for key in (*backbone, *head_fits):
            own[key].copy_(state[key])
    head_loaded = bool(head_names) and len(head_fits) == len(head_names)
    return LoadReport(len(backbone), len(backbone), head_loaded, str(path))
