"""TensorRT through its Python package, where a user has it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from prunet_det.runtime.onnx import INPUT, traced_onnx_bytes
from prunet_det.runtime.program import Program
from prunet_det.utils.errors import InputError


class TensorRT(Program):
    """An engine built from the network's ONNX form, replayed as a CUDA graph."""

    runtime = "tensorrt"
    devices = ("cuda",)

    @classmethod
    def missing(cls, device: str | torch.device) -> str:
        if importlib.util.find_spec("tensorrt") is None:
            return (
                "TensorRT is not installed: pip install tensorrt, or export with tools/export.py "
                "and run trtexec."
            )
        return super().missing(device)

    def build(self, module: nn.Module, example: torch.Tensor) -> None:
        # The file is in single precision; TensorRT picks half precision where it is faster.
        content = traced_onnx_bytes(module, example)
        self.engine = build_engine(content, half=self.precision == "fp16")
        self.context = self.engine.create_execution_context()
        self.buffers = {
            name: torch.empty(
                tuple(self.engine.get_tensor_shape(name)), dtype=torch.float32, device=self.device
            )
            for name in _tensor_names(self.engine)
        }
        for name, buffer in self.buffers.items():
            self.context.set_tensor_address(name, buffer.data_ptr())
        self.outputs = [self.buffers[n] for n in _tensor_names(self.engine) if n != INPUT]
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            self._run(stream)  # allocations happen on the first run, which a graph cannot record
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._run(torch.cuda.current_stream())

    def _run(self, stream: Any) -> None:
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not run the engine; its log says why.")

    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        self.buffers[INPUT].copy_(images)

        def run() -> Sequence[torch.Tensor]:
            self.graph.replay()
            return self.outputs

        return run


def build_engine(content: bytes, half: bool) -> Any:
    """Builds a TensorRT engine.

    Args:
        content: Content of an ONNX file.
        half: Whether layers may run in half precision.

    Raises:
        InputError: If TensorRT does not understand the file; the sentence has its first complaint.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        raise InputError(f"TensorRT cannot read the network: {parser.get_error(0)}.")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # set by default
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise InputError("TensorRT could not build an engine; its log above says why.")
    return trt.Runtime(logger).deserialize_cuda_engine(serialized)


def _tensor_names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
