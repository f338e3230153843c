"""The machine that is here as a device of the analytic model: its peaks, and a fit to a table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunet_det.latency.calibrate import PRIOR, fit_to
from prunet_det.latency.kernels import block_kernels, layout_change
from prunet_det.latency.roofline import CPU_TILE_SCALE, FITTED, Device, KernelArrays, kernels_ms
from prunet_det.latency.stopwatch import Task, time_interleaved
from prunet_det.latency.table import Table, TableError, without_width
from prunet_det.machine import device_title, readings
from prunet_det.runtime.program import PRECISIONS

FOLDS = 5
_LEAST_ENTRIES = 40  # eight constants need more than a handful of blocks


def measure_peaks(device: str, runtime: str, precision: str, threads: int = 0) -> Device:
    """This machine with measured peaks and constants that are not fitted yet.

    Args:
        device: A torch device.
        runtime, precision, threads: What the constants will be for.
    """
    cuda = torch.device(device).type == "cuda"
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        units, cache_mb = properties.multi_processor_count, properties.L2_cache_size / 2**20
        clock = readings(device).get("clock_mhz", 1500.0) / 1e3
    else:
        torch.set_num_threads(threads or os.cpu_count() or 1)
        units, cache_mb = threads or os.cpu_count() or 1, _cpu_cache_mb()
        clock = readings(device).get("clock_mhz", 3000.0) / 1e3
    dtype = PRECISIONS[precision] if cuda else torch.float32
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
        name=re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_"),
        title=title,
        multiprocessors=units,
        clock_ghz=round(clock, 3),
        tensor_tflops=float(f"{tensor:.4g}"),
        # Of the plain cores: 128 lanes, two operations, two half-precision numbers a lane.
        half_tflops=float(f"{units * 512 * clock / 1e3 if cuda else tensor:.4g}"),
        dram_gb_s=float(f"{moved:.4g}"),
        l2_mb=round(cache_mb, 2),
        tile_scale=1.0 if cuda else CPU_TILE_SCALE,
        runtime=runtime,
        precision=precision,
        threads=threads,
    )


def _cpu_cache_mb() -> float:
    """Of the last level, as the kernel tells it."""
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
        device: Its peaks.
        table: Measured on it.
        source: Where the table is from.

    Raises:
        TableError: Predicted, or too few blocks.
    """
    keys = list(table.entries)
    if table.conditions.kind != "measured" or len(keys) < _LEAST_ENTRIES:
        raise TableError(
            f"a fit needs a measured table of at least {_LEAST_ENTRIES} blocks; {source} is "
            f"{table.conditions.kind} and has {len(keys)}."
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
        "conditions": str(table.conditions),
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
    """With the time of a network beside its blocks: the table's, without the image's layout."""
    firsts = [(key, e) for key, e in table.entries.items() if key[0].in_chs == 3]
    overheads = []
    for (block, (height, width)), entry in firsts or list(table.entries.items()):
        layout = KernelArrays([[layout_change(block.in_chs, height * width)]])
        own = kernels_ms(layout, device, table.conditions.batch)[0]
        overheads.append(1e3 * (entry.overhead_ms - own))
    return replace(device, net_us=max(float(np.median(overheads)), 1e-3))
