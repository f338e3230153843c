"""Checkpoints that are there whenever a training is interrupted."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from prunet_det.utils.errors import UserError

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which removes an old checkpoint once the new one is written.

    mmengine removes it first. With `max_keep_ckpts=1` or `save_best`, a full disk, Ctrl-C or
    weights that are not finite would then leave none.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextlib.contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Removes what the block removes at its end, unless it has failed or wrote it anew."""
        removed: list[str] = []
        remove = self.file_backend.remove
        self.file_backend.remove = removed.append
        try:
            yield
        finally:
            self.file_backend.remove = remove
        best = getattr(self, "best_ckpt_path_dict", {}).values()
        kept = {self.last_ckpt, getattr(self, "best_ckpt_path", None), *best}
        for path in removed:
            if path not in kept:
                self.file_backend.remove(path)


def use_safe_hook(cfg: Config) -> None:
    """Puts SafeCheckpointHook in the place of the CheckpointHook that a config names.

    Args:
        cfg: Config; changed in place.
    """
    hook = (cfg.get("default_hooks") or {}).get("checkpoint")
    if hook and hook.get("type") == "CheckpointHook":
        hook.type = "SafeCheckpointHook"


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Says whether a file is what torch.save writes, to its last byte."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return any(n.endswith("data.pkl") for n in names) and archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def newest_checkpoint(work_dir: str | os.PathLike[str]) -> str | None:
    """Finds the newest whole checkpoint of a training, and names damaged ones that are newer.

    Args:
        work_dir: Folder of the training.

    Returns:
        Its path, or None if the folder holds no checkpoint.

    Raises:
        UserError: If all that it holds are damaged.
    """
    folder = Path(work_dir)
    matches = [(re.fullmatch(r"(?:iter|epoch)_(\d+)", p.stem), p) for p in folder.glob("*.pth")]
    paths = [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]
    with contextlib.suppress(OSError):  # the pointer that mmengine writes last
        last = Path((folder / "last_checkpoint").read_text(encoding="utf-8").strip())
        if not last.is_file():  # the folder was moved
            last = folder / last.name
        if last.is_file():
            paths = [p for p in paths if p.name != last.name] + [last]
    for path in reversed(paths):
        if is_whole(path):
            return str(path)
        logger.warning("%s is truncated; an older checkpoint is looked for.", path)
    if paths:
        raise UserError(
            f"no checkpoint in {work_dir} is whole; leave out --resume to start the training anew."
        )
    return None
