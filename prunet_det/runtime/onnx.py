"""ONNX: a network as a file that other runtimes read, checked before anybody relies on it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunet_det.files import atomic_path
from prunet_det.runtime.fold import export_error, inference_graph
from prunet_det.runtime.program import PRECISIONS, TOLERANCE, RuntimeMissingError, check_outputs
from prunet_det.runtime.pytorch import as_tuple

INPUT = "images"
NEEDS = "ONNX needs the extra: pip install 'prunet_det[onnx]' (onnx, onnxscript, onnxruntime)."


def onnx_bytes(
    module: nn.Module,
    example: torch.Tensor,
    precision: str = "fp32",
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = False,
) -> bytes:
    """A network as an ONNX file's content, batch norms folded.

    Args:
        module: Not changed.
        example: (N, C, H, W) in float32 on the CPU.
        precision: Of weights, activations, input and outputs.
        output_names: In the order of the outputs.
        dynamic_batch: Whether N is free; `example` then needs N >= 2.

    Raises:
        RuntimeMissingError: onnx or onnxscript is not installed.
        ValueError: The network cannot be exported; the sentence names the operator.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise RuntimeMissingError(NEEDS) from e
    graph = inference_graph(module, example, dynamic_batch).to(PRECISIONS[precision])
    example = example.to(PRECISIONS[precision])
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    with tempfile.TemporaryDirectory() as folder, _quiet(), _translations():
        path = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                graph,
                (example,),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[INPUT],
                output_names=output_names,
                dynamic_shapes=shapes,
            )
        except Exception as e:  # the exporter raises whatever an operator's translation raises
            raise export_error(module, e) from e
        return path.read_bytes()


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
    """Once is enough for what torch.onnx.export does each time: collecting translations takes 1 s.

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
) -> float:
    """Writes an ONNX file after ONNX Runtime has reproduced the network's own outputs with it.

    Args:
        module: The network; not changed.
        path: Of the file.
        shape: Channels, height and width of the images.
        batch: Images at once; None leaves it free, which is checked at 1 and 3.
        precision: `fp32` or `fp16`.
        output_names: In the order of the outputs.

    Returns:
        The largest difference to eager FP32, of the largest magnitude of each output.

    Raises:
        RuntimeMissingError: The extra is not installed.
        ValueError: The network cannot be exported, or ONNX Runtime gives other outputs.
    """
    from prunet_det.runtime.onnxruntime import open_session

    generator = torch.Generator().manual_seed(0)
    example = torch.randn(batch or 2, *shape, generator=generator)
    content = onnx_bytes(module, example, precision, output_names, batch is None)
    session = open_session(content)
    worst = 0.0
    module = module.eval()
    for count in (1, 3) if batch is None else (batch,):
        images = torch.randn(count, *shape, generator=generator)
        feed = {INPUT: images.to(PRECISIONS[precision]).numpy()}
        outputs = [torch.from_numpy(o).float() for o in session.run(None, feed)]
        with torch.no_grad():
            expected = as_tuple(module(images))
        name = f"the exported file at batch {count}"
        worst = max(worst, check_outputs(name, outputs, expected, TOLERANCE[precision]))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return worst


def trtexec_command(
    path: str | os.PathLike[str], shape: tuple[int, int, int], batch: int | None, precision: str
) -> str:
    """The command that builds and times a TensorRT engine from an exported file."""
    parts = [f"trtexec --onnx={os.fspath(path)}"]
    if batch is None:
        size = "x".join(map(str, shape))
        parts.append(f"--minShapes={INPUT}:1x{size} --optShapes={INPUT}:1x{size}")
        parts.append(f"--maxShapes={INPUT}:8x{size} --shapes={INPUT}:1x{size}")
    if precision == "fp16":
        parts.append("--fp16")
    parts.append(f"--useCudaGraph --saveEngine={Path(path).with_suffix('.engine')}")
    return " ".join(parts)
