"""Settings of a config that are impossible, refused before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError

_DICTS = ("model", "train_cfg", "train_dataloader", "optim_wrapper", "optim_wrapper.optimizer")
_LISTS = ("param_scheduler", "custom_hooks")
_COUNTS = (
    *("train_cfg.val_interval", "default_hooks.logger.interval"),
    "optim_wrapper.accumulative_counts",
    "auto_scale_lr.base_batch_size",
)
_RATES = ("optim_wrapper.clip_grad.max_norm",)


def check_settings(config: Config, where: str) -> None:
    """Refuses settings by which nothing can be trained or evaluated, each by its dotted key.

    Types and arguments of what is built are checked where that is built; lengths and rates of a
    training by `check_numbers`.

    Args:
        config: Config of a model.
        where: Its path, for messages.

    Raises:
        InputError: If one is no dict, list or number where one is needed, or out of its range.
    """
    cfg = config.to_dict()
    for keys, kind, name in ((_DICTS, Mapping, "dict"), (_LISTS, (list, tuple, Mapping), "list")):
        for key in keys:
            if not isinstance(_value(cfg, key, {}), kind):
                raise InputError(f"{where}: {key} must be a {name}, got {_value(cfg, key)!r}.")
    loaders = [key for key in cfg if key.endswith("_dataloader")]
    for key in (*_COUNTS, *(f"{loader}.batch_size" for loader in loaders)):
        if _value(cfg, key) is not None:
            positive_int(_value(cfg, key), f"{where}: {key}")
    for key, value in _class_counts(cfg["model"], "model"):
        positive_int(value, f"{where}: {key}")
    for key in ("randomness.seed", *(f"{loader}.num_workers" for loader in loaders)):
        value = _value(cfg, key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
            raise InputError(f"{where}: {key} must be an integer of at least 0, got {value!r}.")
    for key in _RATES:
        value = _value(cfg, key, 1)
        if not (isinstance(value, (int, float)) and 0 <= value < 1e9):
            raise InputError(f"{where}: {key} must lie between 0 and 1e9, got {value!r}.")
    for loader in loaders:
        if isinstance(_value(cfg, f"{loader}.dataset"), (int, float, str)):
            raise InputError(f"{where}: {loader}.dataset must be a dict with a type.")


def _value(cfg: Any, key: str, default: Any = None) -> Any:
    """Returns the setting of a dotted key, or the default where it is missing or None."""
    for part in key.split("."):
        cfg = cfg.get(part) if isinstance(cfg, Mapping) else None
    return default if cfg is None else cfg


def _class_counts(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yields key and value of every `num_classes` of a model."""
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value))
    for key, part in parts:
        if key == "num_classes" and part is not None:
            yield f"{where}.{key}", part
        yield from _class_counts(part, f"{where}.{key}")
