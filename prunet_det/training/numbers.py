"""Numbers of a config that train nothing or do not fit, refused before the first step."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import OPTIMIZERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError


def check_numbers(cfg: Config) -> None:
    """Refuses lengths, batches and learning rates that train nothing, before anything is built.

    Raises:
        InputError: The sentence names the setting.
    """
    train_cfg, loader = cfg.get("train_cfg") or {}, cfg.get("train_dataloader") or {}
    for key in ("max_iters", "max_epochs"):
        if key in train_cfg:
            positive_int(train_cfg[key], f"train_cfg.{key}")
    if "batch_size" in loader:
        positive_int(loader["batch_size"], "train_dataloader.batch_size")
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer") or {}
    for key in ("lr", "weight_decay", "momentum"):
        value = optimizer.get(key, 0.0)
        if not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise InputError(
                f"optim_wrapper.optimizer.{key} must be a number from 0 up, got {value!r}."
            )
    if "betas" in optimizer:
        _check_betas(optimizer)


def _check_betas(optimizer: Any) -> None:
    """Refuses betas that are not as many as the optimizer's own; their range it checks itself."""
    betas, kind = optimizer["betas"], optimizer.get("type")
    cls = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    known = inspect.signature(cls).parameters.get("betas") if cls is not None else None
    default = getattr(known, "default", None)
    if not isinstance(default, (list, tuple)):
        return
    numbers = isinstance(betas, (list, tuple)) and all(isinstance(b, (int, float)) for b in betas)
    if not numbers or len(betas) != len(default):
        raise InputError(
            f"optim_wrapper.optimizer.betas must be {len(default)} numbers, as {default}, got "
            f"{betas!r}."
        )


def check_average(runner: Runner) -> None:
    """Refuses an average of the weights that would begin after the end of the training.

    Args:
        runner: Runner with its training loop and data built.

    Raises:
        InputError: The sentence names the setting.
    """
    loop: Any = runner.train_loop
    lengths = {"begin_iter": loop.max_iters}
    if isinstance(loop, EpochBasedTrainLoop):
        lengths["begin_epoch"] = loop.max_epochs
    for hook in runner.hooks:
        for key, length in lengths.items():
            begin = getattr(hook, key, 0)
            if isinstance(hook, EMAHook) and begin > length:
                raise InputError(
                    f"EMAHook's {key}={begin} is after the end of the training at {length}; lower "
                    "it, or train for longer."
                )
