"""The network of a training recorded as a CUDA graph, or compiled.

On a GPU the host is busy with launching the hundreds of kernels of a forward and a backward pass.
Both are the same in every iteration in which the images have the same size, so they can be
recorded once and replayed by one launch each: `graph` is `torch.cuda.make_graphed_callables`, and
`compile` is `torch.compile`, which fuses kernels as well and needs a minute or two at the start.

What is recorded is a model's method `network`, from images to raw outputs. Targets, losses and
everything else stay as they are, and so do the names of parameters, checkpoints and averages.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from mmengine.dist import get_world_size
from mmengine.model import BaseModel
from torch import nn

from prunet_det.utils.errors import InputError, MissingPackageError, UserError

logger = logging.getLogger(__name__)

SPEED_UPS = ("none", "graph", "compile")

Run: TypeAlias = Callable[[torch.Tensor], Any]
Record: TypeAlias = Callable[[nn.Module, torch.Tensor], Run]


def speed_up(model: BaseModel, kind: str) -> None:
    """Lets a model's network be recorded in training.

    Args:
        model: Detector or classifier, on the device that it is trained on, with a method `network`
            from images to raw outputs; changed in place.
        kind: `none`, `graph` or `compile`.

    Raises:
        InputError: If the kind is unknown, or cannot be had for this model.
        UserError: If it cannot be had on this machine.
    """
    if kind not in SPEED_UPS:
        raise InputError(f"speed_up must be one of {', '.join(SPEED_UPS)}, got {kind!r}.")
    if kind == "none":
        return
    if not hasattr(model, "network"):
        raise InputError(
            f"the model is a {type(model).__name__}, and --speed-up is for OneStageDetector and "
            "Classifier; set model.type, or leave it out."
        )
    on_cuda = next(model.parameters()).is_cuda
    record: Record
    if kind == "graph":
        _check_graph(model, on_cuda)
        record = _record_graph
    else:
        _check_compiler(on_cuda)
        record = functools.partial(_compile, mode="reduce-overhead" if on_cuda else "default")
    model.network = RecordedNetwork(model, record)
    logger.info("speed-up: %s, from the second batch of one size on", kind)


def _check_graph(model: nn.Module, on_cuda: bool) -> None:
    if not on_cuda:
        raise UserError(
            "--speed-up graph needs a CUDA device, and there is none here; leave it out."
        )
    if any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
        raise InputError(
            "--speed-up graph cannot record gradient checkpointing; leave out with_cp."
        )
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise InputError(
            "--speed-up graph cannot record SyncBN, by which processes wait for others."
        )


def _check_compiler(on_cuda: bool) -> None:
    if on_cuda and importlib.util.find_spec("triton") is None:
        raise MissingPackageError(
            "--speed-up compile needs the package triton: pip install triton."
        )
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError("--speed-up compile needs a C++ compiler, and there is no g++ here.")


class RecordedNetwork:
    """Runs a model's network: recorded in training, otherwise as it is.

    The first form of images that comes twice in a row is recorded, and no other: training at
    several sizes runs as before but for that one. So do an odd last batch and everything outside of
    training.

    Args:
        model: Model whose network is run.
        record: Makes a function that does what a module does with tensors like the given one.
    """

    def __init__(self, model: BaseModel, record: Record) -> None:
        self._model, self._record = model, record
        self._last: _Form | None = None
        self._recording: _Recording | None = None
        self._said = False

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordedNetwork:
        """Copies for an averaged model, which shares no recording with this one."""
        return RecordedNetwork(copy.deepcopy(self._model, memo), self._record)

    def __call__(self, images: torch.Tensor) -> Any:
        """Computes the raw outputs of images, (N, 3, H, W)."""
        if not (self._model.training and torch.is_grad_enabled()):
            return _run_network(self._model, images)
        form = _Form.of(self._model, images)
        if self._recording is None or self._recording.form.weights != form.weights:
            if form == self._last:
                self._recording = _Recording(self._model, images, form, self._record)
            self._last = form
        if self._recording is not None and self._recording.form == form:
            return self._recording(images)
        if self._recording is not None and not self._said:
            logger.info("%s are not what was recorded and run as before", form)
            self._said = True
        return _run_network(self._model, images)


@dataclass(frozen=True)
class _Form:
    """What a recording holds for.

    Attributes:
        shape: Shape of the images, (N, 3, H, W).
        precision: Types of the images and of autocast.
        weights: Where the model's first weight lies, and which weights are trained: a model that
            was moved, or of which a stage was unfrozen, is recorded anew.
    """

    shape: torch.Size
    precision: tuple[torch.dtype, torch.dtype | None]
    weights: tuple[int, tuple[bool, ...]]

    @classmethod
    def of(cls, model: nn.Module, images: torch.Tensor) -> _Form:
        kind = images.device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        parameters = list(model.parameters())
        weights = parameters[0].data_ptr(), tuple(p.requires_grad for p in parameters)
        return cls(images.shape, (images.dtype, cast), weights)

    def __str__(self) -> str:
        return f"batches of {self.shape[0]} images of {self.shape[2]} x {self.shape[3]} px"


class _Recording:
    """A recorded network.

    Making one leaves running statistics and random numbers as they were: PyTorch runs the network
    a few times before it records it.
    """

    def __init__(self, model: BaseModel, images: torch.Tensor, form: _Form, record: Record) -> None:
        self.form = form
        self._trained = [p for p in model.parameters() if p.requires_grad]
        buffers = list(model.buffers())
        before = [buffer.clone() for buffer in buffers]
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices), _autocast_without_cache(images.device.type):
            self._run = record(_Network(model), images)
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        logger.info("speed-up: the network is recorded for %s", form)

    def __call__(self, images: torch.Tensor) -> Any:
        self._keep_gradients()
        return self._run(images)

    def _keep_gradients(self) -> None:
        """Copies gradients that earlier iterations left to be added to.

        They may lie in the recording's own memory, which the next backward pass overwrites before
        it adds to them (https://github.com/pytorch/pytorch/issues/181723).
        """
        kept = [p for p in self._trained if p.grad is not None]
        if kept:
            copies = torch._foreach_mul([p.grad for p in kept], 1.0)
            for parameter, gradient in zip(kept, copies, strict=True):
                parameter.grad = gradient


def _run_network(model: BaseModel, images: torch.Tensor) -> Any:
    """Runs the network as the model's class has it."""
    return type(model).network(model, images)


class _Network(nn.Module):
    """A model's network as a module, with the model's parameters, which is what PyTorch records."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return _run_network(self.model, images)


@contextlib.contextmanager
def _autocast_without_cache(kind: str) -> Iterator[None]:
    """Casts weights within the recording; a cast that was cached before would not be replayed."""
    with torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    ):
        yield


def use_own_stream() -> None:
    """Makes a stream of its own the current one, as recording needs it; on CUDA only.

    The default stream cannot be recorded. Autograd adds a gradient up on the stream on which its
    parameter was first used, so everything from DistributedDataParallel's construction on has to
    run on one stream that can.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_stream(stream)


def _record_graph(module: nn.Module, images: torch.Tensor) -> Run:
    """Records the forward and the backward pass of a module as CUDA graphs."""
    # make_graphed_callables of torch 2.11 has no arguments for these. A loader's thread that pins
    # memory must not end the capture, as it does in the mode `global`.
    capture = functools.partial(
        torch.cuda.graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
    )
    trained = [p for p in module.parameters() if p.requires_grad]
    edges = [torch.autograd.graph.get_gradient_edge(p) for p in trained]
    graph = torch.cuda.graph
    torch.cuda.graph = capture  # type: ignore[assignment,misc]
    try:
        run: Run = torch.cuda.make_graphed_callables(
            module,
            (images.clone(),),
            num_warmup_iters=11 if get_world_size() > 1 else 3,  # PyTorch asks for 11 with DDP
            allow_unused_input=True,
        )
    finally:
        torch.cuda.graph = graph  # type: ignore[misc]
    del edges  # until here they kept the nodes that add gradients up on this stream
    return run


def _compile(module: nn.Module, images: torch.Tensor, mode: str) -> Run:
    """Compiles a module; on a GPU its kernels are replayed as CUDA graphs as well."""
    return torch.compile(module, mode=mode, dynamic=False)
