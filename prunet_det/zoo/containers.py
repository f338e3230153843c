"""Reading tensors from every usual container of weights, without unpickling code."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from prunet_det.utils.errors import InputError, MissingFileError

# Keys under which training frameworks save the tensors, averaged ones first, and then in timm's
# order.
_AVERAGED = (
    *("state_dict_ema", "model_ema", "params_ema", "ema", "ema_model", "ema_state_dict"),
    "model_ema_state_dict",
)
_CONTAINERS = (
    *_AVERAGED,
    *("state_dict", "model", "model_state_dict", "params", "module", "net", "weights"),
)
# What wrappers keep beside the tensors of the network (torch's AveragedModel).
_COUNTERS = ("n_averaged",)
_REBUILDERS = ("_reconstruct", "scalar")
# What mmengine keeps beside the tensors: the history of the losses, as arrays of NumPy.
_IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray.{f}" for core in ("core", "_core") for f in _REBUILDERS),
)


class _Ignored:
    """Stands for a pickled object of which nothing is read; none of its own code runs."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class CheckpointError(InputError):
    """A checkpoint that cannot be read or does not fit; the message says why."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads the tensors of a safetensors or PyTorch file, without unpickling code.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If the file is damaged, holds pickled objects, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # timm's training checkpoints hold their arguments, a class without behaviour.
        stand_ins = [(_Ignored, name) for name in _IGNORED]
        with torch.serialization.safe_globals([argparse.Namespace, *stand_ins]):
            data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"{path} is damaged or holds pickled objects, which are not read for safety; save its "
            "state_dict alone, with torch or as safetensors."
        ) from e
    except Exception as e:  # bytes that are no checkpoint fail in as many ways as there are bytes
        raise CheckpointError(f"{path} is truncated or no checkpoint: {e}.") from e
    tensors = unwrap_tensors(data)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors under a name that is known.")
    return tensors


def unwrap_tensors(data: object) -> dict[str, torch.Tensor]:
    """Takes tensors out of a checkpoint's containers, and the names of torch's wrappers off them.

    Args:
        data: What a file holds.

    Returns:
        Tensors by name: without `_orig_mod.` of torch.compile, wherever it stands, and without the
        `module.` that DataParallel, DDP and averaged models put before all names.
    """
    if not isinstance(data, Mapping):
        return {}
    for key in _CONTAINERS:
        # The EMA hook of mmengine, whose files have `meta`, swaps the averaged tensors into
        # `state_dict` and the raw ones into `ema_state_dict`.
        if key == "ema_state_dict" and "meta" in data:
            continue
        tensors = unwrap_tensors(data.get(key))  # a container may be empty
        if tensors:
            return tensors
    tensors = {
        str(key).replace("_orig_mod.", ""): value
        for key, value in data.items()
        if torch.is_tensor(value) and key not in _COUNTERS
    }
    while tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors
