"""PyTorch's own runtimes: eager, channels-last, torch.compile and CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from prunet_det.runtime.program import Program, inference_graph


def as_tuple(outputs: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Returns one tensor or several as a tuple."""
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


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

    def prepare(self, network: nn.Module) -> Callable[..., Any]:
        """Returns what is called in the place of the network."""
        return network

    def place(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images on the device, in the type and memory format that the network takes."""
        return images.to(self.device, self.dtype).contiguous(memory_format=self.memory_format)

    def bind(self, images: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        placed = self.place(images)

        def run() -> Sequence[torch.Tensor]:
            with torch.inference_mode():
                return as_tuple(self.call(placed))

        return run


class ChannelsLast(Eager):
    """Batch norms folded, channels-last memory format, one kernel launched after the other."""

    runtime = "channels_last"
    memory_format = torch.channels_last

    def graph_of(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        return inference_graph(module, example)


class Compiled(ChannelsLast):
    """torch.compile of the folded network, with its default settings."""

    runtime = "compile"

    def prepare(self, network: nn.Module) -> Callable[..., Any]:
        return torch.compile(network)


class CudaGraph(ChannelsLast):
    """The folded network recorded once and replayed: no launch waits for Python."""

    runtime = "cuda_graph"
    devices = ("cuda",)

    def prepare(self, network: nn.Module) -> Callable[..., Any]:
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
