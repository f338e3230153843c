"""PyTorch's own runtimes: eager, channels-last, CUDA graphs and torch.compile."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from prunet_det.runtime.fold import deployed
from prunet_det.runtime.outputs import as_tuple, tf32
from prunet_det.runtime.program import Program


class Eager(Program):
    """The module as it is, batch norms and all, in PyTorch's default memory format."""

    runtime = "eager"
    memory_format = torch.contiguous_format

    def build(self, module: nn.Module, example: torch.Tensor) -> None:
        if self.device.type == "cpu" and self.threads:
            torch.set_num_threads(self.threads)
        network: Any = self.graph_of(module, example).requires_grad_(False).eval()
        network = network.to(self.device, self.dtype).to(memory_format=self.memory_format)
        self.call = self.prepare(network)

    def graph_of(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        """Returns a copy of the network in the form in which it runs; `example` is an input."""
        return copy.deepcopy(module)

    def prepare(self, network: Callable[..., Any]) -> Callable[..., Any]:
        """Returns what is called in the place of the network."""
        return network

    def place(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images on the device, in the type and memory format that the network takes."""
        return images.to(self.device, self.dtype).contiguous(memory_format=self.memory_format)

    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        placed = self.place(images)
        on_cuda = self.device.type == "cuda"
        precisely = functools.partial(tf32, False) if on_cuda else contextlib.nullcontext

        def run() -> Sequence[torch.Tensor]:
            with precisely(), torch.inference_mode():
                return as_tuple(self.call(placed))

        return run


class ChannelsLast(Eager):
    """Batch norms folded, channels-last memory format, one kernel launched after the other."""

    runtime = "channels_last"
    memory_format = torch.channels_last

    def graph_of(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        return deployed(module, example)


class CudaGraph(ChannelsLast):
    """The folded network recorded once and replayed: no launch waits for Python."""

    runtime = "cuda_graph"
    devices: tuple[str, ...] = ("cuda",)

    def prepare(self, network: Callable[..., Any]) -> Callable[..., Any]:
        self.input = self.place(torch.zeros(self.shape))
        # cuDNN picks its algorithms while warming up; the graph keeps them.
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side), torch.inference_mode():
                for _ in range(5):
                    network(self.input)
            torch.cuda.current_stream(self.device).wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph), torch.inference_mode():
                self.outputs = as_tuple(network(self.input))
        finally:
            torch.backends.cudnn.benchmark = benchmark
        return network

    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        self.input.copy_(self.place(images))

        def run() -> Sequence[torch.Tensor]:
            self.graph.replay()
            return self.outputs

        return run


class Compiled(CudaGraph):
    """The folded network through torch.compile, which fuses what stands between convolutions.

    On CUDA each kernel is the fastest of several (`max-autotune`), and the code is recorded as a
    CUDA graph, by the class above, so that no guard of torch.compile is timed. PyTorch keeps
    compiled code between runs, under TORCHINDUCTOR_CACHE_DIR.
    """

    runtime = "compiled"
    devices = ("cpu", "cuda")

    @classmethod
    def missing(cls, device: str | torch.device) -> str:
        compilers = (os.environ.get("CXX", ""), "g++", "clang++")
        if not any(name and shutil.which(name) for name in compilers):
            return "torch.compile needs a C++ compiler: install g++ or clang++, or set CXX."
        if torch.device(device).type == "cuda" and importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on CUDA: pip install triton."
        return super().missing(device)

    def prepare(self, network: Callable[..., Any]) -> Callable[..., Any]:
        if self.device.type == "cpu":
            return torch.compile(network, dynamic=False)
        mode = "max-autotune-no-cudagraphs"
        return super().prepare(torch.compile(network, dynamic=False, mode=mode))

    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        on_cpu = self.device.type == "cpu"
        return ChannelsLast.bind(self, images) if on_cpu else super().bind(images)
