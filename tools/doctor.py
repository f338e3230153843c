"""Check the environment: python tools/doctor.py. Needs nothing but Python itself."""

import argparse
import importlib
import importlib.metadata as metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
PIP = f"{sys.executable} -m pip install -c {os.path.relpath(CONSTRAINTS)}"
# What shows that a distribution works, where that is not the import of its own name.
MODULES = {
    "mkdocs-material": "material",
    "mkdocstrings-python": "mkdocstrings_handlers.python",
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv.ops",
    "onedl-mmdetection": "mmdet.apis",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pycocotools": "pycocotools.mask",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
# Distributions that own the same import name: exactly one may be installed, the first is ours.
RIVALS = [
    ("onedl-mmengine", "mmengine", "mmengine-lite"),
    ("onedl-mmcv", "mmcv", "mmcv-lite", "mmcv-full"),
    ("onedl-mmdetection", "mmdet"),
    (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
]


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> dict[str, str]:
    """Distribution to the extra that needs it, "" for the core, as the package's metadata say."""
    try:
        lines = metadata.requires("prunet_det") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        name, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)", marker)
        found[re.split(r"[\s<>=!~\[(]", name)[0]] = extra.group(1) if extra else ""
    found.pop("prunet_det", None)  # of the extra `dev`, which takes the others
    return {
        **{name: extra for name, extra in found.items() if extra != "dev"},
        "opencv-python-headless": "det",  # mmcv needs an OpenCV, and servers the headless one
    }


def pins(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Name to version, as constraints.txt pins them."""
    if not path.is_file():
        return {}
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def install_command(name: str, pinned: dict[str, str]) -> str:
    """The command that installs one package as it was tried."""
    version = f"=={pinned[name]}" if name in pinned else ""
    if name == "onedl-mmcv":
        return f"CFLAGS=-g0 {PIP} --no-build-isolation {name}{version}   # compiles, minutes"
    if name == "prunet_det":
        return f"{sys.executable} -m pip install prunet_det   # in a checkout: make env"
    return f"{PIP} {name}{version}"


def check_import(module: str) -> str:
    """Empty where the module imports, else the reason."""
    try:
        importlib.import_module(module)
    except Exception as e:  # whatever a broken package raises is the finding
        return " ".join(f"{type(e).__name__}: {e}".split())[:160]
    return ""


def check_torchvision() -> str:
    """Empty where torchvision's compiled operators fit torch, else the reason."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    except Exception as e:
        return " ".join(f"{type(e).__name__}: {e}".split())[:160]
    return ""


def check_mmcv_cuda() -> str:
    """Empty where mmcv's CUDA operators work or no GPU asks for them, else what will not run."""
    try:
        import torch
        from mmcv.ops import nms

        if not torch.cuda.is_available():
            return ""
        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).cuda(), torch.ones(1).cuda(), 0.5)
    except Exception as e:  # whatever a missing operator raises is the finding
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:120]
        return (
            f"mmcv has no CUDA operators here ({reason}). The EfficientDet configs do without; "
            "MMDetection's own heads (prunet_retinanet_coco.py, prunet_rtmdet_coco.py, "
            "resnet10t_retinanet.py) do not run on this GPU. With nvcc at hand: "
            f"FORCE_CUDA=1 CFLAGS=-g0 {PIP} --no-build-isolation --no-binary onedl-mmcv "
            "--force-reinstall --no-deps onedl-mmcv"
        )
    return ""


def absent_extras(needed: dict[str, str]) -> list[str]:
    """The extras that nobody asked for: the first package of each is not installed."""
    first = {extra: name for name, extra in reversed(needed.items()) if extra}
    rivals = {r[0]: r for r in RIVALS}
    return [e for e, name in first.items() if not any(map(installed, rivals.get(name, (name,))))]


def diagnose() -> tuple[list[tuple[str, ...]], list[tuple[str, str]]]:
    """Rows of the table, and (problem, command that mends it)."""
    pinned, rows, problems = pins(), [], []
    needed = requirements()
    absent = absent_extras(needed)
    for name, extra in {"prunet_det": "", **needed}.items():
        version = installed(name)
        rivals = next((r for r in RIVALS if r[0] == name), (name,))
        others = [(r, v) for r in rivals[1:] if (v := installed(r))]
        if version is None and not others:
            state = f"for the extra '{extra}'" if extra in absent else "missing"
            rows.append((name, pinned.get(name, "any"), "-", state))
            if extra in absent:
                continue
            what = f"the extra '{extra}'" if extra else "the core"
            problems.append((f"{name} is missing; {what} needs it", install_command(name, pinned)))
            continue
        shown = version or f"{others[0][0]} {others[0][1]}"
        failure = check_import(MODULES.get(name, name.replace("-", "_")))
        state = "does not import" if failure else "ok"
        if version and others:
            state = "doubly installed"
            names = " ".join(other for other, _ in others)
            problems.append(
                (
                    f"{name} and {names} own the same files; keep one of them",
                    f"{sys.executable} -m pip uninstall -y {names} {name} && "
                    + install_command(name, pinned),
                )
            )
        elif failure:
            problems.append((f"{name} fails: {failure}", install_command(name, pinned)))
        elif version and name in pinned and version.split("+")[0] != pinned[name]:
            state = "ok, not the tried version"
        rows.append((name, pinned.get(name, "any"), shown, state))
    if installed("torch") and installed("torchvision"):
        failure = check_torchvision()
        if failure:
            problems.append(
                (
                    f"torchvision does not fit torch: {failure}",
                    f"{PIP} --force-reinstall torch=={pinned.get('torch', '')} "
                    f"torchvision=={pinned.get('torchvision', '')}",
                )
            )
    return rows, problems


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Rows in columns as wide as they need."""
    header = ("package", "tried", "installed", "state")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    for row in [header, tuple("-" * w for w in widths), *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def main() -> int:
    print(f"Python {platform.python_version()}, {platform.platform()}")
    rows, problems = diagnose()
    print_table(rows)
    if installed("torch") and not check_import("torch"):
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, the CPU is used"
        print(f"CUDA device: {gpu}; CPU threads: {torch.get_num_threads()}")
    if not shutil.which("g++"):
        print("note: no g++; mmcv compiles with it (Debian: apt-get install g++ python3-dev).")
    if not check_import("mmcv.ops") and (note := check_mmcv_cuda()):
        print(f"note: {note}")
    venv = CONSTRAINTS.parent / ".venv"
    if problems and venv.is_dir() and Path(sys.prefix).resolve() != venv.resolve():
        print(f"note: {venv} is there and not in use; activate it with: . {venv}/bin/activate")
    for extra in absent_extras(requirements()):
        print(f"note: without the extra '{extra}'; it comes with: {PIP} 'prunet_det[{extra}]'")
    for what, command in problems:
        print(f"problem: {what}.\n  mend it with: {command}")
    print("everything is there." if not problems else f"{len(problems)} problem(s).")
    return 1 if problems else 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # it has no flags
    sys.exit(main())
