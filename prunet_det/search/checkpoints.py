"""Checkpoints of a search."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmengine.runner import Runner

from prunet_det.utils.io import atomic_path


def save_checkpoint(runner: Runner, iteration: int) -> None:
    """Writes iter_N.pth, then the pointer to it, then removes what is older than the last two."""
    folder, name = Path(runner.work_dir), f"iter_{iteration}.pth"
    runner.save_checkpoint(str(folder), f".{name}", by_epoch=False)
    os.replace(folder / f".{name}", folder / name)
    with atomic_path(folder / "last_checkpoint") as temporary:
        temporary.write_text(str(folder / name), encoding="utf-8")
    numbered = {re.fullmatch(r"iter_(\d+)", p.stem): p for p in folder.glob("iter_*.pth")}
    earlier = {int(m[1]): p for m, p in numbered.items() if m and int(m[1]) < iteration}
    for number in sorted(earlier)[:-1]:
        earlier[number].unlink()
