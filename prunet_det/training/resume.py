"""What a resumed training must have in common with the one that it goes on with.

Optimizer, schedule and random numbers are loaded from the checkpoint, whatever the config says. So
what differs there is refused; what the config does change, such as the data, is said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, Runner

from prunet_det.training.batch import images_per_step
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.loading import inner_dataset
from prunet_det.zoo.weights import CheckpointError, check_fit

logger = logging.getLogger(__name__)

_ADVICE = "resume with what it was started with, or start another training in another --work-dir"
# Of an optimizer's group: what it works on, and how; neither changes what is trained.
_GROUP_HOW = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
# Of a scheduler: where it stands.
_SCHEDULER_STATE = {"last_step", "_global_step", "_last_value", "base_values", "verbose"}
_SCHEDULER_STATE |= {"best", "num_bad_epochs", "cooldown_counter"}  # of ReduceOnPlateauLR
# What a config does change of a resumed training.
_CHANGES = {"length": "as length", "batch": "images a step", "data": "as data"}


def describe_training(runner: Runner) -> dict[str, Any]:
    """Returns what a checkpoint says of its training, to compare when it is resumed."""
    cfg = runner.cfg
    loader = cfg.get("train_dataloader") or {}
    dataset = inner_dataset(loader.get("dataset") or {})
    data = [dataset.get(key) for key in ("name", "data_root", "ann_file", "split")]
    wrapper = cfg.get("optim_wrapper") or {}
    amp = wrapper.get("type") == "AmpOptimWrapper"
    return {
        "teacher": (cfg.get("model", {}).get("teacher") or {}).get("name"),
        # A scale of the loss is kept for float16 alone.
        "precision": str(wrapper.get("dtype") or "float16") if amp else "float32",
        "optimizer": (wrapper.get("optimizer") or {}).get("type"),
        "length": _length(cfg.get("train_cfg") or {}),
        "batch": images_per_step(cfg, runner.world_size) if "batch_size" in loader else None,
        "data": ", ".join(str(part) for part in data if part) or None,
    }


def _length(train_cfg: Mapping[str, Any]) -> str | None:
    units = {"max_iters": "iterations", "max_epochs": "epochs"}
    lengths = [f"{train_cfg[key]} {unit}" for key, unit in units.items() if key in train_cfg]
    return lengths[0] if lengths else None


def check_resumed(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuses to resume what was trained otherwise, and says what changes from here on.

    Args:
        runner: Runner of the training, with optimizer and schedulers built.
        checkpoint: Content of the checkpoint.

    Raises:
        CheckpointError: If model, optimizer, schedule, seed, teacher or precision differ.
    """
    if "state_dict" not in checkpoint or "meta" not in checkpoint:
        raise CheckpointError(
            "the file to resume from is no checkpoint of a training (iter_N.pth, epoch_N.pth)."
        )
    check_fit(unwrap_model(runner).state_dict(), checkpoint["state_dict"], "the checkpoint")
    if not runner._resume:
        return
    meta, now = checkpoint["meta"], describe_training(runner)
    if meta.get("teacher") != now["teacher"]:
        raise CheckpointError(
            f"the checkpoint was trained with the teacher {meta.get('teacher')}, this run has "
            f"{now['teacher']}; resume with the same --teacher."
        )
    if meta.get("precision") not in (None, now["precision"]):  # None: before this was noted
        raise CheckpointError(
            f"the checkpoint was trained in {meta['precision']}, this run is in "
            f"{now['precision']}; resume with the same --amp and --amp-dtype."
        )
    seed = (runner.cfg.get("randomness") or {}).get("seed")
    _same("the seed", meta.get("seed"), seed)
    _same("the optimizer", meta.get("optimizer"), now["optimizer"])
    changed = [name for name in _CHANGES if meta.get(name) not in (None, now[name])]
    for name in changed:
        text = "this run has %s %s, the checkpoint was trained with %s."
        logger.warning(text, now[name], _CHANGES[name], meta[name])
    _check_optimizer(runner, checkpoint.get("optimizer") or {})
    different = _different_schedule(runner, checkpoint.get("param_schedulers") or [])
    if different:
        raise CheckpointError(f"the checkpoint's schedule has {different}; {_ADVICE}.")


def _same(title: str, before: Any, now: Any) -> None:
    if before is not None and now is not None and before != now:
        raise CheckpointError(
            f"the checkpoint was trained with {title} {before}, this run has {now}; {_ADVICE}."
        )


def _check_optimizer(runner: Runner, state: Mapping[str, Any]) -> None:
    """Compares the options of each group: rates before any schedule, decay, momenta."""
    saved = state.get("param_groups")
    if saved is None:  # a checkpoint without one, or several optimizers
        return
    groups = runner.optim_wrapper.optimizer.param_groups
    _same("optimizer groups:", len(saved), len(groups))
    for before, now in zip(saved, groups, strict=True):
        for key in before.keys() & now.keys() - _GROUP_HOW:
            if not key.startswith("initial_"):
                start = f"initial_{key}"  # where a scheduler changes it
                name = f"optim_wrapper.optimizer.{key}"
                _same(name, before.get(start, before[key]), now.get(start, now[key]))


def _different_schedule(runner: Runner, saved: Any) -> str:
    """Says in what the schedule is another one, or nothing."""
    schedulers = runner.param_schedulers or []
    if not (isinstance(schedulers, list) and isinstance(saved, list)):
        return ""
    if len(saved) != len(schedulers):
        return f"{len(saved)} parts, this run's {len(schedulers)}"
    for now, before in zip(schedulers, saved, strict=True):
        for key in sorted(before.keys() - _SCHEDULER_STATE):
            if before[key] != getattr(now, key, None):
                return f"{key} {before[key]}, this run's {getattr(now, key, None)}"
    return ""


def say_if_finished(runner: Runner) -> None:
    """Says that nothing is left to train of a resumed training."""
    loop: Any = runner.train_loop
    epochs = isinstance(loop, EpochBasedTrainLoop)
    done, of = (loop.epoch, loop.max_epochs) if epochs else (loop.iter, loop.max_iters)
    if done >= of:
        unit = "epoch" if epochs else "iteration"
        logger.warning(
            "nothing is left to train: the checkpoint is of %s %d of %d.", unit, done, of
        )
