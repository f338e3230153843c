"""ONNX: a network as a file that other runtimes read, checked before anybody relies on it."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prunet_det.runtime.fold import export_error, folded_module, inference_graph
from prunet_det.runtime.outputs import Reference
from prunet_det.runtime.program import PRECISIONS, Program, RuntimeMissingError
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import atomic_path

logger = logging.getLogger(__name__)

INPUT = "images"
NEEDS = "ONNX needs the extra: pip install 'prunet_det[onnx]' (onnx, onnxscript, onnxruntime)."
NO_CUDA = (
    "this onnxruntime has no CUDA: pip uninstall onnxruntime, then pip install onnxruntime-gpu."
)


def onnx_bytes(
    module: nn.Module,
    example: torch.Tensor,
    precision: str | None = "fp32",
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = False,
    *,
    opset: int | None = None,
    **options: Any,
) -> bytes:
    """Returns a network as the content of an ONNX file, batch norms folded.

    Args:
        module: The network; not changed.
        example: An input, (N, C, H, W) in float32 on the CPU.
        precision: `fp32` or `fp16`, of weights, activations, input and outputs; None leaves the
            network and the example as they are.
        output_names: Names of the outputs, in their order; chosen by the exporter by default.
        dynamic_batch: Whether N is free; `example` then needs N >= 2.
        opset: Version of ONNX's operators; the exporter's own by default.
        **options: Options of torch.onnx.export, such as `input_names`.

    Raises:
        RuntimeMissingError: If onnx or onnxscript is not installed.
        InputError: If the network cannot be exported, the sentence names the operator, or not in
            this opset.
    """
    _require_onnx()
    if opset is not None:
        _require_opset(opset)
        options["opset_version"] = opset
    graph = inference_graph(module, example, dynamic_batch)
    if precision is not None:
        graph, example = graph.to(PRECISIONS[precision]), example.to(PRECISIONS[precision])
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with _translations():
            content = _exported(
                graph,
                example,
                dynamo=True,
                external_data=False,
                output_names=output_names,
                dynamic_shapes=shapes,
                **options,
            )
    except Exception as e:  # the exporter raises whatever an operator's translation raises
        raise export_error(module, e) from e
    if opset is not None:
        _require_opset(opset, content)
    return content


def _require_opset(opset: int, content: bytes | None = None) -> None:
    """Refuses an opset that ONNX does not have, or that the content of a file is not in."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise InputError(f"the opset must lie in 1..{newest}, got {opset}.")
    if content is not None:
        domains = {d.domain: d.version for d in onnx.load_from_string(content).opset_import}
        if domains[""] != opset:
            raise InputError(
                f"PyTorch cannot write this network in opset {opset}; it can in {domains['']}, and "
                "perhaps in some between."
            )


def _exported(graph: nn.Module, example: torch.Tensor, **options: Any) -> bytes:
    options = {"input_names": [INPUT], "verbose": False, **options}
    with tempfile.TemporaryDirectory() as folder, _quiet(), torch.no_grad():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(graph, (example,), path, **options)
        return path.read_bytes()


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise RuntimeMissingError(NEEDS) from e


def traced_onnx_bytes(module: nn.Module, example: torch.Tensor, precision: str = "fp32") -> bytes:
    """Returns a network as the content of an ONNX file of one shape, by the quickest way that can.

    It is for running at once. PyTorch's older exporter, which follows one run of the network,
    writes in a twentieth of the time what runtimes optimise to the same kernels; where it cannot,
    and where PyTorch no longer has it, this is `onnx_bytes`.

    Args:
        module: The network; not changed.
        example: An input, (N, C, H, W) in float32 on the CPU.
        precision: `fp32` or `fp16`, of weights, activations, input and outputs.

    Raises:
        RuntimeMissingError: If onnx or onnxscript is not installed.
        InputError: If the network cannot be exported; the sentence names the operator.
    """
    _require_onnx()
    graph = folded_module(module) or copy.deepcopy(module).requires_grad_(False).eval()
    dtype = PRECISIONS[precision]
    try:
        return _exported(graph.to(dtype), example.to(dtype), dynamo=False)
    except Exception as e:  # whatever an operator's translation raises
        logger.debug("%s needs torch.export: %s", type(module).__name__, e)
    return onnx_bytes(module, example, precision)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own optimisations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _translations() -> Iterator[None]:
    """Keeps the translations that torch.onnx.export collects anew each time, which takes 1 s.

    It is inside PyTorch; where another version has it elsewhere, each export takes that second.
    """
    try:
        module: Any = importlib.import_module("torch.onnx._internal.exporter._registration")
        registry = module.ONNXRegistry
        original, collect = vars(registry)["from_torchlib"], registry.from_torchlib
    except (ImportError, AttributeError, KeyError):
        yield
        return
    try:
        registry.from_torchlib = staticmethod(_remembered(collect))
        yield
    finally:
        registry.from_torchlib = original


@functools.cache
def _remembered(collect: Callable[..., Any]) -> Callable[..., Any]:
    return functools.cache(collect)


def export_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    batch: int | None = 1,
    precision: str = "fp32",
    output_names: Sequence[str] | None = None,
    **options: Any,
) -> float:
    """Writes an ONNX file after ONNX Runtime has reproduced the network's own outputs with it.

    Args:
        module: The network; not changed.
        path: File to write.
        shape: Channels, height and width of the images.
        batch: Images at once; None leaves it free, which is checked at 1 and 3.
        precision: `fp32` or `fp16`, of weights, activations, input and outputs.
        output_names: Names of the outputs, in their order; chosen by the exporter by default.
        **options: Further ones of `onnx_bytes`, such as `opset`.

    Returns:
        The largest relative L2 error of an output against eager FP32.

    Raises:
        RuntimeMissingError: If the extra is not installed.
        InputError: If the network cannot be exported, or ONNX Runtime gives other outputs.
    """
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(batch or 2, *shape, generator=generator)
    content = onnx_bytes(module, example, precision, output_names, batch is None, **options)
    session = open_session(content)
    worst = 0.0
    for count in (1, 3) if batch is None else (batch,):
        images = torch.randn(count, *shape, generator=generator)
        feed = {INPUT: images.to(PRECISIONS[precision]).numpy()}
        outputs = [torch.from_numpy(o).float() for o in session.run(None, feed)]
        reference = Reference(module, images, precision)
        worst = max(worst, reference.check(f"the exported file at batch {count}", outputs))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return worst


def trtexec_command(
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    batch: int | None,
    precision: str,
    name: str = INPUT,
) -> str:
    """Returns the command that builds and times a TensorRT engine from an exported file.

    Args:
        path: The ONNX file.
        shape: Channels, height and width of the images.
        batch: Images at once; None where the file leaves it free.
        precision: `fp32` or `fp16`.
        name: Name of the input.
    """
    parts = [f"trtexec --onnx={os.fspath(path)}"]
    if batch is None:
        size = "x".join(map(str, shape))
        parts.append(f"--minShapes={name}:1x{size} --optShapes={name}:1x{size}")
        parts.append(f"--maxShapes={name}:8x{size} --shapes={name}:1x{size}")
    if precision == "fp16":
        parts.append("--fp16")
    parts.append(f"--useCudaGraph --saveEngine={Path(path).with_suffix('.engine')}")
    return " ".join(parts)


_NUMPY = {torch.float32: np.float32, torch.float16: np.float16}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(
    content: bytes, device: str | torch.device = "cpu", threads: int | None = None
) -> Any:
    """Opens an inference session of ONNX Runtime with all graph optimisations.

    Args:
        content: Content of an ONNX file.
        device: `cpu`, `cuda` or `cuda:N`; FP32 is not rounded to TF32 there.
        threads: Threads of a CPU; all cores by default.

    Raises:
        RuntimeMissingError: If ONNX Runtime is not installed, or has no CUDA.
        InputError: If it cannot run the file.
    """
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise RuntimeMissingError(NEEDS) from e
    kind, index = torch.device(device).type, torch.device(device).index or 0
    if _PROVIDERS[kind] not in ort.get_available_providers():
        raise RuntimeMissingError(NO_CUDA)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Threads that wait in a loop for more work slow down whatever runs next: blocks that are timed
    # in turn took up to ten times as long, a single network no less.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    settings = {"device_id": index, "use_tf32": 0} if kind == "cuda" else {}
    try:
        session = ort.InferenceSession(content, options, providers=[(_PROVIDERS[kind], settings)])
    except Exception as e:  # it has a class for each of its reasons, of no common base
        reason = str(e).rstrip(".")
        raise InputError(f"ONNX Runtime cannot run the network: {reason}.") from e
    if _PROVIDERS[kind] not in session.get_providers():  # it goes on with the CPU by itself
        raise RuntimeMissingError(
            "onnxruntime could not start CUDA here; install the libraries of CUDA and cuDNN that "
            "its release notes name."
        )
    return session


class OnnxRuntime(Program):
    """ONNX Runtime with input and outputs bound in place."""

    runtime = "onnxruntime"

    @property
    def host_clock(self) -> bool:
        return True  # it has a stream of its own, and waits for it

    @classmethod
    def missing(cls, device: str | torch.device) -> str:
        kind = torch.device(device).type
        if None in map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")):
            return NEEDS
        import onnxruntime as ort

        if _PROVIDERS[kind] not in ort.get_available_providers():
            return NO_CUDA
        return super().missing(device)

    def build(self, module: nn.Module, example: torch.Tensor) -> None:
        content = traced_onnx_bytes(module, example, self.precision)
        self.session = open_session(content, self.device, self.threads)
        self.names = [output.name for output in self.session.get_outputs()]

    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        placed = images.to(self.device, self.dtype).contiguous()
        binding = self.session.io_binding()
        kind, index = self.device.type, self.device.index or 0
        binding.bind_input(
            INPUT, kind, index, _NUMPY[self.dtype], tuple(placed.shape), placed.data_ptr()
        )
        for name in self.names:
            binding.bind_output(name, kind, index)

        def run() -> Sequence[torch.Tensor]:
            self.session.run_with_iobinding(binding)
            return _Outputs(binding, placed)

        return run


class _Outputs(Sequence[torch.Tensor]):
    """Outputs of a session, copied only where somebody looks; keeps the input alive."""

    def __init__(self, binding: Any, images: torch.Tensor) -> None:
        self.binding, self.images = binding, images

    def __len__(self) -> int:
        return len(self.binding.get_outputs())

    def __getitem__(self, index: Any) -> Any:
        return torch.from_numpy(self.binding.get_outputs()[index].numpy().copy())
