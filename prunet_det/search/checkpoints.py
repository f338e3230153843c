"""Checkpoints of a search, and what its processes must agree on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.runner import Runner

from prunet_det.files import atomic_path


def check_agreement(structure: Any) -> None:
    """Raises RuntimeError where the processes of a search have different structures."""
    digest = hashlib.sha256(json.dumps(structure).encode()).hexdigest()
    if dist.get_world_size() > 1:
        others = dist.all_gather_object(digest)
        if len(set(others)) > 1:
            raise RuntimeError(
                "the processes of this search disagree on what is pruned; please report it with "
                "the command."
            )


def save_checkpoint(runner: Runner, iteration: int) -> None:
    """Writes iter_N.pth, then the pointer to it, then removes what is older than the last two."""
    folder, name = Path(runner.work_dir), f"iter_{iteration}.pth"
    runner.save_checkpoint(str(folder), f".{name}", by_epoch=False)
    os.replace(folder / f".{name}", folder / name)
    with atomic_path(folder / "last_checkpoint") as temporary:
        temporary.write_text(str(folder / name), encoding="utf-8")
    saved = sorted(folder.glob("iter_*.pth"), key=lambda p: int(p.stem.partition("_")[2]))
    for old in saved[:-2]:
        old.unlink()
