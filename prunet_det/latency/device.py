"""Kernels to milliseconds on a named device: an analytic model with a handful of fitted constants.

    t(network, batch) = net + sum over kernels of (launch + max(compute, memory))

Which kernels there are is the runtime's, see `fusion`.

* Dense and 1x1 convolutions are implicit matrix products, M x N x K = batch * positions x out_chs x
  in_chs * taps, cut into tiles that the multiprocessors work off in waves; the best of eight tile
  shapes counts. A tile takes its operations at an efficiency that falls with its size, and no less
  than one step for every 32 of K. The channels of each tap are rounded up, by some libraries to as
  many as a tile's step takes.
* A depthwise convolution reads each input once, and works on it on the plain cores for a time that
  grows somewhat slower than the number of taps.
* Activations move at L2 speed while they fit there, else at DRAM speed; weights come from DRAM.
* Kernels that compute nothing but element-wise operations, poolings and copies start faster, and
  move their data slower, than convolutions.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.latency.fusion import Fusion, fusion_of
from prunet_det.latency.kernels import KINDS, Kernel
from prunet_det.latency.record import Conditions
from prunet_det.utils.config import check_keys
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import read_json

DEVICE_DIR = Path(__file__).parent / "devices"
# Tile shapes, a x b; those of NVIDIA's libraries for half precision.
TILES = np.array(
    [(256, 128), (128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (64, 32), (32, 32)], float
)
_TILE_HALF = 64.0  # sides of a tile at which its efficiency is halved
_TAPS_POWER = 0.75  # of a depthwise convolution's time in the number of its taps
CPU_TILE_SCALE = 0.125
BYTES = {"fp16": 2, "fp32": 4}
Batch = int | np.ndarray  # images at once, of all networks or one number a kernel
COMPONENTS = ("fixed", "launch", "dense", "pointwise", "depthwise", "elementwise", "memory")
PRODUCTS = ("dense", "pointwise", "grouped", "fc", "matmul")
FITTED = (
    "net_us",
    "launch_us",
    "elementwise_launch_us",
    "tensor_efficiency",
    "bandwidth_efficiency",
    "depthwise_efficiency",
    "k_step_us",
    "elementwise_factor",
    "dense_ratio",
)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device's peaks and the constants that were fitted to measurements on it.

    Attributes:
        conditions: Name, runtime, precision and threads that the constants were fitted to, at
            batch 1.
        title: What the hardware is called.
        multiprocessors: Number of multiprocessors; of a CPU, its threads. This and the following
            peaks are from the maker's data sheet, or measured.
        clock_ghz: Clock in GHz.
        tensor_tflops: Peak of matrix products in the precision, in TFLOP/s.
        half_tflops: Peak of other arithmetic in the precision, in TFLOP/s.
        dram_gb_s: Bandwidth of DRAM in GB/s.
        l2_mb: Size of the last cache in MiB.
        tap_chs: Number that the channels of each tap of a convolution are rounded up to: 8 where
            taps and channels are one dimension, 64 where a step of the product is of one tap.
        tile_scale: Sides of its tiles of matrix products as a fraction of a GPU's: 1 for GPUs,
            CPU_TILE_SCALE where registers hold the tiles.
        net_us: Time of a network beside its kernels, in microseconds.
        launch_us: Time of each convolution or matrix product beside its work, in microseconds.
        elementwise_launch_us: The same of other kernels.
        tensor_efficiency: Fraction of the tensor peak that 1x1 convolutions reach in large tiles.
        dense_ratio: Speed of convolutions with larger kernels, as a multiple of 1x1 ones.
        bandwidth_efficiency: Fraction of the DRAM bandwidth that is reached.
        depthwise_efficiency: Fraction of `half_tflops` that depthwise convolutions reach.
        k_step_us: Shortest time of 32 steps of a product's inner dimension, in microseconds.
        elementwise_factor: Factor on the memory time of other kernels than convolutions and
            products.
        provenance: Where the constants come from, and the errors of the fit.
    """

    conditions: Conditions
    title: str
    multiprocessors: int
    clock_ghz: float
    tensor_tflops: float
    half_tflops: float
    dram_gb_s: float
    l2_mb: float
    tap_chs: int = 8
    tile_scale: float = 1.0
    net_us: float = 30.0
    launch_us: float = 3.5
    elementwise_launch_us: float = 2.0
    tensor_efficiency: float = 0.55
    bandwidth_efficiency: float = 0.75
    depthwise_efficiency: float = 0.15
    k_step_us: float = 0.35
    elementwise_factor: float = 1.0
    dense_ratio: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """Name that predictions are asked for by, such as `v100`."""
        return self.conditions.device

    @property
    def fusion(self) -> Fusion:
        """What its runtime fuses.

        Raises:
            InputError: If the runtime is unknown.
        """
        return fusion_of(self.conditions)

    def at(self, batch: int) -> Conditions:
        """Conditions of a prediction.

        Raises:
            InputError: If the batch is no positive integer.
        """
        return replace(self.conditions, batch=batch)

    def with_constants(self, values: Sequence[float]) -> Device:
        """Returns the device with other fitted constants, given in the order of FITTED."""
        constants: dict[str, Any] = dict(zip(FITTED, map(float, values), strict=True))
        return replace(self, **constants)

    def to_json(self) -> str:
        """Content of the device's file."""
        data = asdict(self)
        settings = data.pop("conditions")
        order = {"name": settings["device"]}
        for key, value in data.items():
            order[key] = value
            if key == "tile_scale":
                order |= {k: settings[k] for k in ("runtime", "precision", "threads")}
        return json.dumps(order, indent=1) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Device:
        """Reads a device's file.

        Raises:
            MissingFileError: If there is no such file.
            InputError: If it is no device's.
        """
        where, data = os.fspath(path), read_json(path, "device file")
        peaks = ("multiprocessors", "clock_ghz", "tensor_tflops", "half_tflops", "dram_gb_s")
        required = ("name", "title", *peaks, "l2_mb")
        settings: dict[str, Any] = {"runtime": "tensorrt", "precision": "fp16", "threads": 0}
        known = {"name", *settings, *(f.name for f in fields(cls))} - {"conditions"}
        check_keys(data, sorted(known), required, f"{where} is no device file", InputError)
        _check_values(data, f"{where} is no device file")
        settings |= {k: data.pop(k) for k in settings if k in data}
        if "launch_us" in data:  # files of before had one launch for all kernels
            data.setdefault("elementwise_launch_us", data["launch_us"])
        try:
            conditions = Conditions(device=data.pop("name"), **settings)
            fusion_of(conditions)
        except InputError as e:
            raise InputError(f"{where} is no device file: {e}") from e
        return cls(conditions=conditions, **data)


# Times beside the work may be nothing; everything else is divided by.
_MAY_BE_ZERO = ("threads", "net_us", "launch_us", "elementwise_launch_us", "k_step_us")


def _check_values(data: Mapping[str, Any], where: str) -> None:
    """Refuses values of a device's file that are no texts or possible numbers."""
    for key, value in data.items():
        if key in ("name", "title", "runtime", "precision"):
            if not isinstance(value, str):
                raise InputError(f"{where}: {key} must be a text, got {value!r}.")
        elif key == "provenance":
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: provenance must be an object, got {value!r}.")
        else:
            least = "0 or more" if key in _MAY_BE_ZERO else "above 0"
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not (0 < value < math.inf or (value == 0 and key in _MAY_BE_ZERO)):
                raise InputError(f"{where}: {key} must be a number {least}, got {value!r}.")


def device_names() -> tuple[str, ...]:
    """Returns the names of the devices that come with the package."""
    return tuple(sorted(path.stem for path in DEVICE_DIR.glob("*.json")))


def load_device(name: str) -> Device:
    """Reads a device by its name, or by the path of a device file that calibration wrote.

    Raises:
        InputError: If the name is unknown, or the file no device's.
    """
    if name in device_names():
        return _own_device(name)
    if not Path(name).is_file():
        raise InputError(
            f"there is no device {name!r}; the known ones are {', '.join(device_names())}, or the "
            "path of a device file."
        )
    return Device.load(name)


@cache
def _own_device(name: str) -> Device:
    return Device.load(DEVICE_DIR / f"{name}.json")


class KernelArrays:
    """Kernels of one or many networks as arrays, so that pricing is a few array operations.

    Args:
        networks: Kernels of each network.
    """

    def __init__(self, networks: Sequence[Sequence[Kernel]]) -> None:
        every = [k for network in networks for k in network]
        self.owner = np.repeat(np.arange(len(networks)), [len(n) for n in networks])
        self.count = len(networks)
        self.kind = np.array([KINDS.index(k.kind) for k in every])
        numbers = np.array(
            [
                (k.in_chs, k.out_chs, k.groups, k.taps, k.positions, k.reads, k.writes, k.weights)
                for k in every
            ],
            float,
        ).reshape(len(every), 8)
        (
            self.in_chs,
            self.out_chs,
            self.groups,
            self.taps,
            self.positions,
            self.reads,
            self.writes,
            self.weights,
        ) = numbers.T

    def of_kind(self, *kinds: str) -> np.ndarray:
        """Returns a mask of the kernels of these kinds, (kernels,)."""
        return np.isin(self.kind, [KINDS.index(kind) for kind in kinds])


def _round_up(values: np.ndarray, to: int | np.ndarray) -> np.ndarray:
    return np.ceil(values / to) * to


def _products(k: KernelArrays, device: Device, batch: Batch) -> np.ndarray:
    """Compute time of matrix products, in us; zero for other kernels."""
    rows = (batch * k.positions)[:, None]
    columns = _round_up(k.out_chs / k.groups, 8)[:, None]
    chs = k.in_chs / k.groups
    # An image's few channels are never a step of their own.
    depth = _round_up(chs, np.where(chs > 8, device.tap_chs, 8)) * k.taps
    a, b = TILES.T * device.tile_scale
    tiles = np.ceil(rows / a) * np.ceil(columns / b) * k.groups[:, None]
    waves = np.ceil(tiles / device.multiprocessors)
    half = _TILE_HALF * device.tile_scale
    efficiency = device.tensor_efficiency / (1 + half * (1 / a + 1 / b) / 2)
    dense = np.where(k.taps > 1, device.dense_ratio, 1.0)[:, None]
    per_us = device.tensor_tflops * 1e6 / device.multiprocessors
    tile_us = 2 * a * b * depth[:, None] / (per_us * efficiency * dense)
    floor_us = np.ceil(depth / 32)[:, None] * device.k_step_us * device.tile_scale**2
    best = (waves * np.maximum(tile_us, floor_us)).min(1)
    return np.where(k.of_kind(*PRODUCTS), best, 0.0)


def _depthwise(k: KernelArrays, device: Device, batch: Batch) -> np.ndarray:
    """Compute time of depthwise convolutions, in us, by their inputs: no stride saves any."""
    mask = k.of_kind("depthwise")
    chs = np.where(mask, k.in_chs, 1)
    inputs = batch * k.reads / chs * _round_up(chs, 32)
    operations = inputs * 9 * (k.taps / 9) ** _TAPS_POWER * 2
    us = operations / (device.depthwise_efficiency * device.half_tflops * 1e6)
    return np.where(mask, us, 0.0)


def _memory(k: KernelArrays, device: Device, batch: Batch) -> np.ndarray:
    """Time to move activations and weights, in us."""
    activations = BYTES[device.conditions.precision] * batch * (k.reads + k.writes)
    l2_per_us = 32 * device.multiprocessors * device.clock_ghz * 1e3
    dram_per_us = device.bandwidth_efficiency * device.dram_gb_s * 1e3
    # A smooth switch: half of the traffic leaves L2 where the activations are as large as it is.
    share = 1 / (1 + (activations / (device.l2_mb * 2**20)) ** 4)
    us = activations * (share / l2_per_us + (1 - share) / dram_per_us)
    us = us * np.where(k.of_kind(*PRODUCTS, "depthwise"), 1.0, device.elementwise_factor)
    return us + BYTES[device.conditions.precision] * k.weights / dram_per_us


def kernel_times(k: KernelArrays, device: Device, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Returns compute and memory time of every kernel without its launch, in microseconds.

    Args:
        k: The kernels.
        device: The device.
        batch: Images at once: one number, or one for each kernel.
    """
    return _products(k, device, batch) + _depthwise(k, device, batch), _memory(k, device, batch)


def kernels_ms(k: KernelArrays, device: Device, batch: Batch) -> np.ndarray:
    """Returns milliseconds of every network's kernels without its fixed time, (networks,).

    Args:
        k: The networks' kernels.
        device: The device.
        batch: Images at once: one number, or one for each kernel.
    """
    compute, memory = kernel_times(k, device, batch)
    us = launches_us(k, device) + np.maximum(compute, memory)
    return np.bincount(k.owner, us, k.count) / 1e3


def launches_us(k: KernelArrays, device: Device) -> np.ndarray:
    """Returns the time of every kernel beside its work, in microseconds, (kernels,)."""
    convolutions = k.of_kind(*PRODUCTS, "depthwise")
    return np.where(convolutions, device.launch_us, device.elementwise_launch_us)


def total_ms(k: KernelArrays, device: Device, batch: Batch) -> np.ndarray:
    """Returns milliseconds of every network, (networks,); arguments as for `kernels_ms`."""
    return device.net_us / 1e3 + kernels_ms(k, device, batch)


def breakdown(kernels: Sequence[Kernel], device: Device, batch: int) -> dict[str, float]:
    """Splits a network's milliseconds into components, which add up to them.

    Args:
        kernels: What the network launches, for one image.
        device: The device.
        batch: Images at once.

    Returns:
        For every one of COMPONENTS: `fixed` and `launch`; `dense` (kernels over 1x1, grouped),
        `pointwise` (1x1, fully connected, matrix products) and `depthwise` where the arithmetic
        takes longest; `elementwise` for element-wise and layout kernels; `memory` where moving
        data takes longest, pooling, resizing and copies included.
    """
    k = KernelArrays([kernels])
    compute, memory = kernel_times(k, device, batch)
    longest = np.maximum(compute, memory) / 1e3
    bound = compute >= memory
    elementwise = k.of_kind("elementwise", "layout")
    parts = {
        "fixed": device.net_us / 1e3,
        "launch": launches_us(k, device).sum() / 1e3,
        "dense": longest[k.of_kind("dense", "grouped") & bound].sum(),
        "pointwise": longest[k.of_kind("pointwise", "fc", "matmul") & bound].sum(),
        "depthwise": longest[k.of_kind("depthwise") & bound].sum(),
        "elementwise": longest[elementwise].sum(),
        "memory": longest[~bound & ~elementwise].sum(),
    }
    return {name: float(value) for name, value in parts.items()}
