"""Figures of latencies: predicted against measured, where the time goes, the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunet_det.latency.device import (
    COMPONENTS,
    Device,
    KernelArrays,
    kernel_times,
    launches_us,
)
from prunet_det.latency.kernels import Kernel
from prunet_det.utils import plots
from prunet_det.utils.plots import COLOURS, DARK, LIGHT, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = (("dense", "grouped"), ("pointwise", "fc", "matmul"), ("depthwise",))


def draw_pairs(
    groups: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str, title: str
) -> Figure:
    """Milliseconds against what they should be, both logarithmic, with a band of 10 %.

    Args:
        groups: Name to (what it should be, what it is).
        xlabel: Kind of the former.
        ylabel: Kind of the latter.
        title: What the milliseconds hold for.
    """
    figure, (axes,) = plots.figure(5.4, 4.6)
    every = [ms for pairs in groups.values() for pair in pairs for ms in pair]
    ends = np.array([0.85 * min(every), 1.2 * max(every)])
    axes.plot(ends, ends, color=DARK, linewidth=0.8)
    axes.fill_between(ends, ends / 1.1, ends * 1.1, color=LIGHT, label="within 10 %", zorder=0)
    for colour, marker, (name, pairs) in zip(COLOURS, MARKERS, groups.items(), strict=False):
        axes.plot(*zip(*pairs, strict=True), marker, color=colour, markersize=5, label=name)
    plots.log_scale(axes)
    axes.set(xlabel=f"{xlabel}, ms", ylabel=f"{ylabel}, ms")
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(frameon=False)
    return figure


def draw_breakdown(parts: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """A bar a network, of its components' milliseconds.

    Args:
        parts: Network to what `breakdown` gives.
        title: Device, runtime, precision, batch, size and scope.
    """
    figure, (axes,) = plots.figure(7.0, 0.36 * len(parts) + 1.6)
    left = np.zeros(len(parts))
    for colour, component in zip(COLOURS, COMPONENTS, strict=False):
        widths = np.array([p[component] for p in parts.values()])
        axes.barh(range(len(parts)), widths, 0.7, left, color=colour, label=component)
        left += widths
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.2f}", va="center")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.set(ylim=(len(parts) - 0.5, -0.5), xlim=(0, 1.1 * left.max()), xlabel="predicted, ms")
    axes.set_title(title, fontsize=10, loc="left")
    figure.legend(frameon=False, fontsize=8, ncols=len(COMPONENTS), loc="outside lower center")
    return figure


@dataclass(frozen=True)
class Roofline:
    """Kernels under the roofs of a device.

    Attributes:
        points: Kind of kernel to each kernel's operations a byte, where weights and activations
            are moved once, and TFLOP/s, with the launch included.
        peaks: Kind of cores to TFLOP/s.
        dram_gb_s: Bandwidth of the device's memory.
    """

    points: dict[str, list[tuple[float, float]]]
    peaks: dict[str, float]
    dram_gb_s: float


def roofline(kernels: Sequence[Kernel], device: Device, batch: int) -> Roofline:
    """Places a network's kernels under the roofs of a device.

    Args:
        kernels: The network's.
        device: What runs them.
        batch: Images at once.
    """
    k = KernelArrays([kernels])
    compute, memory = kernel_times(k, device, batch)
    seconds = (np.maximum(compute, memory) + launches_us(k, device)) / 1e6
    operations = 2 * batch * np.array([kernel.macs for kernel in kernels], float)
    moved = 2 * (batch * (k.reads + k.writes) + k.weights)
    points = np.stack([operations / moved, operations / seconds / 1e12], 1)
    kinds = {names[0]: k.of_kind(*names) & (operations > 0) for names in _KINDS}
    return Roofline(
        {kind: [(x, y) for x, y in points[mask].tolist()] for kind, mask in kinds.items()},
        {"tensor cores": device.tensor_tflops, "plain cores": device.half_tflops},
        device.dram_gb_s,
    )


def draw_roofline(shown: Roofline, title: str) -> Figure:
    """Each kernel's speed over its operations a byte, both logarithmic.

    Args:
        shown: Kernels and roofs.
        title: The network, and what it runs on.
    """
    figure, (axes,) = plots.figure(6.2, 4.4)
    for colour, marker, (kind, pairs) in zip(COLOURS, MARKERS, shown.points.items(), strict=False):
        if pairs:
            axes.plot(*zip(*pairs, strict=True), marker, color=colour, markersize=5, label=kind)
    x = np.logspace(-1, 4, 200)
    for name, peak in shown.peaks.items():
        axes.plot(x, np.minimum(shown.dram_gb_s * x / 1e3, peak), color=DARK, linewidth=0.8)
        axes.text(x[-1], peak, f"{name} ", ha="right", va="bottom", fontsize=8)
    plots.log_scale(axes, leading=(1,))
    axes.set(
        xlabel="operations a byte (weights and activations moved once)",
        ylabel="predicted TFLOP/s, launch included",
    )
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, loc="lower right")
    return figure
