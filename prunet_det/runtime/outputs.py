"""Whether a program computes what the network does: relative L2 errors against eager PyTorch.

The error of an output y is ||y - r|| / ||r||, where r is eager FP32's on the same device. Rounding
grows with depth, for each layer of a network of random weights amplifies what the layers before it
got wrong. At the end of 30 convolutions FP16 in eager PyTorch is 0.008 from FP32, at the end of 105
it is 0.05, and 0.15 in the zoo's worst network (backbone of gpunet_d2): no fixed limit suits all.
Two correct programs round differently, but by about as much. A program may therefore be as far
from FP32 as HALF_FACTOR times what FP16 in eager is. That limit is at least HALF_MIN, for networks
that hardly amplify, and at most HALF_MAX: a block, a residual or an activation that is
lost moves outputs by 0.24 or more (on four networks of the zoo, at any depth).

In FP32 rounding stays below 1e-4, convolutions by Winograd's algorithm included. A batch norm that
is lost moves outputs by 0.13 or more, a wrong epsilon in all of them by 0.03: hence FP32_LIMIT.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from prunet_det.utils.errors import InputError

FP32_LIMIT = 1e-3
HALF_FACTOR = 3.0
HALF_MIN, HALF_MAX = 0.01, 0.3


def as_tuple(outputs: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Returns one tensor or several as a tuple."""
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Lets CUDA compute FP32 convolutions and products in TF32, whose mantissa has 10 bits, or not.

    Args:
        allowed: PyTorch's own default is yes for convolutions; where this project says fp32, no.
    """
    # Products by the precision's name: where a training has set "high", `matmul.allow_tf32` would
    # leave a state that PyTorch refuses to name.
    cudnn: Any = torch.backends.cudnn
    products, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        cudnn.allow_tf32 = allowed
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions


class Reference:
    """What a network computes in eager PyTorch, and how far a program of it may be from that.

    Args:
        module: The network, in float32 on the CPU; not changed.
        images: Input, (N, C, H, W) in float32.
        precision: `fp32` or `fp16`, of the programs to judge.
        device: Torch device to run on; the programs' own.

    Attributes:
        expected: Outputs in FP32, on the CPU.
        limit: Largest relative L2 error that a program may have.

    Raises:
        InputError: If an output in FP32 is not finite.
    """

    def __init__(
        self,
        module: nn.Module,
        images: torch.Tensor,
        precision: str = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        network = copy.deepcopy(module).eval().to(device)
        self.expected = _run(network, images.to(device))
        for i, output in enumerate(self.expected):
            _require_finite(output, f"output {i} of the network itself")
        self.limit = FP32_LIMIT
        if precision == "fp16":
            half = _run(network.half(), images.to(device).half())
            errors = [relative_error(a, b) for a, b in zip(half, self.expected, strict=True)]
            # What overflows in eager need not do so in a runtime that keeps some layers in FP32.
            own = max(errors) if all(map(math.isfinite, errors)) else math.inf
            self.limit = min(max(HALF_FACTOR * own, HALF_MIN), HALF_MAX)

    def check(self, name: str, outputs: Sequence[torch.Tensor]) -> float:
        """Holds a program's outputs to the network's own.

        Args:
            name: Name of the program, for the error.
            outputs: The program's outputs, in the network's order, on the CPU.

        Returns:
            The largest relative L2 error of an output.

        Raises:
            InputError: If outputs are not finite, of another number or shape, or too far away.
        """
        return check_outputs(name, outputs, self.expected, self.limit)


def _run(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with tf32(False), torch.inference_mode():
        return tuple(output.float().cpu() for output in as_tuple(network(images)))


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns ||output - expected|| / ||expected||, computed in float64."""
    output, expected = output.double(), expected.double()
    return float((output - expected).norm() / expected.norm().clamp(min=1e-12))


def _require_finite(output: torch.Tensor, what: str) -> None:
    if not torch.isfinite(output).all():
        raise InputError(
            f"{what} is not finite: its latency would mean nothing. Load trained weights, or use "
            "fp32."
        )


def check_outputs(
    name: str, outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], limit: float
) -> float:
    """Holds outputs to others.

    Args:
        name: Name of the program, for the error.
        outputs: The program's outputs.
        expected: The network's own, in the same order.
        limit: Largest relative L2 error of an output.

    Returns:
        The largest one found.

    Raises:
        InputError: If outputs are not finite, of another number or shape, or too far away.
    """
    if len(outputs) != len(expected):
        raise InputError(f"{name} gives {len(outputs)} outputs, the network {len(expected)}.")
    worst = 0.0
    for i, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        _require_finite(output, f"output {i} of {name}")
        if output.shape != wanted.shape:
            raise InputError(
                f"output {i} of {name} has the shape {tuple(output.shape)}, the network's "
                f"{tuple(wanted.shape)}."
            )
        worst = max(worst, relative_error(output, wanted))
    if worst > limit:
        raise InputError(
            f"{name} differs from eager FP32 by a relative L2 error of {worst:.2g}, more than "
            f"{limit:.2g}."
        )
    return worst
