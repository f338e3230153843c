"""Reading and writing weights; loading is lenient about wrappers and heads, not about backbones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from prunet_det.arch.network import ArchNet
from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import atomic_path
from prunet_det.zoo.containers import CheckpointError, read_state_dict, unwrap_tensors
from prunet_det.zoo.imagenet import IMAGENET, imagenet_file, name_as_timm
from prunet_det.zoo.released import ReleasedNameError, from_released, is_released

# Prefixes that wrappers put before a network's tensor names, in the order of trying.
_PREFIXES = ("module.", "model.", "backbone.", "net.")
_HEAD = ("conv_head.", "pre_logits.", "classifier.")


def refuse_pretrained(cfg: object) -> None:
    """Refuses mmengine's loader of pretrained weights anywhere in a model's config.

    Raises:
        InputError: If it is there, for it would unpickle the file.
    """
    if isinstance(cfg, Mapping):
        if cfg.get("type") in ("Pretrained", "PretrainedInit"):
            raise InputError(
                "init_cfg's type Pretrained would unpickle the file; start a detector's backbone "
                "with model.backbone.checkpoint=FILE, a classifier with model.checkpoint=FILE."
            )
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            refuse_pretrained(part)


@dataclass(frozen=True)
class LoadReport:
    """Result of loading a checkpoint.

    Attributes:
        loaded: Number of backbone tensors that were loaded.
        total: Number of backbone tensors in the model.
        head_loaded: True if all of the classifier's tensors were loaded too.
        source: Path of the checkpoint.
    """

    loaded: int
    total: int
    head_loaded: bool
    source: str

    def __str__(self) -> str:
        head = ", classifier included" if self.head_loaded else ", classifier not loaded"
        return f"{self.loaded}/{self.total} backbone tensors from {self.source}{head}"


def strip_prefixes(state: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """Removes prefixes of wrappers as long as that makes more of a model's names fit.

    Args:
        state: Tensors by name.
        names: Names of the model's tensors.
    """
    while True:
        hits = len(names & state.keys())
        for prefix in _PREFIXES:
            shorter = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            if len(names & shorter.keys()) > hits or (not hits and shorter):
                state = shorter
                break
        else:
            return state


def check_fit(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str
) -> None:
    """Checks that a state dict has exactly a model's names and shapes.

    Args:
        expected: State dict of the model.
        state: State dict to load into it.
        source: Origin of `state`, for the message.

    Raises:
        CheckpointError: If a tensor is missing, not in the model, or of another shape.
    """
    wrong = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    problems = {
        "is missing": [k for k in expected if k not in state],
        "is not in the model": [k for k in state if k not in expected],
        "has another shape": wrong,
    }
    for problem, names in problems.items():
        if names:
            fits = len(expected.keys() & state.keys()) - len(wrong)
            raise CheckpointError(
                f"{source} does not fit the model: {names[0]} {problem} ({fits}/{len(expected)} "
                "tensors fit); use the config that it was trained with."
            )


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns the names of tensors that hold a NaN or an infinity."""
    return [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]


def check_finite(state: Mapping[str, torch.Tensor], names: Iterable[str], source: str) -> None:
    """Refuses weights of a training that diverged.

    Args:
        state: Tensors by name.
        names: Those that are loaded.
        source: Origin of `state`, for the message.

    Raises:
        CheckpointError: If a tensor is not finite.
    """
    taken = {name: state[name] for name in names}
    wrong = not_finite(taken)
    if wrong:
        raise CheckpointError(
            f"{source}: {len(wrong)} of {len(taken)} tensors ({wrong[0]}, ...) are not finite; the "
            "training that wrote them diverged."
        )


def load_all_weights(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Loads every tensor of a model from a checkpoint of the same model.

    Args:
        model: Model to load the weights into.
        path: Checkpoint, see `read_state_dict`.

    Returns:
        The number of tensors.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read, or a tensor is missing, not in the model, of another
            shape, or not finite.
    """
    target, state = model.state_dict(), read_state_dict(path)
    check_fit(target, state, str(path))
    check_finite(state, target, str(path))
    with torch.no_grad():
        for key, tensor in target.items():
            tensor.copy_(state[key])
    return len(target)


def save_safetensors(
    state: Mapping[str, torch.Tensor], path: str | os.PathLike[str], half: bool = False
) -> None:
    """Writes tensors to a safetensors file, atomically.

    Args:
        state: Tensors by name.
        path: File to write.
        half: Store floating-point tensors as FP16.

    Raises:
        InputError: If a value does not fit into FP16.
        OSError: If the file cannot be written, for a full disk as well.
    """
    tensors = {}
    for key, value in state.items():
        value = value.detach().cpu()
        if half and value.is_floating_point():
            value = value.half()
            if not torch.isfinite(value).all():
                raise InputError(f"{key} does not fit into FP16; store the weights in full.")
        tensors[key] = value.contiguous().clone()
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as e:  # what the operating system says, as text
            refused = re.search(r"\(os error (\d+)\)", str(e))
            if refused is None:
                raise
            number = int(refused[1])
            raise OSError(number, os.strerror(number), os.fspath(path)) from e


def convert_released(spec: ArchSpec, path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads a checkpoint released for GPUNet and renames all of its tensors as ArchNet names them.

    Args:
        spec: Spec of the network that the checkpoint is for.
        path: Checkpoint, see `read_state_dict`; it may have any number of classes.

    Returns:
        A state dict that fits an ArchNet of the spec exactly.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read, or is not a checkpoint of this network.
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


def _classifier_prefixes(model: nn.Module) -> list[str]:
    """Returns the prefixes of the classifier's tensors, as timm declares them."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return [f"{name}." for name in ((names,) if isinstance(names, str) else names)]


def checkpoint_filter_fn(
    state: dict[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """Names the tensors of a checkpoint as a network does; timm calls it for pretrained weights.

    Args:
        state: Tensors by name: of the network, of a wrapper around it, or as released for GPUNet.
        model: The network.

    Raises:
        ReleasedNameError: If they are a GPUNet's, and the network is another one.
    """
    state = unwrap_tensors(state)
    if not is_released(state):
        return strip_prefixes(state, set(model.state_dict()))
    if not isinstance(model, ArchNet):
        raise ReleasedNameError(f"it does not fit a {type(model).__name__}.")
    return from_released(model.spec, state)


def inner_network(model: nn.Module) -> nn.Module:
    """Returns the network within timm's feature extractor, or the model itself."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) else model


def read_network_weights(
    network: nn.Module, path: str | os.PathLike[str]
) -> dict[str, torch.Tensor]:
    """Reads a classifier's or a detector's weights under the names of a network.

    Args:
        network: An ArchNet or any timm model, without a feature extractor around it.
        path: Checkpoint, see `read_state_dict`; or `imagenet`, see `imagenet_file`.

    Returns:
        Tensors by name; whether they fit is not checked.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read, or is a GPUNet's that is another network.
        MissingPackageError: If the package of the ImageNet weights is not installed.
    """
    if os.fspath(path) == IMAGENET:
        return name_as_timm(network, read_state_dict(imagenet_file(network)))
    try:
        return checkpoint_filter_fn(read_state_dict(path), network)
    except ReleasedNameError as e:
        raise CheckpointError(f"{path} is a GPUNet checkpoint of another network: {e}") from e


def check_backbone(
    network: nn.Module, state: Mapping[str, torch.Tensor], source: str
) -> tuple[list[str], list[str]]:
    """Checks that tensors hold the whole backbone of a network.

    Args:
        network: The network.
        state: Tensors under the names of the network.
        source: Origin of the tensors, for the message.

    Returns:
        The names of the network's backbone tensors, and those of its classifier and of the
        convolutions before it.

    Raises:
        CheckpointError: If a backbone tensor is missing or of another shape.
    """
    tensors = network.state_dict()
    head = (*_HEAD, *_classifier_prefixes(network))
    backbone = [k for k in tensors if not k.startswith(head)]
    missing = [k for k in backbone if k not in state]
    if len(missing) == len(backbone):
        raise CheckpointError(
            f"0/{len(backbone)} backbone tensors from {source}: no name fits; it belongs to "
            "another network."
        )
    wrong = [k for k in backbone if k in state and state[k].shape != tensors[k].shape]
    if missing or wrong:
        name = (missing or wrong)[0]
        what = (
            f"{name} is missing"
            if missing
            else f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensors[name].shape)}"
        )
        fits = len(backbone) - len(missing) - len(wrong)
        raise CheckpointError(
            f"only {fits}/{len(backbone)} backbone tensors from {source} fit ({what}); it belongs "
            "to another network."
        )
    return backbone, [k for k in tensors if k.startswith(head)]


def load_backbone_weights(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Loads the backbone's weights and, as far as they fit, the classifier's.

    The checkpoint must hold every backbone tensor in its shape. Tensors of the classifier and of
    the convolutions before it are loaded if they fit; all others are ignored.

    Args:
        model: An ArchNet, timm's feature extractor around one, or any timm model.
        path: Checkpoint of a classifier or a detector, see `read_state_dict`; or `imagenet`, for
            the weights of a package of the extra of that name, see `imagenet_file`.

    Returns:
        The number of tensors that were loaded.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read, or a backbone tensor is missing, of another shape, or
            not finite.
    """
    network = inner_network(model)
    tensors = network.state_dict()
    state = read_network_weights(network, path)
    backbone, head = check_backbone(network, state, str(path))
    head_fits = [k for k in head if k in state and state[k].shape == tensors[k].shape]
    check_finite(state, (*backbone, *head_fits), str(path))
    with torch.no_grad():
        for key in (*backbone, *head_fits):
            tensors[key].copy_(state[key])
    head_loaded = bool(head) and len(head_fits) == len(head)
    return LoadReport(len(backbone), len(backbone), head_loaded, str(path))


def load_classifier_weights(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Loads all weights of a classifier, which gets as many classes as the checkpoint has.

    Args:
        model: An ArchNet or any timm model, with a classifier.
        path: Checkpoint of a classifier, see `read_state_dict`.

    Returns:
        The number of tensors that were loaded.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: As `load_backbone_weights` does, and if a tensor of the classifier or of
            the convolutions before it is missing or of another shape.
    """
    network: Any = model
    state = read_network_weights(network, path)
    rows = [state[f"{p}weight"] for p in _classifier_prefixes(network) if f"{p}weight" in state]
    if rows and len(rows[0]) != network.num_classes:
        network.reset_classifier(len(rows[0]))
    report = load_backbone_weights(network, path)
    if not report.head_loaded:
        tensors = network.state_dict()
        _, head = check_backbone(network, state, str(path))
        lacking = [k for k in head if k not in state or state[k].shape != tensors[k].shape]
        first = f", such as {lacking[0]}" if lacking else ""
        raise CheckpointError(
            f"{path} lacks {len(lacking)} of the classifier's {len(head)} tensors{first}: it is of "
            "a backbone or a detector. Give a classifier's weights, or take the backbone alone."
        )
    return report
