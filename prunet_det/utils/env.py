"""The environment of a figure: commit, package versions, device, clocks and temperature."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata as metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from prunet_det.utils.errors import InputError, UserError

# Distributions that a figure may depend on.
_PACKAGES = (
    "torch",
    "timm",
    "onedl-mmengine",
    "onedl-mmdetection",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
)


# Says which commit a copy of the code is of, where it is no checkout.
COMMIT_VARIABLE = "PRUNET_COMMIT"


def git_commit() -> str:
    """Returns what the environment says in PRUNET_COMMIT, or else the checkout's commit.

    `+changes` behind it says that files differ; without either it is `unknown`.
    """
    if given := os.environ.get(COMMIT_VARIABLE):
        return given

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that figures may depend on."""
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def environment() -> dict[str, Any]:
    """Describes commit, date, machine and versions, for records."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "commit": git_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), {gpu}",
        "versions": versions(),
    }


def device_title(device: str | torch.device) -> str:
    """Returns a torch device's title, such as `NVIDIA H200` or `AMD EPYC, 2 cores`."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2]
            break
    return f"{' '.join(model.split())}, {os.cpu_count()} cores"


def local_devices() -> dict[str, str]:
    """Title of every torch device of this machine, by its name: `cpu`, `cuda:0`, ..."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return {name: device_title(name) for name in names}


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_processes() -> int:
    """Returns the number of processes of this distributed training on this machine; 1 for none."""
    # The innermost launcher comes first: torchrun may run under both others, mpirun under Slurm.
    for name in ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE"):
        if name in os.environ:
            counts = re.findall(r"(?<!x)\b\d+", os.environ[name])  # Slurm's may be "8(x2),4"
            return max(map(int, counts))
    return 1


def process_rank() -> int:
    """Returns the number of this process among those of a distributed training, before it begins.

    As torchrun, Slurm and Open MPI say it; 0 without one of them.
    """
    names = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def free_shared_memory() -> int:
    """Returns the number of bytes of memory that processes can still share.

    It is the least of what the machine has available, what the container's limit (of cgroup v2)
    leaves, and what is free in /dev/shm, as far as they can be read; without end if none can.
    """
    free = [shutil.disk_usage("/dev/shm").free] if Path("/dev/shm").is_dir() else []
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
        files = int(statistics.get("inactive_file", 0))  # read from disk, dropped when needed
        free.append(int(limit) - int(used) + files)
    return max(0, min(free, default=sys.maxsize))


def check_device(name: str) -> str:
    """Returns the name of a torch device, once it is known to be here.

    Raises:
        InputError: If it is neither a CPU nor a CUDA device, or not here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"there is no device {name!r}; give cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no CUDA device {name} here; use cpu.")
    return name


def check_launcher(launcher: str) -> None:
    """Refuses the launcher `pytorch` where torchrun has not started this process.

    Raises:
        UserError: If it has not.
    """
    if launcher == "pytorch" and "RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch is for processes that torchrun starts: torchrun "
            "--nproc_per_node N tools/TOOL.py ..."
        )


def on_device(device: str | torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a CUDA device the current one: its streams are what events and graphs record."""
    cuda = torch.device(device).type == "cuda"
    return torch.cuda.device(device) if cuda else contextlib.nullcontext()


def driver(device: str | torch.device) -> str:
    """Returns the version of the CUDA driver, or of the kernel for a CPU."""
    if torch.device(device).type == "cuda":
        return _nvidia_smi("driver_version", device) or "unknown"
    return platform.release()


def readings(device: str | torch.device) -> dict[str, float]:
    """Reads a device's sensors.

    Returns:
        `clock_mhz`, `temperature_c` (degrees Celsius) and, of a GPU, `power_w`, as far as they can
        be read.
    """
    if torch.device(device).type == "cuda":
        names = ("clock_mhz", "temperature_c", "power_w")
        line = _nvidia_smi("clocks.sm,temperature.gpu,power.draw", device)
        return dict(_numbers(zip(names, line.split(","), strict=False)))
    root = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    zone = Path("/sys/class/thermal/thermal_zone0/temp")
    values = dict(_numbers([("clock_mhz", _read(root)), ("temperature_c", _read(zone))]))
    return {name: value / 1e3 for name, value in values.items()}  # both are in thousandths


def _numbers(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, float]]:
    for name, text in pairs:
        try:
            yield name, float(text)
        except ValueError:
            continue


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _nvidia_smi(query: str, device: str | torch.device) -> str:
    """Returns a GPU's answer to a query, or an empty string."""
    # By its UUID: nvidia-smi's numbers are not PyTorch's where CUDA_VISIBLE_DEVICES is set.
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", gpu, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # not here, slow, or it knows no such GPU
        return ""
    return done.stdout.strip()
