"""Latency of a network on a device that need not be here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from prunet_det.latency.trace import trace
from prunet_det.runtime.subject import DETECTION_SIZE
from prunet_det.utils.config import positive_int
from prunet_det.zoo.models import resolve_spec

# How far beyond the calibrated networks a feature may lie before the prediction is called an
# extrapolation: our choice.
_MARGIN = 1.6


@dataclass(frozen=True)
class Prediction:
    """A predicted latency and what it is made of.

    Attributes:
        latency: The record, with its error band.
        breakdown: Component to milliseconds; they sum to the latency.
        kernels: What would be launched.
        warnings: Why it may be wrong, in sentences.
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
    scope: str = "backbone",
) -> Prediction:
    """Predicts a network of the zoo, of a spec file or of a dict, without building it.

    Args:
        model: See `resolve_spec`.
        device: A name, a device file or a Device.
        batch: Images at once.
        input_size: In pixels; by default 512, and a classifier's own resolution.
        scope: `backbone` or `classifier`.

    Raises:
        ValueError: Unknown network, device or scope, an impossible batch or size.
    """
    spec = resolve_spec(model)
    if input_size is None:
        input_size = spec.input_size if scope == "classifier" else DETECTION_SIZE
    positive_int(input_size, "the input size")
    return price(spec.name, spec_kernels(spec, input_size, scope), device, batch, input_size, scope)


def predict_module(
    module: nn.Module,
    name: str,
    device: str | Device = "v100",
    batch: int = 1,
    input_size: int = 512,
    scope: str = "backbone",
    in_chans: int = 3,
) -> Prediction:
    """Predicts any network by tracing it; `scope` says what it is.

    Raises:
        ValueError: As `predict`, or the network cannot be traced.
    """
    positive_int(input_size, "the input size")
    positive_int(batch, "the batch")
    traced = trace(module, (in_chans, input_size, input_size))
    prediction = price(name, traced.kernels, device, batch, input_size, scope)
    if not traced.unknown:
        return prediction
    listed = ", ".join(f"{op} ({count})" for op, count in traced.unknown.items())
    warning = f"operators that the model does not know are left out: {listed}."
    return Prediction(
        prediction.latency,
        prediction.breakdown,
        prediction.kernels,
        (*prediction.warnings, warning),
    )


def price(
    name: str,
    kernels: Sequence[Kernel],
    device: str | Device,
    batch: int,
    input_size: int,
    scope: str,
) -> Prediction:
    """A list of kernels as a prediction; arguments as in `predict`."""
    positive_int(batch, "the batch")
    known = load_device(device) if isinstance(device, str) else device
    ms = float(total_ms(KernelArrays([kernels]), known, batch)[0])
    parts = breakdown(kernels, known, batch)
    outside = outside_family(kernels, parts, known, batch)
    band = known.provenance.get("band", {})
    error = band.get("outside" if outside else "inside", 0.3)
    warnings: tuple[str, ...] = ()
    if outside:
        warnings = (
            f"outside of what {known.name} was calibrated on ({', '.join(outside)}): the error may "
            f"be {error:.0%}.",
        )
    latency = Latency(
        name,
        known.name,
        known.runtime,
        known.precision,
        batch,
        input_size,
        scope,
        "predicted",
        ms,
        ms / (1 + error),
        ms * (1 + error),
        " ".join(warnings),
        known.threads,
    )
    return Prediction(latency, parts, list(kernels), warnings)


def features(kernels: Sequence[Kernel], parts: Mapping[str, float], batch: int) -> dict[str, float]:
    """What tells whether a network is like those that a device was calibrated on."""
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
    """Names of the features that lie beyond the calibrated networks'."""
    ranges = device.provenance.get("family", {})
    found = features(kernels, parts, batch)
    batches = device.provenance.get("batches")
    beyond = ["batch"] if batches and not batches[0] <= batch <= batches[1] else []
    for key, (low, high) in ranges.items():
        shares = key.startswith("share")
        least = low - 0.1 if shares else low / _MARGIN
        most = high + 0.1 if shares else high * _MARGIN
        if not least <= found[key] <= most:
            beyond.append(key)
    return beyond
