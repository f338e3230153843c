"""Programs: networks in one runtime, precision and shape, ready to be called and to be timed."""

from __future__ import annotations

import copy
import operator
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from prunet_det.utils.errors import InputError, MissingPackageError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
# Largest difference to eager FP32 that a program's outputs may show, of their largest magnitude.
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}


class RuntimeMissingError(MissingPackageError):
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


def check_outputs(
    name: str, outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float
) -> float:
    """Holds a program's outputs to the network's own.

    Args:
        name: Name of the program, for the error.
        outputs: The program's outputs.
        expected: The network's own, in the same order.
        tolerance: Largest difference allowed, as a fraction of the largest magnitude of each
            expected tensor.

    Returns:
        The largest difference found, as the same fraction.

    Raises:
        InputError: If outputs are NaN or infinite, of another number or shape, or too different.
    """
    if len(outputs) != len(expected):
        raise InputError(f"{name} gives {len(outputs)} outputs, the network {len(expected)}.")
    worst = 0.0
    for i, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        for what, tensor in ((name, output), ("the network itself", wanted)):
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"output {i} of {what} is not finite: its latency would mean nothing. Load "
                    "trained weights, or use fp32."
                )
        if output.shape != wanted.shape:
            raise InputError(
                f"output {i} of {name} has the shape {tuple(output.shape)}, the network's "
                f"{tuple(wanted.shape)}."
            )
        scale = max(float(wanted.abs().max()), 1e-6)
        worst = max(worst, float((output - wanted).abs().max()) / scale)
    if worst > tolerance:
        raise InputError(
            f"{name} differs from eager by {worst:.2g} of the largest output, more than "
            f"{tolerance:g}."
        )
    return worst


_CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
# Checks of types and devices that the graph's own tensors would fail once it is cast.
_CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)


def inference_graph(
    module: nn.Module, example: torch.Tensor, dynamic_batch: bool = False
) -> fx.GraphModule:
    """Returns a network in eval mode as a flat graph, batch norms folded into convolutions.

    Works on whatever torch.export can follow: this project's networks, timm's, and detectors. A
    convolution that is shared between several batch norms gets weights of its own for each.

    Args:
        module: The network; not changed, and no tensor is shared with the graph.
        example: An input, (N, C, H, W), on the module's device and of its type.
        dynamic_batch: Whether the graph takes any N; `example` then needs N >= 2.

    Raises:
        InputError: If torch.export cannot follow the network; the sentence says where.
    """
    was_training = module.training
    module.eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as e:  # whatever a network's own code raises under tracing
        raise export_error(module, e) from e
    finally:
        module.train(was_training)
    graph: Any = program.module(check_guards=False)
    with torch.no_grad():
        for node in list(graph.graph.nodes):
            if node.target is torch.ops.aten.batch_norm.default:
                _fold(graph, node)
            elif node.target in _CHECKS:
                graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    plain = fx.GraphModule(graph, graph.graph)  # without the parameters that are left over
    with warnings.catch_warnings():  # PyTorch's own, about how it copies its graphs
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(plain).requires_grad_(False).eval()


def export_error(module: nn.Module, cause: BaseException) -> InputError:
    """Returns what to tell a user whose network cannot be exported.

    Args:
        module: The network.
        cause: What the exporter raised; the first cause and the operator are told.
    """
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split())
    operator_name = re.search(r"op='([\w.]+)'", reason)
    what = f"because of the operator {operator_name[1]}" if operator_name else ""
    return InputError(
        f"{type(module).__name__} cannot be exported {what}".rstrip() + f": {reason[:300]}"
    )


def _fold(graph: fx.GraphModule, norm: fx.Node) -> None:
    """Folds a batch norm into the convolution before it, where there is one that it has alone."""

    def tensor(node: Any) -> Any:
        return None if node is None else operator.attrgetter(node.target)(graph)

    def exact(node: Any) -> Any:
        return None if node is None else tensor(node).double()

    conv = norm.args[0]
    if not isinstance(conv, fx.Node) or conv.target not in _CONVOLUTIONS or len(conv.users) > 1:
        return
    source, weight_node, *rest = conv.args
    weight, bias = exact(weight_node), exact(rest[0]) if rest else None
    scale, shift, mean, variance = map(exact, norm.args[1:5])
    factor = torch.rsqrt(variance + norm.args[7])
    if scale is not None:
        factor = factor * scale
    offset = -mean * factor
    if bias is not None:
        offset = offset + bias * factor
    if shift is not None:
        offset = offset + shift
    folded = {"weight": weight * factor.reshape(-1, 1, 1, 1), "bias": offset}
    arguments = []
    for what, value in folded.items():
        name = f"{norm.name}_{what}"
        graph.register_parameter(name, nn.Parameter(value.to(tensor(weight_node).dtype)))
        with graph.graph.inserting_before(conv):
            arguments.append(graph.graph.get_attr(name))
    conv.args = (source, *arguments, *rest[1:])
    norm.replace_all_uses_with(conv)
    graph.graph.erase_node(norm)
