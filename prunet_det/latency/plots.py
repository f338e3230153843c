"""Pictures of latencies: predicted against measured, where the time goes, the roofline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunet_det.latency.calibrate import Errors
from prunet_det.latency.device import COMPONENTS, Device, KernelArrays, kernel_times
from prunet_det.latency.kernels import Kernel
from prunet_det.utils.errors import MissingPackageError
from prunet_det.utils.io import atomic_path

# Okabe and Ito's colours, told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise MissingPackageError("plots need matplotlib: pip install prunet_det[det].") from e
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    import matplotlib

    kind = os.fspath(path).rpartition(".")[2]
    # No date and no version, so that the same figures give the same bytes.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with (
        matplotlib.rc_context({"svg.hashsalt": "latency", "svg.fonttype": "none"}),
        atomic_path(path) as temporary,
    ):
        figure.savefig(temporary, format=kind, dpi=130, metadata=metadata)


def plot_calibration(errors: Errors, device: Device, path: str | os.PathLike[str]) -> None:
    """Predicted against published milliseconds of every point, with a band of 10 %."""
    figure, axes = _figure(5.2, 4.6)
    names = list(dict.fromkeys(p.network for p in errors.points))
    ends = np.array([0.35, 50.0])
    axes.plot(ends, ends, color="#444444", linewidth=0.8)
    axes.fill_between(ends, ends / 1.1, ends * 1.1, color="#DDDDDD", label="within 10 %", zorder=0)
    for i, name in enumerate(names):
        own = [
            (p.ms, ms)
            for p, ms in zip(errors.points, errors.predicted_ms, strict=True)
            if p.network == name
        ]
        axes.plot(*zip(*own, strict=True), _MARKERS[i], color=_COLOURS[i], markersize=5, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="published, ms (classifier, FP16, batch 1 to 64)",
        ylabel="predicted, ms",
    )
    axes.set_title(f"{device.title}: mean error {errors.mean:.1%}, worst {errors.worst:.1%}")
    axes.legend(frameon=False)
    _save(figure, path)


def plot_breakdown(
    parts: Mapping[str, Mapping[str, float]], title: str, path: str | os.PathLike[str]
) -> None:
    """A bar a network, of its components' milliseconds.

    Args:
        parts: Network to what `breakdown` gives.
        title: Device, runtime, precision, batch, size and scope.
        path: The file, *.png or *.svg.
    """
    figure, axes = _figure(7.0, 0.42 * len(parts) + 1.4)
    left = np.zeros(len(parts))
    for colour, component in zip(_COLOURS, COMPONENTS, strict=True):
        widths = np.array([p[component] for p in parts.values()])
        axes.barh(range(len(parts)), widths, 0.7, left, color=colour, label=component)
        left += widths
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.2f}", va="center")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * left.max())
    axes.set_xlabel("predicted milliseconds")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    _save(figure, path)


def plot_roofline(
    kernels: Sequence[Kernel],
    device: Device,
    batch: int,
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """Every kernel's arithmetic intensity and predicted speed under the device's peaks."""
    k = KernelArrays([kernels])
    compute, memory = kernel_times(k, device, batch)
    seconds = (np.maximum(compute, memory) + device.launch_us) / 1e6
    macs = np.array([kernel.macs for kernel in kernels], float)
    moved = 2 * (batch * (k.reads + k.writes) + k.weights)
    figure, axes = _figure(6.2, 4.4)
    shown = (("dense", "grouped"), ("pointwise", "fc", "matmul"), ("depthwise",))
    for i, kinds in enumerate(shown):
        mask = k.of_kind(*kinds) & (macs > 0)
        if mask.any():
            intensity = 2 * batch * macs[mask] / moved[mask]
            speed = 2 * batch * macs[mask] / seconds[mask] / 1e12
            axes.plot(
                intensity, speed, _MARKERS[i], color=_COLOURS[i], markersize=5, label=kinds[0]
            )
    x = np.logspace(-1, 4, 200)
    for peak, name in ((device.tensor_tflops, "tensor cores"), (device.half_tflops, "plain cores")):
        axes.plot(x, np.minimum(device.dram_gb_s * x / 1e3, peak), color="#444444", linewidth=0.8)
        axes.text(x[-1], peak, f"{name} ", ha="right", va="bottom", fontsize=8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations a byte (weights and activations once)",
        ylabel="predicted TFLOP/s, launch included",
    )
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def plot_check(
    measured: Sequence[float],
    sums: Mapping[str, Sequence[float]],
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """What was added up or predicted against the same networks measured whole, with a 10 % band.

    Args:
        measured: Milliseconds of each network.
        sums: Name to milliseconds in the same order.
        title: Device, runtime, precision, batch, size and scope.
        path: The file, *.png or *.svg.
    """
    figure, axes = _figure(5.2, 4.6)
    every = [*measured, *(ms for values in sums.values() for ms in values)]
    ends = np.array([0.85 * min(every), 1.2 * max(every)])
    axes.plot(ends, ends, color="#444444", linewidth=0.8)
    axes.fill_between(ends, ends / 1.1, ends * 1.1, color="#DDDDDD", label="within 10 %", zorder=0)
    for colour, marker, (name, values) in zip(_COLOURS, _MARKERS, sums.items(), strict=False):
        axes.plot(measured, values, marker, color=colour, markersize=5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="measured whole, ms", ylabel="added up, ms")
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False)
    _save(figure, path)
