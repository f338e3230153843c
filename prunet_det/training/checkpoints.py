"""Checkpoints that are there whenever a training is interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


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
        with mock.patch.object(self.file_backend, "remove", removed.append):
            yield
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
