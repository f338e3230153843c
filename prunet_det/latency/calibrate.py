"""Fits a device's constants to measured times, with the errors that one may expect of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunet_det.latency.device import (
    CPU_TILE_SCALE,
    FITTED,
    Device,
    KernelArrays,
    breakdown,
    kernels_ms,
    total_ms,
)
from prunet_det.latency.kernels import Kernel, block_kernels, layout_change, spec_kernels
from prunet_det.latency.predict import features
from prunet_det.latency.record import Conditions
from prunet_det.latency.stopwatch import Task, time_interleaved
from prunet_det.latency.table import Table, TableError, without_width
from prunet_det.runtime.program import PRECISIONS
from prunet_det.utils.env import device_title, readings
from prunet_det.utils.errors import InputError
from prunet_det.utils.extras import require
from prunet_det.utils.io import read_csv
from prunet_det.zoo.models import load_spec

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
class PublishedTime:
    """A published latency of a whole classifier.

    Attributes:
        network: Name of the network in the zoo.
        batch: Images at once.
        input_size: Side of the square images, in pixels.
        ms: Milliseconds for the batch.
    """

    network: str
    batch: int
    input_size: int
    ms: float


@dataclass(frozen=True)
class Errors:
    """Errors of predictions of published times, and how well they rank them.

    Attributes:
        points: The published times.
        predicted_ms: Predicted milliseconds in their order.
        kendall_tau: Kendall's rank correlation over all points, -1..1.
    """

    points: tuple[PublishedTime, ...]
    predicted_ms: tuple[float, ...]
    kendall_tau: float

    @property
    def relative(self) -> np.ndarray:
        """Signed relative errors, (points,)."""
        measured = np.array([p.ms for p in self.points])
        return np.array(self.predicted_ms) / measured - 1

    @property
    def mean(self) -> float:
        """Mean of the absolute relative errors."""
        return float(np.abs(self.relative).mean())

    @property
    def worst(self) -> float:
        """Largest absolute relative error."""
        return float(np.abs(self.relative).max())


def published_points(device: str) -> list[PublishedTime]:
    """Reads the published times of a device.

    Raises:
        ValueError: There are none.
    """
    rows = read_csv(PUBLISHED)[1]
    points = [
        PublishedTime(r["network"], int(r["batch"]), int(r["input_size"]), float(r["latency_ms"]))
        for r in rows
        if r["device"] == device
    ]
    if not points:
        known = ", ".join(sorted({r["device"] for r in rows}))
        raise InputError(f"there are no published times of {device!r}, only of {known}.")
    return points


@cache
def _kernels(network: str, input_size: int) -> tuple[Kernel, ...]:
    return tuple(spec_kernels(load_spec(network), input_size, "classifier"))


def _predictor(points: Sequence[PublishedTime]) -> Callable[[Device], np.ndarray]:
    """Prepares `predicted` for many devices: all points in one pass over arrays."""
    k = KernelArrays([_kernels(p.network, p.input_size) for p in points])
    batches = np.array([p.batch for p in points], float)[k.owner]
    return lambda device: total_ms(k, device, batches)


def predicted(device: Device, points: Sequence[PublishedTime]) -> np.ndarray:
    """Returns predicted milliseconds of the points, (points,)."""
    return _predictor(points)(device)


def fit(device: Device, points: Sequence[PublishedTime]) -> Device:
    """Fits a device's constants to published times, see `fit_to`.

    Raises:
        MissingPackageError: If SciPy is missing.
    """
    return fit_to(device, _predictor(points), np.array([p.ms for p in points]))


def fit_to(device: Device, predict: Callable[[Device], np.ndarray], measured: np.ndarray) -> Device:
    """Fits by bounded least squares in log space, with weak priors on physical starting values.

    Args:
        device: Device whose peaks are kept.
        predict: Function from a device to the milliseconds that it would take, (samples,).
        measured: Measured milliseconds, (samples,).

    Raises:
        MissingPackageError: If SciPy is missing.
    """
    least_squares = require("scipy.optimize", "det").least_squares
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


def errors(device: Device, points: Sequence[PublishedTime]) -> Errors:
    """Compares a device's predictions with published times."""
    from scipy.stats import kendalltau

    ms = predicted(device, points)
    tau = kendalltau(ms, [p.ms for p in points]).statistic if len(points) > 1 else 1.0
    return Errors(tuple(points), tuple(map(float, ms)), float(tau))


def leave_one_out(device: Device, points: Sequence[PublishedTime]) -> dict[str, Errors]:
    """Returns, for each network, the errors on it of a fit to all others."""
    names = list(dict.fromkeys(p.network for p in points))
    result = {}
    for name in names:
        others = [p for p in points if p.network != name]
        own = [p for p in points if p.network == name]
        result[name] = errors(fit(device, others), own)
    return result


def calibrate(
    device: Device, points: Sequence[PublishedTime], source: str, left_out: Mapping[str, Errors]
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


def _family(device: Device, points: Sequence[PublishedTime]) -> dict[str, list[float]]:
    """Range of every feature of the calibrated networks: [min, max]."""
    found = []
    for p in points:
        kernels = spec_kernels(load_spec(p.network), p.input_size, "classifier")
        found.append(features(kernels, breakdown(kernels, device, p.batch), p.batch))
    ranges = {key: [f[key] for f in found] for key in found[0]}
    return {key: [float(f"{m(v):.4g}") for m in (min, max)] for key, v in ranges.items()}


FOLDS = 5
_MIN_ENTRIES = 40  # eight constants need more than a handful of blocks


def measure_peaks(conditions: Conditions, device: str) -> Device:
    """Measures this machine's peaks; the other constants of the device are not fitted yet.

    Args:
        conditions: What the constants will be for: runtime, precision and threads.
        device: Torch device to measure.
    """
    cuda = torch.device(device).type == "cuda"
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        units, cache_mb = properties.multi_processor_count, properties.L2_cache_size / 2**20
        clock = readings(device).get("clock_mhz", 1500.0) / 1e3
    else:
        units, cache_mb = conditions.threads or os.cpu_count() or 1, _cpu_cache_mb()
        torch.set_num_threads(units)
        clock = readings(device).get("clock_mhz", 3000.0) / 1e3
    dtype = PRECISIONS[conditions.precision] if cuda else torch.float32
    side = 8192 if cuda else 1024
    a, b, out = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    source = torch.randn((2**28 if cuda else 2**24) // 4, device=device)
    target = torch.empty_like(source)
    product, copy = time_interleaved(
        [
            Task(lambda: torch.mm(a, b, out=out), device),
            Task(lambda: target.copy_(source), device),
        ],
        seconds=1.0,
    )
    # A large product and a copy reach what the priors say of a peak, so the peaks follow from them.
    prior = dict(zip(FITTED, PRIOR, strict=True))
    tensor = 2 * side**3 / product.median_ms / 1e9 / prior["tensor_efficiency"]
    moved = 2 * source.nbytes / copy.median_ms / 1e6 / prior["bandwidth_efficiency"]
    title = device_title(device)
    return Device(
        conditions=replace(
            conditions, device=re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_"), batch=1
        ),
        title=title,
        multiprocessors=units,
        clock_ghz=round(clock, 3),
        tensor_tflops=float(f"{tensor:.4g}"),
        # Of the plain cores: 128 lanes, two operations, two half-precision numbers a lane.
        half_tflops=float(f"{units * 512 * clock / 1e3 if cuda else tensor:.4g}"),
        dram_gb_s=float(f"{moved:.4g}"),
        l2_mb=round(cache_mb, 2),
        tile_scale=1.0 if cuda else CPU_TILE_SCALE,
    )


def _cpu_cache_mb() -> float:
    """Size of the last level's cache in MiB, as the operating system tells it."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="utf-8").strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) / 1024)
    return max(sizes, default=8.0)


def calibrate_to_table(device: Device, table: Table, source: str) -> Device:
    """Fits a device to a measured table and notes what the fit is worth.

    The errors are cross-validated: blocks alike but for their inner width are left out together.

    Args:
        device: Device with measured peaks.
        table: Table that was measured on it.
        source: Where the table is from, for the provenance.

    Raises:
        TableError: If the table is predicted, or has too few blocks.
    """
    keys = list(table.entries)
    if table.kind != "measured" or len(keys) < _MIN_ENTRIES:
        raise TableError(
            f"a fit needs a measured table of at least {_MIN_ENTRIES} blocks; {source} is "
            f"{table.kind} and has {len(keys)}."
        )
    batch = table.conditions.batch
    measured = np.array([table.ms(*key) for key in keys])
    arrays = [KernelArrays([block_kernels(*key)]) for key in keys]

    def predict(chosen: np.ndarray) -> Callable[[Device], np.ndarray]:
        joined = KernelArrays([block_kernels(*keys[i]) for i in chosen])
        return lambda candidate: kernels_ms(joined, candidate, batch)

    every = np.arange(len(keys))
    fitted = _with_overhead(fit_to(device, predict(every), measured), table)
    groups = {group: i for i, group in enumerate(dict.fromkeys(without_width(*k) for k in keys))}
    fold = np.array([groups[without_width(*key)] % FOLDS for key in keys])
    left_out = np.empty(len(keys))
    for i in range(FOLDS):
        other = fit_to(device, predict(every[fold != i]), measured[fold != i])
        left_out[fold == i] = predict(every[fold == i])(other)
    inside = np.array([kernels_ms(a, fitted, batch)[0] for a in arrays])
    errors = {
        name: np.abs(values / measured - 1)
        for name, values in (("in_sample", inside), ("cross_validated", left_out))
    }
    band = float(np.percentile(errors["cross_validated"], 90))
    provenance: dict[str, Any] = {
        "source": source,
        "conditions": table.title,
        "blocks": len(keys),
        "batches": [batch, batch],
        **{
            name: {"mean": round(float(e.mean()), 4), "worst": round(float(e.max()), 4)}
            for name, e in errors.items()
        },
        "band": {"inside": round(band, 3), "outside": round(2 * band, 3)},
    }
    rounded = fitted.with_constants([float(f"{getattr(fitted, k):.6g}") for k in FITTED])
    return replace(rounded, provenance=provenance)


def _with_overhead(device: Device, table: Table) -> Device:
    """Sets a network's fixed time to the table's, without the kernel of the image's layout."""
    firsts = [(key, e) for key, e in table.entries.items() if key[0].in_chs == 3]
    overheads = []
    for (block, (height, width)), entry in firsts or list(table.entries.items()):
        layout = KernelArrays([[layout_change(block.in_chs, height * width)]])
        own = kernels_ms(layout, device, table.conditions.batch)[0]
        overheads.append(1e3 * (entry.overhead_ms - own))
    return replace(device, net_us=max(float(np.median(overheads)), 1e-3))
