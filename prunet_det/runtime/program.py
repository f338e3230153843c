"""Programs: a network in one runtime, precision and shape, ready to be called and to be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
# Largest difference to eager FP32 that a program's outputs may show, of their largest magnitude.
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}


class RuntimeMissingError(ImportError):
    """A runtime that this machine or environment lacks; the sentence says what it needs."""


class Program(ABC):
    """A network in one runtime, with fixed shapes.

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
    # Whether an addition costs no kernel of its own, but is part of the convolution before it.
    fuses_add = False

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
        """Places an input; what is returned runs on it and gives the outputs.

        Args:
            images: Of the program's shape, float32, on any device.
        """

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs once; outputs as float32 on the CPU.

        Raises:
            ValueError: Images of another shape.
        """
        if tuple(images.shape) != self.shape:
            raise ValueError(
                f"this program takes images of shape {self.shape}, got {tuple(images.shape)}."
            )
        return tuple(output.detach().float().cpu() for output in self.bind(images)())


def check_outputs(
    name: str, outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float
) -> float:
    """Holds a program's outputs to the network's own.

    Args:
        name: Of the program, for the error.
        outputs, expected: Tensors in the same order.
        tolerance: Largest difference allowed, of the largest magnitude of each expected tensor.

    Returns:
        The largest difference found, in these terms.

    Raises:
        ValueError: NaN or infinite outputs, another number of them, or too large a difference.
    """
    if len(outputs) != len(expected):
        raise ValueError(f"{name} gives {len(outputs)} outputs, the network {len(expected)}.")
    worst = 0.0
    for i, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        for what, tensor in ((name, output), ("the network itself", wanted)):
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"output {i} of {what} is not finite: its latency would mean nothing. Load "
                    "trained weights, or use fp32."
                )
        if output.shape != wanted.shape:
            raise ValueError(
                f"output {i} of {name} has the shape {tuple(output.shape)}, the network's "
                f"{tuple(wanted.shape)}."
            )
        scale = max(float(wanted.abs().max()), 1e-6)
        worst = max(worst, float((output - wanted).abs().max()) / scale)
    if worst > tolerance:
        raise ValueError(
            f"{name} differs from eager by {worst:.2g} of the largest output, more than "
            f"{tolerance:g}."
        )
    return worst
