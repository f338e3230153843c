"""Evaluating checkpoints, and the records (JSON) of trainings and evaluations."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from prunet_det.training.launch import build_evaluation_runner
from prunet_det.training.records import read_classes, read_training
from prunet_det.utils.config import config_errors, read_config
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path, write_json
from prunet_det.zoo.weights import check_fit, load_all_weights, read_state_dict, save_safetensors

logger = logging.getLogger(__name__)


def unwrap_model(runner: Runner) -> BaseModel:
    """Returns the runner's model without the wrapper of a distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def evaluate(
    runner: Runner, cfg: Config, config: str, checkpoint: str | os.PathLike[str]
) -> dict[str, Any]:
    """Loads a checkpoint, whose tensors must all fit, and evaluates it on the test set.

    Args:
        runner: Runner built from `cfg`.
        cfg: Config of the model.
        config: Path of the config, for the record.
        checkpoint: Weights to evaluate.

    Returns:
        The record: config, classes, data, metrics, and how the weights were trained.

    Raises:
        MissingFileError: If there is no such checkpoint.
        CheckpointError: If it cannot be read or does not fit.
    """
    model = unwrap_model(runner)
    count = load_all_weights(model, checkpoint)
    logger.info("%d/%d tensors from %s", count, count, checkpoint)
    options = cfg.test_dataloader.dataset
    place = options.get("name") or options.get("data_root")
    with config_errors():
        metrics = runner.test()
    dataset = runner.test_dataloader.dataset
    return {
        "config": config,
        "classes": list(dataset.metainfo["classes"]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": f"{place}, {options.get('ann_file') or options.get('split')}",
        "data_hash": getattr(dataset, "data_hash", "unknown"),
        "metrics": {k.rpartition("/")[2]: v for k, v in metrics.items()},
        "training": read_training(checkpoint),
        "evaluated": environment(),
    }


def release(
    config: str, checkpoint: str | os.PathLike[str], out: str | os.PathLike[str]
) -> dict[str, Any]:
    """Writes trained weights in FP16, and a card with the metrics of the rounded weights.

    Args:
        config: Path of the config that the weights were trained with.
        checkpoint: Trained weights, beside the train.json of their training.
        out: Safetensors file to write; the card gets its name with the suffix .json.

    Returns:
        The card.

    Raises:
        UserError: If there is no train.json, which says how the weights came about.
    """
    out = Path(out)
    cfg = read_config(config)
    training = read_training(checkpoint)
    if not training:
        raise UserError(
            f"{Path(checkpoint).parent} has no train.json; tools/train.py writes it at its end."
        )
    cfg.launcher = "none"
    cfg.work_dir = str(Path("work_dirs") / f"release_{out.stem}")
    state = read_state_dict(checkpoint)
    runner = build_evaluation_runner(cfg, read_classes(checkpoint))
    check_fit(unwrap_model(runner).state_dict(), state, os.fspath(checkpoint))
    with atomic_path(out) as candidate:  # only what has been evaluated takes the released name
        save_safetensors(state, candidate, half=True)
        record = evaluate(runner, cfg, config, candidate)
        card = {**record, "training": training, "precision": "FP16"}
        write_json(out.with_suffix(".json"), card)
    return card
