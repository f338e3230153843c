"""Schedules that end with the training, whatever its length.

mmengine ends a scheduler with the training if a config does not say when. This module moves one
that says it, keeps a warm-up within a short training, and writes out the defaults to compare
recipes. A scheduler that counts epochs where the training counts iterations, or the reverse, is
left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

logger = logging.getLogger(__name__)

Schedulers = Sequence[Mapping[str, Any]]


def set_length(cfg: Config, length: int) -> None:
    """Sets the length of a training, and the schedule with it.

    A scheduler that ends with the training still does, and what lies between, such as milestones,
    moves in proportion. A warm-up keeps its length, but takes at most a quarter of the training.

    Args:
        cfg: Config; changed in place.
        length: Number of iterations, or of epochs if the config trains by epochs.
    """
    cfg.param_scheduler = _moved(cfg.get("param_scheduler"), cfg.train_cfg, length)
    cfg.train_cfg[_unit(cfg.train_cfg)] = length


def explicit_schedule(
    schedulers: Schedulers | None, train_cfg: Mapping[str, Any]
) -> list[ConfigDict]:
    """Lists schedulers with mmengine's defaults of begin, end and T_max written out.

    Digests of recipes are made of this form, since writing out a default changes no recipe.

    Args:
        schedulers: The config's `param_scheduler`.
        train_cfg: The config's training loop, with `max_iters` or `max_epochs`, at which a
            scheduler ends by default.
    """
    length = train_cfg[_unit(train_cfg)]
    written = []
    for scheduler in schedulers or []:
        explicit = ConfigDict(scheduler)
        if _counts_alike(scheduler, train_cfg):
            explicit = ConfigDict({"begin": 0, "end": length, **scheduler})
            if explicit.type == "CosineAnnealingLR":
                explicit.setdefault("T_max", explicit.end - explicit.begin)
        written.append(explicit)
    return written


def fitted_schedule(
    schedulers: Schedulers | None, train_cfg: Mapping[str, Any]
) -> Schedulers | None:
    """Shortens the warm-up of a training that ends before it; any other schedule is returned as is.

    mmengine refuses a cosine that would begin after the end of the training.

    Args:
        schedulers: The config's `param_scheduler`.
        train_cfg: The config's training loop; one with neither `max_iters` nor `max_epochs` is a
            user's own.
    """
    if _unit(train_cfg) not in train_cfg:
        return schedulers
    explicit = explicit_schedule(schedulers, train_cfg)
    length = train_cfg[_unit(train_cfg)]
    beyond = [at for s in explicit if _counts_alike(s, train_cfg) for at in _places(s)]
    if any(at > length for at in beyond):
        logger.warning(
            "the schedule goes on to %d, and the training ends at %d: the learning rate does not "
            "fall as far; set param_scheduler to match.",
            max(beyond),
            length,
        )
    if all(s.begin < s.end for s in explicit if _counts_alike(s, train_cfg)):
        return schedulers
    return _moved(schedulers, train_cfg, train_cfg[_unit(train_cfg)])


def _moved(
    schedulers: Schedulers | None, train_cfg: Mapping[str, Any], length: int
) -> list[ConfigDict]:
    """Lists the schedulers of the same training at another length; see `set_length`."""
    old = train_cfg[_unit(train_cfg)]
    alike = [s for s in schedulers or [] if _counts_alike(s, train_cfg)]
    inner = [s["begin"] for s in alike if s.get("begin")]
    inner += [s["end"] for s in alike if 0 < s.get("end", old) < old]
    warmup = min(inner, default=0)

    def place(at: int) -> int:
        if at <= warmup:
            return min(at, length // 4)
        return length if at == old else round(at * length / old)

    moved = []
    written = explicit_schedule(schedulers, train_cfg)
    for given, scheduler in zip(schedulers or [], written, strict=True):
        if _counts_alike(scheduler, train_cfg):
            scheduler.begin = place(scheduler.begin)
            scheduler.end = place(scheduler.end) if "end" in given else length
            if "T_max" in scheduler:
                scheduler.T_max = scheduler.end - scheduler.begin
            if "milestones" in scheduler:
                scheduler.milestones = [round(at * length / old) for at in scheduler.milestones]
            if scheduler.end <= scheduler.begin:
                continue
        moved.append(scheduler)
    return moved


def _places(scheduler: Mapping[str, Any]) -> list[int]:
    return [scheduler["end"], *scheduler.get("milestones", [])]


def _unit(train_cfg: Mapping[str, Any]) -> str:
    return "max_iters" if "max_iters" in train_cfg else "max_epochs"


def _counts_alike(scheduler: Mapping[str, Any], train_cfg: Mapping[str, Any]) -> bool:
    return bool(scheduler.get("by_epoch", True)) == (_unit(train_cfg) == "max_epochs")
