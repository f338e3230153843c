"""Fits a device's constants to measured times, with the errors that one may expect of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.latency.device import (
    FITTED,
    Device,
    KernelArrays,
    breakdown,
    kernels_ms,
    total_ms,
)
from prunet_det.latency.errors import Errors
from prunet_det.latency.kernels import (
    Kernel,
    block_kernels,
    input_kernels,
    pool,
    spec_kernels,
)
from prunet_det.latency.predict import Prediction, features, predict_named
from prunet_det.latency.record import Latency
from prunet_det.latency.table import Table, TableError, without_width
from prunet_det.utils.errors import InputError
from prunet_det.utils.extras import require
from prunet_det.utils.io import read_csv
from prunet_det.zoo.models import load_spec

PUBLISHED = Path(__file__).parent / "published.csv"
PRIOR_WIDTH = 1.0  # e-folds that a constant may lie from its starting value, see `priors`
BOUND = 3.0


@dataclass(frozen=True)
class Loss:
    """How errors count in a fit: to the power, in units that are as likely as one prior width.

    Attributes:
        unit: A relative error.
        power: 2 for least squares; more where the worst error matters most.
    """

    unit: float
    power: float


# Of whole networks, the worst error hurts whoever has a budget. A block's time depends on which
# algorithm a library picks for it: that scatter is of no network, and not worth following.
NETWORK_LOSS = Loss(0.03, 3.0)
BLOCK_LOSS = Loss(0.06, 2.0)
# Published networks of one design: leaving one out leaves its likes in.
FAMILIES = (
    ("gpunet_0", "gpunet_1", "gpunet_2"),
    ("prunet_p0", "prunet_p1"),
    ("gpunet_d1", "gpunet_d2"),
)


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


def priors(device: Device) -> dict[str, float]:
    """Returns physical starting values of a device's constants, by their names in FITTED order.

    They were fixed before anything was fitted, but for the step of a product: three generations of
    GPUs take 1.6 times as long for it as the arithmetic of a tile of 64 x 64 takes at their peak.
    """
    step_us = 1.6 * 2 * 64 * 64 * 32 * device.multiprocessors / (1e6 * device.tensor_tflops)
    values = (30.0, 3.5, 2.0, 0.55, 0.75, 0.15, step_us, 1.0, 1.0)
    return dict(zip(FITTED, values, strict=True))


def published_devices() -> tuple[str, ...]:
    """Returns the names of the devices that there are published times of."""
    return tuple(sorted({row["device"] for row in read_csv(PUBLISHED)[1]}))


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
        known = ", ".join(published_devices())
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


def fit_to(
    device: Device,
    predict: Callable[[Device], np.ndarray],
    measured: np.ndarray,
    loss: Loss = NETWORK_LOSS,
) -> Device:
    """Fits by bounded least squares in log space, with weak priors on physical starting values.

    Args:
        device: Device whose peaks are kept.
        predict: Function from a device to the milliseconds that it would take, (samples,).
        measured: Measured milliseconds, (samples,).
        loss: How errors count.

    Raises:
        MissingPackageError: If SciPy is missing.
    """
    least_squares = require("scipy.optimize", "det").least_squares
    start = np.log(list(priors(device).values()))
    fractions = np.array([n in ("tensor_efficiency", "bandwidth_efficiency") for n in FITTED])

    def residuals(x: np.ndarray) -> np.ndarray:
        ms = predict(device.with_constants(np.exp(x)))
        error = np.log(ms / measured) / loss.unit
        powered = np.sign(error) * np.abs(error) ** (loss.power / 2)
        return np.concatenate([powered, (x - start) / PRIOR_WIDTH])

    high = np.where(fractions, 0.0, start + BOUND)
    bounds = (start - BOUND, high)
    # Far enough that another CPU gives the digits that are kept.
    found = least_squares(residuals, start, bounds=bounds, xtol=1e-10, ftol=1e-10, gtol=1e-10)
    return device.with_constants(np.exp(found.x))


def errors(device: Device, points: Sequence[PublishedTime]) -> Errors:
    """Compares a device's predictions with published times."""
    return Errors.of([p.ms for p in points], predicted(device, points))


def leave_out(
    device: Device, points: Sequence[PublishedTime], groups: Sequence[Sequence[str]]
) -> list[Errors]:
    """Returns, for each group of networks, the errors on it of a fit to all others."""
    found = []
    for group in groups:
        others = [p for p in points if p.network not in group]
        found.append(errors(fit(device, others), [p for p in points if p.network in group]))
    return found


def calibrate(device: Device, points: Sequence[PublishedTime], source: str) -> Device:
    """Fits a device and notes in its provenance what the fit is worth.

    Args:
        device: Its peaks.
        points: What it is fitted to.
        source: Where they come from.
    """
    fitted = fit(device, points)
    inside = errors(fitted, points)
    names = list(dict.fromkeys(p.network for p in points))
    alone = leave_out(device, points, [[name] for name in names])
    families = leave_out(device, points, FAMILIES)
    # A network like the calibrated ones is as wrong as one that was left out; another one twice
    # that, or as wrong as a family that was left out.
    band = max(e.worst for e in alone)
    outside = max(2 * band, *(e.worst for e in families))
    provenance: dict[str, Any] = {
        "source": source,
        "command": f"python tools/latency.py calibrate --device {device.name} --write",
        "points": len(points),
        "in_sample": inside.to_dict(),
        "leave_one_out": {name: e.to_dict() for name, e in zip(names, alone, strict=True)},
        "leave_family_out": {
            ", ".join(group): e.to_dict() for group, e in zip(FAMILIES, families, strict=True)
        },
        "kendall_tau": round(inside.kendall_tau, 4),
        "band": {"inside": round(band, 3), "outside": round(outside, 3)},
        "family": _family(fitted, [(_kernels(p.network, p.input_size), p.batch) for p in points]),
    }
    return replace(_rounded(fitted), provenance=provenance)


def _rounded(device: Device) -> Device:
    return device.with_constants([float(f"{getattr(device, k):.4g}") for k in FITTED])


def _family(
    device: Device, networks: Sequence[tuple[Sequence[Kernel], int]]
) -> dict[str, list[float]]:
    """Range of every feature of networks, each with a batch: [min, max]."""
    found = [features(k, breakdown(k, device, batch), batch) for k, batch in networks]
    ranges = {key: [f[key] for f in found] for key in found[0]}
    return {key: [float(f"{m(v):.4g}") for m in (min, max)] for key, v in ranges.items()}


FOLDS = 5
_MIN_ENTRIES = 40  # nine constants need more than a handful of blocks


def calibrate_to_table(
    device: Device, table: Table, source: str, networks: Sequence[Latency] = ()
) -> Device:
    """Fits a device to a measured table and notes what the fit is worth.

    The errors are cross-validated: blocks alike but for their inner width are left out together.

    Args:
        device: Device with measured peaks.
        table: Table that was measured on it.
        source: Where the table is from, for the provenance.
        networks: Whole networks measured under the same conditions, which the fit does not see: the
            error band is then their worst error, and a network unlike them is said to be so.

    Raises:
        TableError: If the table is predicted, has too few blocks, or is of another runtime,
            precision or number of threads than the device, or of other conditions than a network.
    """
    keys = list(table.entries)
    if table.kind != "measured" or len(keys) < _MIN_ENTRIES:
        raise TableError(
            f"a fit needs a measured table of at least {_MIN_ENTRIES} blocks; {source} is "
            f"{table.kind} and has {len(keys)}."
        )
    _require_alike(device, table, networks)
    batch = table.conditions.batch
    measured = np.array([table.entries[key].ms for key in keys])
    kernels = [block_kernels(*key, fusion=device.fusion) for key in keys]

    def predict(chosen: np.ndarray) -> Callable[[Device], np.ndarray]:
        joined = KernelArrays([kernels[i] for i in chosen])
        return lambda candidate: kernels_ms(joined, candidate, batch)

    every = np.arange(len(keys))
    fitted = _with_overhead(fit_to(device, predict(every), measured, BLOCK_LOSS), table)
    groups = {group: i for i, group in enumerate(dict.fromkeys(without_width(*k) for k in keys))}
    fold = np.array([groups[without_width(*key)] % FOLDS for key in keys])
    left_out = np.empty(len(keys))
    for i in range(FOLDS):
        other = fit_to(device, predict(every[fold != i]), measured[fold != i], BLOCK_LOSS)
        left_out[fold == i] = predict(every[fold == i])(other)
    left_out_errors = Errors.of(measured, left_out)
    band = float(np.percentile(np.abs(left_out_errors.relative), 90))
    peaks = {k: device.provenance[k] for k in ("peaks", "command") if k in device.provenance}
    provenance: dict[str, Any] = {
        "source": source,
        **peaks,
        "conditions": table.title,
        "blocks": len(keys),
        "batches": [batch, batch],
        "in_sample": Errors.of(measured, predict(every)(fitted)).to_dict(),
        "cross_validated": left_out_errors.to_dict(),
    }
    fitted = _rounded(fitted)
    if networks:
        predictions, found = judge(fitted, networks)
        provenance["networks"] = {
            "names": [p.latency.model for p in predictions],
            **found.to_dict(),
            "kendall_tau": round(found.kendall_tau, 4),
        }
        provenance["family"] = _family(fitted, [(p.kernels, batch) for p in predictions])
        band = found.worst
    provenance["band"] = {"inside": round(band, 3), "outside": round(2 * band, 3)}
    return replace(fitted, provenance=provenance)


def _require_alike(device: Device, table: Table, networks: Sequence[Latency]) -> None:
    """Refuses what was measured in another way than the device's constants are for."""
    own = replace(device.conditions, device=table.conditions.device, batch=table.conditions.batch)
    if own != table.conditions:
        raise TableError(
            f"the device is {device.conditions}, the table {table.conditions}: runtime, precision "
            "and threads must be the same."
        )
    for latency in networks:
        if latency.conditions != table.conditions:
            raise TableError(
                f"{latency.model} was measured on {latency.conditions}, the table on "
                f"{table.conditions}; measure the networks as the table."
            )


def judge(device: Device, networks: Sequence[Latency]) -> tuple[list[Prediction], Errors]:
    """Predicts networks that were measured whole.

    Args:
        device: The device that they were measured on.
        networks: The measurements; a network that is not in the zoo is named by its spec file.

    Returns:
        The predictions in their order, and their errors.
    """
    predictions = [
        predict_named(m.model, device, m.conditions.batch, m.input_size, m.scope) for m in networks
    ]
    return predictions, Errors.of([m.ms for m in networks], [p.latency.ms for p in predictions])


def _with_overhead(device: Device, table: Table) -> Device:
    """Sets a network's fixed time to the table's, without the kernels that stand beside a block.

    Those are the image's layout change, where the runtime has one, and the mean at the end of what
    is timed for a block.
    """
    firsts = [(key, e) for key, e in table.entries.items() if key[0].in_chs == 3]
    overheads = []
    for (block, size), entry in firsts or list(table.entries.items()):
        mean = pool("mean", block.out_chs, math.prod(block.output_size(size)))
        beside = [*input_kernels(block.in_chs, math.prod(size), device.fusion), mean]
        own = kernels_ms(KernelArrays([beside]), device, table.conditions.batch)[0]
        overheads.append(1e3 * (entry.overhead_ms - own))
    return replace(device, net_us=max(float(np.median(overheads)), 1e-3))
