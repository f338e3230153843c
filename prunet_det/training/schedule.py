"""Schedules that end with the training, whatever its length.

mmengine ends a scheduler with the training if a config does not say when. This module moves one
that says it, keeps a warm-up within a short training, and writes out the defaults to compare
recipes. A scheduler that counts epochs where the training counts iterations, or the reverse, is
left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from prunet_det.utils.errors import InputError

logger = logging.getLogger(__name__)

Schedulers = Sequence[Mapping[str, Any]]


def _listed(schedulers: Any) -> Schedulers | None:
    """Returns schedulers as a list; None for those of several optimizers, a dict by their names."""
    if isinstance(schedulers, Mapping):
        return [schedulers] if "type" in schedulers else None
    return schedulers or []


def set_length(cfg: Config, length: int) -> None:
    """Sets the length of a training, and the schedule with it.

    A scheduler that ends with the training still does, and what lies between, such as milestones
    and periods, moves in proportion. A warm-up keeps its length, but takes at most a quarter of the
    training; under four epochs that is a part of one, and the schedulers it concerns count
    iterations. At the length that it has, a config stays as it is.

    Args:
        cfg: Config; changed in place.
        length: Number of iterations, or of epochs if the config trains by epochs.
    """
    schedulers = _listed(cfg.get("param_scheduler"))
    if schedulers is not None and cfg.train_cfg[_unit(cfg.train_cfg)] != length:
        cfg.param_scheduler = _moved(schedulers, cfg.train_cfg, length)
    cfg.train_cfg[_unit(cfg.train_cfg)] = length


def explicit_schedule(schedulers: Any, train_cfg: Mapping[str, Any]) -> list[ConfigDict]:
    """Lists schedulers with mmengine's defaults of begin, end and T_max written out.

    Digests of recipes are made of this form, since writing out a default changes no recipe.

    Args:
        schedulers: The config's `param_scheduler`, a list or a single one.
        train_cfg: The config's training loop, with `max_iters` or `max_epochs`, at which a
            scheduler ends by default.

    Raises:
        InputError: If they are of several optimizers.
    """
    length, listed = train_cfg[_unit(train_cfg)], _listed(schedulers)
    if listed is None:
        raise InputError("param_scheduler must be a list; that of several optimizers is none.")
    written = []
    for scheduler in listed:
        explicit = ConfigDict(scheduler)
        if _counts_alike(scheduler, train_cfg):
            explicit = ConfigDict({"begin": 0, "end": length, **scheduler})
            if explicit.type == "CosineAnnealingLR":
                explicit.setdefault("T_max", explicit.end - explicit.begin)
        written.append(explicit)
    return written


def fitted_schedule(schedulers: Any, train_cfg: Mapping[str, Any]) -> Any:
    """Shortens the warm-up of a training that ends before it; any other schedule is returned as is.

    mmengine refuses a cosine that would begin after the end of the training, and a warm-up that
    goes on beyond it would never come to the learning rate.

    Args:
        schedulers: The config's `param_scheduler`; those of several optimizers stay as they are.
        train_cfg: The config's training loop; one with neither `max_iters` nor `max_epochs` is a
            user's own.
    """
    listed = _listed(schedulers)
    if listed is None or _unit(train_cfg) not in train_cfg:
        return schedulers
    length = train_cfg[_unit(train_cfg)]
    alike = [s for s in explicit_schedule(listed, train_cfg) if _counts_alike(s, train_cfg)]
    late = [s for s in alike if _warms_up(s) and s.end > length]
    beyond = [at for s in alike if s not in late for at in _places(s)]
    if any(at > length for at in beyond):
        logger.warning(
            "the schedule goes on to %d, and the training ends at %d: the learning rate does not "
            "fall as far; set param_scheduler to match.",
            max(beyond),
            length,
        )
    if not late and all(s.begin < s.end for s in alike):
        return schedulers
    logger.info("the warm-up takes a quarter of the training, for it is longer than all of it.")
    return _moved(listed, train_cfg, length)


def fit_iterations(runner: Runner) -> None:
    """Fits a warm-up to the iterations of an epoch, which only the data say.

    One in iterations that is longer than all epochs is shortened. One of a single epoch counts its
    iterations. One of a single step is left out, for mmengine would begin with its low rate and
    never leave it.

    Args:
        runner: Runner with its training loop and data built; its schedule is changed.
    """
    loop, schedulers = runner.train_loop, _listed(runner.param_schedulers)
    if schedulers is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return
    if isinstance(loop, EpochBasedTrainLoop):
        others = [s for s in schedulers if not s.get("by_epoch", True)]
        fitted = fitted_schedule(others, {"max_iters": loop.max_iters})
        if fitted is not others:
            schedulers = [*(fitted or []), *(s for s in schedulers if s.get("by_epoch", True))]
    kept = []
    for scheduler in schedulers:
        if _warms_up(scheduler) and "end" in scheduler:
            scheduler = ConfigDict(scheduler)
            if scheduler.get("by_epoch", True) and scheduler.end <= 1:
                scheduler.convert_to_iter_based = True
            length = len(loop.dataloader) if scheduler.get("convert_to_iter_based") else 1
            if int(scheduler.end * length) < 2:
                logger.info("there is no warm-up: it would take one step.")
                continue
        kept.append(scheduler)
    runner.param_schedulers = kept


def _moved(schedulers: Schedulers, train_cfg: Mapping[str, Any], length: int) -> list[ConfigDict]:
    """Lists the schedulers of the same training at another length; see `set_length`."""
    old = train_cfg[_unit(train_cfg)]
    alike = [s for s in schedulers if _counts_alike(s, train_cfg)]
    inner = [s["begin"] for s in alike if s.get("begin")]
    inner += [s["end"] for s in alike if 0 < s.get("end", old) < old]
    inner += [s["end"] for s in alike if _warms_up(s) and s.get("end", old) > old]
    warmup = min(inner, default=0)
    in_part = length < 4 and _unit(train_cfg) == "max_epochs"

    def place(at: int) -> float:
        if at <= warmup:
            return min(at, length / 4 if in_part else length // 4)
        return length if at == old else round(at * length / old)

    moved = []
    written = explicit_schedule(schedulers, train_cfg)
    for given, scheduler in zip(schedulers, written, strict=True):
        if _counts_alike(scheduler, train_cfg):
            span = scheduler.end - scheduler.begin
            scheduler.begin = place(scheduler.begin)
            scheduler.end = place(scheduler.end) if "end" in given else length
            _stretch(scheduler, span, scheduler.end - scheduler.begin)
            if scheduler.end <= scheduler.begin:
                continue
            if isinstance(scheduler.begin + scheduler.end, float):
                scheduler.convert_to_iter_based = True
                for key in ("T_max", "total_steps"):  # of the iterations that are left, rounded
                    scheduler.pop(key, None)
        moved.append(scheduler)
    return moved


def _stretch(scheduler: ConfigDict, old: float, new: float) -> None:
    """Changes lengths and places, which count from a scheduler's begin, in proportion.

    Args:
        scheduler: A scheduler with all defaults; changed in place.
        old: Length that they are for; 0 for one that begins where the training ended.
        new: Length that they are to be for.
    """
    factor = new / old if old > 0 else 1.0
    for key in ("T_max", "total_steps", "step_size"):
        if scheduler.get(key) is not None:
            scheduler[key] = max(1, round(scheduler[key] * factor))
    if old <= 0 and "T_max" in scheduler:
        scheduler.T_max = new
    if "milestones" in scheduler:
        scheduler.milestones = [round(at * factor) for at in scheduler.milestones]
    if "periods" in scheduler:
        ends = [round(at * factor) for at in accumulate(scheduler.periods)]
        scheduler.periods = [max(1, b - a) for a, b in pairwise([0, *ends])]


def _warms_up(scheduler: Mapping[str, Any]) -> bool:
    """Says whether a scheduler begins a training below the learning rate and ends at it."""
    rises = scheduler["type"] in ("ConstantLR", "LinearLR")
    return rises and not scheduler.get("begin") and scheduler.get("end_factor", 1.0) == 1.0


def _places(scheduler: Mapping[str, Any]) -> list[int]:
    return [scheduler["end"], *scheduler.get("milestones", [])]


def _unit(train_cfg: Mapping[str, Any]) -> str:
    return "max_iters" if "max_iters" in train_cfg else "max_epochs"


def _counts_alike(scheduler: Mapping[str, Any], train_cfg: Mapping[str, Any]) -> bool:
    return bool(scheduler.get("by_epoch", True)) == (_unit(train_cfg) == "max_epochs")
