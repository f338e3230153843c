"""Latency of a network on a device that need not be here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prunet_det.arch.spec import ArchSpec
from prunet_det.latency.device import (
    Device,
    KernelArrays,
    breakdown,
    load_device,
    total_ms,
)
from prunet_det.latency.kernels import Kernel, spec_kernels
from prunet_det.latency.record import Latency
from prunet_det.latency.subject import load_named
from prunet_det.latency.trace import trace
from prunet_det.runtime.subject import (
    DETECTION_SIZE,
    Scope,
    is_ours,
    timm_network,
)
from prunet_det.utils.config import positive_int
from prunet_det.zoo.models import resolve_spec

# How far beyond the calibrated networks a feature may lie before the prediction is called an
# extrapolation: our choice.
_MARGIN = 1.6
# Kernels that the networks have none of that devices were calibrated on.
_UNLIKE: dict[str, Callable[[Kernel], bool]] = {
    "grouped convolutions": lambda kernel: kernel.kind == "grouped",
    "matrix products": lambda kernel: kernel.kind == "matmul",
    "convolutions above 7x7": lambda kernel: kernel.taps > 49,
}


@dataclass(frozen=True)
class Prediction:
    """A predicted latency and what it is made of.

    Attributes:
        latency: The latency with its error band.
        breakdown: Milliseconds by component, which add up to the latency.
        kernels: What the network launches.
        warnings: Sentences that say why the prediction may be wrong.
    """

    latency: Latency
    breakdown: dict[str, float]
    kernels: list[Kernel]
    warnings: tuple[str, ...]


def predict(
    model: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec,
    device: str | Device = "v100",
    batch: int = 1,
    input_size: int | None = None,
    scope: Scope | str = Scope.BACKBONE,
) -> Prediction:
    """Predicts a network by its spec, without building it.

    Args:
        model: A network of the zoo by name, a spec file, a dict or a spec; see `resolve_spec`.
        device: A device's name, the path of a device file, or a Device.
        batch: Images at once.
        input_size: Side of the square images, in pixels; by default 512 for a backbone and the
            network's own resolution for a classifier.
        scope: `backbone` or `classifier`.

    Raises:
        InputError: If network, device or scope are unknown, or batch or size impossible.
    """
    spec = resolve_spec(model)
    if input_size is None:
        input_size = spec.input_size if Scope(scope) is Scope.CLASSIFIER else DETECTION_SIZE
    positive_int(input_size, "the input size")
    known = load_device(device) if isinstance(device, str) else device
    kernels = spec_kernels(spec, input_size, scope, fusion=known.fusion)
    return price(spec.name, kernels, known, batch, input_size, scope)


def predict_module(
    module: nn.Module,
    name: str,
    device: str | Device = "v100",
    batch: int = 1,
    input_size: int = 512,
    scope: Scope | str = Scope.BACKBONE,
) -> Prediction:
    """Predicts any network by tracing it.

    Args:
        module: Network that takes images (N, 3, H, W); it is traced without being run.
        name: Its name in the latency.
        device: A device's name, the path of a device file, or a Device.
        batch: Images at once.
        input_size: Side of the square images, in pixels.
        scope: What part of a network the module is, for the latency.

    Returns:
        The prediction; a warning names operators that are left out because the model has no price
        for them.

    Raises:
        InputError: If batch or size are impossible, or the network cannot be traced.
    """
    positive_int(input_size, "the input size")
    known = load_device(device) if isinstance(device, str) else device
    traced = trace(module, (3, input_size, input_size), known.fusion)
    prediction = price(name, traced.kernels, known, batch, input_size, scope)
    if not traced.unknown:
        return prediction
    listed = ", ".join(f"{op} ({count})" for op, count in traced.unknown.items())
    warning = f"operators that the model does not know are left out: {listed}."
    return replace(prediction, warnings=(*prediction.warnings, warning))


def predict_named(
    name: str,
    device: str | Device = "v100",
    batch: int = 1,
    input_size: int | None = None,
    scope: Scope | str = Scope.BACKBONE,
) -> Prediction:
    """Predicts whatever a command line names: our own networks by formula, all others by a trace.

    Args:
        name: A network of the zoo or of timm, a spec file, or a detector's config (*.py).
        device: A device's name, the path of a device file, or a Device.
        batch: Images at once.
        input_size: Side of the square images, in pixels; by default what `load_named` takes.
        scope: What part of it.

    Raises:
        InputError: If name, device or scope are unknown, or batch or size impossible.
    """
    if name.endswith(".py"):
        subject = load_named(name, scope, input_size, settle=False)
        size = subject.input_size
        return predict_module(subject.module, subject.name, device, batch, size, scope)
    if is_ours(name):
        return predict(name, device, batch, input_size, scope)
    with torch.device("meta"):
        module, own = timm_network(name, scope)
    size = own if input_size is None else input_size
    return predict_module(module, name, device, batch, size, scope)


def price(
    name: str,
    kernels: Sequence[Kernel],
    device: Device,
    batch: int,
    input_size: int,
    scope: Scope | str,
) -> Prediction:
    """Prices a list of kernels.

    Args:
        name: Name of the network.
        kernels: What it launches on the device, for one image.
        device: What runs them.
        batch: As for `predict`.
        input_size: As for `predict`.
        scope: As for `predict`.
    """
    conditions = device.at(batch)
    ms = float(total_ms(KernelArrays([kernels]), device, batch)[0])
    parts = breakdown(kernels, device, batch)
    outside = outside_family(kernels, parts, device, batch)
    band = device.provenance.get("band", {})
    error = band.get("outside" if outside else "inside", 0.3)
    warnings: tuple[str, ...] = ()
    if outside:
        warnings = (
            f"outside of what {device.name} was calibrated on ({', '.join(outside)}): the error "
            f"may be {error:.0%}.",
        )
    latency = Latency(
        model=name,
        input_size=input_size,
        scope=Scope(scope),
        conditions=conditions,
        ms=ms,
        low=ms / (1 + error),
        high=ms * (1 + error),
        kind="predicted",
        note=" ".join(warnings),
    )
    return Prediction(latency, parts, list(kernels), warnings)


def features(kernels: Sequence[Kernel], parts: Mapping[str, float], batch: int) -> dict[str, float]:
    """Describes a network by what must resemble the networks that a device was calibrated on.

    Args:
        kernels: What the network launches, for one image.
        parts: Milliseconds by component, see `device.breakdown`.
        batch: Images at once.
    """
    total = sum(parts.values()) - parts["fixed"]
    work = {f"share of {k}": parts[k] / total for k in ("dense", "depthwise", "elementwise")}
    return {
        "kernels": len(kernels),
        "MACs": batch * sum(k.macs for k in kernels),
        **work,
    }


def outside_family(
    kernels: Sequence[Kernel], parts: Mapping[str, float], device: Device, batch: int
) -> list[str]:
    """Returns what lies outside of the calibrated networks: features, and kinds of kernels.

    Args:
        kernels: As for `features`.
        parts: As for `features`.
        device: A device whose provenance has the ranges.
        batch: Images at once.
    """
    ranges = device.provenance.get("family", {})
    found = features(kernels, parts, batch)
    batches = device.provenance.get("batches")
    beyond = ["batch"] if batches and not batches[0] <= batch <= batches[1] else []
    for key, (low, high) in ranges.items():
        shares = key.startswith("share")
        low = low - 0.1 if shares else low / _MARGIN
        high = high + 0.1 if shares else high * _MARGIN
        if not low <= found[key] <= high:
            beyond.append(key)
    return beyond + [what for what, is_one in _UNLIKE.items() if any(map(is_one, kernels))]
