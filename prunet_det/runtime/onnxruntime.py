"""ONNX Runtime, on the CPU and on CUDA."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prunet_det.runtime.onnx import INPUT, NEEDS, onnx_bytes
from prunet_det.runtime.program import Program, RuntimeMissingError

_NUMPY = {torch.float32: np.float32, torch.float16: np.float16}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(content: bytes, device: str = "cpu", threads: int | None = None) -> Any:
    """An inference session with all graph optimisations.

    Args:
        content: Of an ONNX file.
        device: `cpu` or `cuda`.
        threads: On a CPU; by default all cores.

    Raises:
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise RuntimeMissingError(NEEDS) from e
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=[_PROVIDERS[device]])


class OnnxRuntime(Program):
    """ONNX Runtime with input and outputs bound in place."""

    runtime = "onnxruntime"
    fuses_add = True

    @property
    def host_clock(self) -> bool:
        return True  # it has a stream of its own, and waits for it

    @classmethod
    def missing(cls, device: str | torch.device) -> str:
        kind = torch.device(device).type
        if importlib.util.find_spec("onnxruntime") is None:
            return NEEDS
        import onnxruntime as ort

        if _PROVIDERS[kind] not in ort.get_available_providers():
            return (
                "this onnxruntime has no CUDA: pip uninstall onnxruntime, then pip install "
                "onnxruntime-gpu."
            )
        return super().missing(device)

    def build(self, module: nn.Module, example: torch.Tensor) -> None:
        content = onnx_bytes(module, example, self.precision)
        self.session = open_session(content, self.device.type, self.threads)
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
    """A session's outputs, copied only where somebody looks; keeps the input alive."""

    def __init__(self, binding: Any, images: torch.Tensor) -> None:
        self.binding, self.images = binding, images

    def __len__(self) -> int:
        return len(self.binding.get_outputs())

    def __getitem__(self, index: Any) -> Any:
        return torch.from_numpy(self.binding.get_outputs()[index].numpy().copy())
