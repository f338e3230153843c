"""Measured times to a device's constants, with the errors that one may expect of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.latency.kernels import Kernel, spec_kernels
from prunet_det.latency.predict import features
from prunet_det.latency.roofline import (
    FITTED,
    Device,
    KernelArrays,
    breakdown,
    total_ms,
)
from prunet_det.zoo.registry import load_spec

PUBLISHED = Path(__file__).parent / "published.csv"
# Physical starting values, in the order of FITTED, and how many e-folds a constant may lie from its
# own: fixed before anything was fitted.
PRIOR = (30.0, 2.5, 0.55, 0.75, 0.15, 0.35, 1.0, 1.0)
PRIOR_WIDTH = 1.0
BOUND = 3.0
# Errors count in units of 3 % and to the power of 3: the worst one hurts whoever has a budget.
ERROR_UNIT = 0.03
ERROR_POWER = 3.0
# Networks that no other of the calibrated ones is like: leaving one out leaves out its family.
FAMILIES_OF_ONE = ("prunet_p0", "gpunet_d1")


@dataclass(frozen=True)
class Point:
    """A measured time of a network."""

    network: str
    batch: int
    input_size: int
    ms: float


@dataclass(frozen=True)
class Errors:
    """Relative errors of predictions, one a point, and how well they rank the networks.

    Attributes:
        points: The points.
        predicted_ms: In their order.
        kendall_tau: Over all points.
    """

    points: tuple[Point, ...]
    predicted_ms: tuple[float, ...]
    kendall_tau: float

    @property
    def relative(self) -> np.ndarray:
        """(points,) signed."""
        measured = np.array([p.ms for p in self.points])
        return np.array(self.predicted_ms) / measured - 1

    @property
    def mean(self) -> float:
        """Of the absolute errors."""
        return float(np.abs(self.relative).mean())

    @property
    def worst(self) -> float:
        """Of the absolute errors."""
        return float(np.abs(self.relative).max())


def published_points(device: str) -> list[Point]:
    """The published times of a device.

    Raises:
        ValueError: There are none.
    """
    with open(PUBLISHED, encoding="utf-8") as handle:
        rows = list(csv.DictReader(line for line in handle if not line.startswith("#")))
    points = [
        Point(r["network"], int(r["batch"]), int(r["input_size"]), float(r["latency_ms"]))
        for r in rows
        if r["device"] == device
    ]
    if not points:
        known = ", ".join(sorted({r["device"] for r in rows}))
        raise ValueError(f"there are no published times of {device!r}, only of {known}.")
    return points


@cache
def _kernels(network: str, input_size: int) -> tuple[Kernel, ...]:
    return tuple(spec_kernels(load_spec(network), input_size, "classifier"))


def _predictor(points: Sequence[Point]) -> Callable[[Device], np.ndarray]:
    """What `predicted` does for many devices, with all points in one pass over arrays."""
    k = KernelArrays([_kernels(p.network, p.input_size) for p in points])
    batches = np.array([p.batch for p in points], float)[k.owner]
    return lambda device: total_ms(k, device, batches)


def predicted(device: Device, points: Sequence[Point]) -> np.ndarray:
    """(points,) milliseconds."""
    return _predictor(points)(device)


def fit(device: Device, points: Sequence[Point]) -> Device:
    """The device with constants fitted to the points, see `fit_to`.

    Raises:
        ImportError: SciPy is missing.
    """
    return fit_to(device, _predictor(points), np.array([p.ms for p in points]))


def fit_to(device: Device, predict: Callable[[Device], np.ndarray], measured: np.ndarray) -> Device:
    """Bounded least squares in log space, with weak priors on physical starting values.

    Args:
        device: Its peaks.
        predict: Milliseconds that a device with other constants would give, (samples,).
        measured: (samples,) milliseconds.

    Raises:
        ImportError: SciPy is missing.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError as e:
        raise ImportError("calibration needs SciPy: pip install prunet_det[det].") from e
    start = np.log(PRIOR)
    efficiencies = np.array([name in FITTED[2:4] for name in FITTED])  # of a peak: at most 1

    def residuals(x: np.ndarray) -> np.ndarray:
        ms = predict(device.with_constants(np.exp(x)))
        error = np.log(ms / measured) / ERROR_UNIT
        powered = np.sign(error) * np.abs(error) ** (ERROR_POWER / 2)
        return np.concatenate([powered, (x - start) / PRIOR_WIDTH])

    high = np.where(efficiencies, 0.0, start + BOUND)
    found = least_squares(residuals, start, bounds=(start - BOUND, high))
    return device.with_constants(np.exp(found.x))


def errors(device: Device, points: Sequence[Point]) -> Errors:
    """How a device's predictions compare with points."""
    from scipy.stats import kendalltau

    ms = predicted(device, points)
    tau = kendalltau(ms, [p.ms for p in points]).statistic if len(points) > 1 else 1.0
    return Errors(tuple(points), tuple(map(float, ms)), float(tau))


def leave_one_out(device: Device, points: Sequence[Point]) -> dict[str, Errors]:
    """For each network, the errors on it of a fit to all others."""
    names = list(dict.fromkeys(p.network for p in points))
    result = {}
    for name in names:
        others = [p for p in points if p.network != name]
        own = [p for p in points if p.network == name]
        result[name] = errors(fit(device, others), own)
    return result


def calibrate(
    device: Device, points: Sequence[Point], source: str, left_out: Mapping[str, Errors]
) -> Device:
    """Fits a device and notes in its provenance what the fit is worth.

    Args:
        device: Its peaks.
        points: What it is fitted to.
        source: Where they come from.
        left_out: What `leave_one_out` gave for them.
    """
    fitted = fit(device, points)
    inside = errors(fitted, points)
    provenance: dict[str, Any] = {
        "source": source,
        "command": f"python tools/latency.py calibrate --device {device.name} --write",
        "points": len(points),
        "in_sample": {"mean": round(inside.mean, 4), "worst": round(inside.worst, 4)},
        "leave_one_out": {
            name: {"mean": round(e.mean, 4), "worst": round(e.worst, 4)}
            for name, e in left_out.items()
        },
        "kendall_tau": round(inside.kendall_tau, 4),
        "band": _band(left_out),
        "family": _family(fitted, points),
    }
    rounded = fitted.with_constants([float(f"{getattr(fitted, k):.6g}") for k in FITTED])
    return replace(rounded, provenance=provenance)


def _band(left_out: Mapping[str, Errors]) -> dict[str, float]:
    """Error bands of a prediction for a network like the calibrated ones, and for another.

    The former is the worst error on a network that was left out while its likes were fitted; the
    latter at least twice that, and no less than the worst of all.
    """
    worst = {name: e.worst for name, e in left_out.items()}
    alike = [w for name, w in worst.items() if name not in FAMILIES_OF_ONE]
    inside = max(alike or worst.values())
    return {"inside": round(inside, 3), "outside": round(max(2 * inside, *worst.values()), 3)}


def _family(device: Device, points: Sequence[Point]) -> dict[str, list[float]]:
    """Least and greatest value of every feature of the calibrated networks."""
    found = []
    for p in points:
        kernels = spec_kernels(load_spec(p.network), p.input_size, "classifier")
        found.append(features(kernels, breakdown(kernels, device, p.batch), p.batch))
    ranges = {key: [f[key] for f in found] for key in found[0]}
    return {key: [float(f"{m(v):.4g}") for m in (min, max)] for key, v in ranges.items()}
