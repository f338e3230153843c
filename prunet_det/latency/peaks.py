"""What the machine that is here can reach: units, clock, arithmetic and memory of a device."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prunet_det.latency.calibrate import priors
from prunet_det.latency.device import CPU_TILE_SCALE, Device
from prunet_det.latency.record import Conditions
from prunet_det.latency.stopwatch import Task, time_interleaved
from prunet_det.runtime.program import PRECISIONS
from prunet_det.utils.env import device_title, readings

_USUAL_GHZ = {"cuda": 1.5, "cpu": 3.0}  # where the clock cannot be read


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
    else:
        units, cache_mb = conditions.threads or os.cpu_count() or 1, _cpu_cache_mb()
        torch.set_num_threads(units)
    dtype = PRECISIONS[conditions.precision] if cuda else torch.float32
    side = 8192 if cuda else 1024
    a, b, out = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    source = torch.randn((2**28 if cuda else 2**24) // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> Any:
        return target.copy_(source)

    tasks = [Task(lambda: torch.mm(a, b, out=out), device), Task(copy, device)]
    product, copied = time_interleaved(tasks, seconds=1.0)
    clock = busy_clock_ghz(copy, device)
    title = device_title(device)
    unfitted = Device(
        conditions=replace(
            conditions, device=re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_"), batch=1
        ),
        title=title,
        multiprocessors=units,
        clock_ghz=round(clock, 3),
        tensor_tflops=2 * side**3 / product.median_ms / 1e9,
        # Of the plain cores: 128 lanes, two operations, two half-precision numbers a lane.
        half_tflops=units * 512 * clock / 1e3,
        dram_gb_s=2 * source.nbytes / copied.median_ms / 1e6,
        l2_mb=round(cache_mb, 2),
        tap_chs=64 if cuda and conditions.runtime != "tensorrt" else 8,
        tile_scale=1.0 if cuda else CPU_TILE_SCALE,
    )
    # A large product and a copy reach what the priors say of a peak, so the peaks follow from them.
    prior = priors(unfitted)
    tensor = float(f"{unfitted.tensor_tflops / prior['tensor_efficiency']:.4g}")
    return replace(
        unfitted,
        tensor_tflops=tensor,
        half_tflops=float(f"{unfitted.half_tflops:.4g}") if cuda else tensor,
        dram_gb_s=float(f"{unfitted.dram_gb_s / prior['bandwidth_efficiency']:.4g}"),
    )


def busy_clock_ghz(work: Callable[[], Any], device: str | torch.device) -> float:
    """Returns a device's clock in GHz, read while it works: an idle GPU's says nothing.

    Args:
        work: What to keep the device busy with; of the kind that does not reach its power limit.
        device: The device.
    """
    kind = torch.device(device).type
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(readings, device)
        while not reading.done():
            work()
            if kind == "cuda":
                torch.cuda.synchronize(device)
    mhz = reading.result().get("clock_mhz")
    return mhz / 1e3 if mhz else _USUAL_GHZ.get(kind, 1.0)


def _cpu_cache_mb() -> float:
    """Size of the last level's cache in MiB, as the operating system tells it."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="utf-8").strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) / 1024)
    return max(sizes, default=8.0)
