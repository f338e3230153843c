"""Programs: networks in one runtime, precision and shape, ready to be called and to be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

from prunet_det.runtime.outputs import tf32
from prunet_det.utils.env import on_device
from prunet_det.utils.errors import InputError, MissingPackageError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


class RuntimeMissingError(MissingPackageError):
    """A runtime that this machine or environment lacks; the sentence says what it needs."""


class Program(ABC):
    """A network in one runtime, with fixed shapes.

    FP32 means FP32: what a program computes on a GPU is not rounded to TF32.

    Args:
        module: The network, in float32 on the CPU; not changed.
        example: An input, (N, C, H, W) in float32 on the CPU: its shape is the program's.
        precision: `fp32` or `fp16`, of weights and activations.
        device: A torch device.
        threads: Threads on a CPU; by default all cores.

    Raises:
        RuntimeMissingError: The runtime is not here.
        ValueError: The network cannot be exported.
    """

    runtime: str
    devices: tuple[str, ...] = ("cpu", "cuda")

    def __init__(
        self,
        module: nn.Module,
        example: torch.Tensor,
        precision: str = "fp32",
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        self.precision = precision
        self.dtype = PRECISIONS[precision]
        self.device = torch.device(device)
        self.threads = threads
        self.shape = tuple(example.shape)
        with tf32(False), on_device(self.device):
            self.build(module, example)

    @classmethod
    def missing(cls, device: str | torch.device) -> str:
        """Why this runtime cannot run on a device here, in a sentence; empty where it can."""
        kind = torch.device(device).type
        if kind not in cls.devices:
            return f"{cls.runtime} runs on {' and '.join(cls.devices)}, not on {kind}."
        if kind == "cuda" and not torch.cuda.is_available():
            return "there is no CUDA device here."
        return ""

    @property
    def host_clock(self) -> bool:
        """Whether CUDA events on PyTorch's stream would not see this runtime's work."""
        return False

    @abstractmethod
    def build(self, module: nn.Module, example: torch.Tensor) -> None:
        """Compiles the network."""

    @abstractmethod
    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        """Places an input and returns the function that runs on it and gives the outputs.

        Args:
            images: Images of the program's shape in float32, on any device.
        """

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs once and returns the outputs in float32 on the CPU.

        Raises:
            InputError: If the images have another shape.
        """
        if tuple(images.shape) != self.shape:
            raise InputError(
                f"this program takes images of shape {self.shape}, got {tuple(images.shape)}."
            )
        return tuple(output.detach().float().cpu() for output in self.bind(images)())
