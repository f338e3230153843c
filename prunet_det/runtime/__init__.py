"""How a network is run: PyTorch's own ways, ONNX Runtime, TensorRT; and export for others."""

from __future__ import annotations

import torch
from torch import nn

from prunet_det.runtime.onnx import OnnxRuntime
from prunet_det.runtime.program import PRECISIONS, Program, RuntimeMissingError
from prunet_det.runtime.pytorch import ChannelsLast, Compiled, CudaGraph, Eager
from prunet_det.runtime.tensorrt import TensorRT
from prunet_det.utils.errors import InputError

RUNTIMES: dict[str, type[Program]] = {
    cls.runtime: cls for cls in (Eager, ChannelsLast, CudaGraph, Compiled, OnnxRuntime, TensorRT)
}

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "Program",
    "RuntimeMissingError",
    "building_device",
    "check_runtime",
    "make_program",
]


def building_device(runtime: str, device: str | torch.device) -> torch.device:
    """Returns where to build a network of random weights that is run once.

    PyTorch's runtimes take it from the device: drawing a search space's widest blocks on a CPU,
    folding and moving them takes seconds each. The others export it from the CPU.

    Args:
        runtime: One of RUNTIMES.
        device: Torch device to run on.
    """
    return torch.device(device if issubclass(RUNTIMES[runtime], Eager) else "cpu")


def check_runtime(runtime: str, precision: str, device: str | torch.device) -> None:
    """Refuses what no network could be run with here.

    Args:
        runtime: One of RUNTIMES.
        precision: `fp32` or `fp16`.
        device: Torch device to run on.

    Raises:
        InputError: If runtime or precision are unknown.
        RuntimeMissingError: If the runtime is not here.
    """
    for what, value, known in (
        ("runtime", runtime, RUNTIMES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise InputError(
                f"there is no {what} {value!r}; the known ones are {', '.join(known)}."
            )
    missing = RUNTIMES[runtime].missing(device)
    if missing:
        raise RuntimeMissingError(missing)


def make_program(
    module: nn.Module,
    example: torch.Tensor,
    runtime: str = "eager",
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> Program:
    """Builds a network in a runtime.

    Args:
        module: The network, in float32 on the CPU, or on its `building_device`; not changed.
        example: An input, (N, C, H, W) in float32 on the CPU: its shape is the program's.
        runtime: One of RUNTIMES.
        precision: `fp32` or `fp16`, of weights and activations.
        device: Torch device to run on.
        threads: Threads of a CPU; all cores by default.

    Raises:
        InputError: If runtime or precision are unknown, or the network cannot be exported.
        RuntimeMissingError: If the runtime is not here.
    """
    check_runtime(runtime, precision, device)
    return RUNTIMES[runtime](module, example, precision, device, threads)
