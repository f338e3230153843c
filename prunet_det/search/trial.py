"""A network's worth: its top-1 after a short training from scratch, on mmengine's Runner."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from prunet_det.arch.spec import ArchSpec
from prunet_det.training import launch
from prunet_det.training.ema import use_foreach
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.schedule import explicit_schedule
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import digest
from prunet_det.utils.package import find_config
from prunet_det.zoo.weights import refuse_pretrained


@dataclass(frozen=True)
class Trial:
    """What a short training gave.

    Attributes:
        top1: On the images that it is scored on.
        seconds: Of training and scoring.
        net: As trained, on the CPU.
    """

    top1: float
    seconds: float
    net: nn.Module


def run_trial(
    spec: ArchSpec,
    recipe: Config,
    seed: int,
    loaders: tuple[DataLoader[Any], DataLoader[Any]] | None = None,
    iterations: int | None = None,
) -> Trial:
    """Trains a network from scratch by a classification config and scores it.

    Args:
        spec: The network.
        recipe: A config of configs/classification; the arch and the logging are replaced.
        seed: Of weights, order and augmentation.
        loaders: To train from and to score on, in the place of the recipe's.
        iterations: Instead of the recipe's.
    """
    cfg = recipe.copy()
    cfg.model.arch = spec.to_dict()
    refuse_pretrained(cfg.model)
    if iterations is not None:
        launch.set_max_iters(cfg, iterations)
    cfg.train_cfg.val_interval = cfg.train_cfg.max_iters
    use_foreach(cfg.get("custom_hooks") or [])
    silent = dict(runtime_info=dict(type="DeferredInfoHook"), checkpoint=None, logger=None)
    train, score = loaders or (cfg.train_dataloader, cfg.val_dataloader)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            model=cfg.model,
            work_dir=folder,
            train_dataloader=train,
            val_dataloader=score,
            train_cfg=cfg.train_cfg,
            val_cfg=dict(),
            val_evaluator=cfg.val_evaluator,
            optim_wrapper=cfg.optim_wrapper,
            param_scheduler=cfg.param_scheduler,
            default_hooks=silent,
            custom_hooks=cfg.get("custom_hooks") or None,
            env_cfg=cfg.get("env_cfg", {}),
            log_level="ERROR",
            default_scope=cfg.get("default_scope", "mmengine"),
            randomness=dict(seed=seed),
            experiment_name=f"trial_{time.time_ns()}",
        )
        runner.train()
        # Not `runner.val()`, before which an average of the weights would start anew.
        top1 = float(runner.message_hub.get_scalar("val/accuracy/top1").current())
        for handler in list(runner.logger.handlers):  # its file is in the folder that goes
            runner.logger.removeHandler(handler)
            handler.close()
    net: Any = unwrap_model(runner)
    seconds = time.perf_counter() - start
    return Trial(top1, seconds, net.net.cpu().eval())


def recipe_of(cfg: Config, config: str | os.PathLike[str], key: str = "recipe") -> str:
    """The path of a short recipe that a search config names, relative to its own.

    Args:
        cfg, config: The search's config and where it is.
        key: Which recipe: the last tier's `recipe`, or `compare_recipe`.

    Raises:
        UserError: It names none, or there is no such file.
    """
    recipe = cfg.get(key, "")
    path = find_config(config).parent / recipe
    if not recipe or not path.is_file():
        raise UserError(
            f"{os.fspath(config)} needs a `{key}`, a classification config by which networks are "
            f"trained from scratch; there is no file {path}."
        )
    return str(path)


def recipe_hash(path: str) -> str:
    """A digest of all of a recipe that trains or scores."""
    cfg = read_config(path)
    cfg.param_scheduler = explicit_schedule(cfg.get("param_scheduler"), cfg.train_cfg)
    if "env_cfg" in cfg:
        cfg.env_cfg.cudnn_benchmark = False  # changes no result; early records have it
    silent = ("default_hooks", "visualizer", "log_level", "log_processor")
    return digest({k: v for k, v in cfg.items() if k not in silent})
