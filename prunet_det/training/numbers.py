"""Numbers of a config that train nothing, refused before anything is built."""

from __future__ import annotations

from mmengine.config import Config

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
    rate = ((cfg.get("optim_wrapper") or {}).get("optimizer") or {}).get("lr", 1.0)
    if not isinstance(rate, (int, float)) or not 0 <= rate < float("inf"):
        raise InputError(f"optim_wrapper.optimizer.lr must be a number from 0 up, got {rate!r}.")
