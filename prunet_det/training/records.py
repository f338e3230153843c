"""What was run, on what, and what came of it: the JSON beside every figure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from prunet_det.files import atomic_path
from prunet_det.machine import environment
from prunet_det.zoo.weights import load_all_weights

TRAINING_FILE = "train.json"


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Writes a JSON file, atomically, with its folder where that is missing."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_training(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """The train.json beside a checkpoint, or an empty dict."""
    try:
        text = (Path(checkpoint).parent / TRAINING_FILE).read_text(encoding="utf-8")
        return dict(json.loads(text))
    except (OSError, ValueError):
        return {}


def bare_model(runner: Runner) -> Any:
    """The runner's model without the wrapper of a distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def evaluate(
    runner: Runner, cfg: Config, config: str, checkpoint: str | os.PathLike[str]
) -> dict[str, Any]:
    """Loads a checkpoint strictly, evaluates it on the test set, and returns the record.

    Args:
        runner: Built from `cfg`.
        cfg: The config.
        config: Its path, for the record.
        checkpoint: The weights.

    Raises:
        FileNotFoundError, CheckpointError: See `load_all_weights`.
    """
    model = bare_model(runner)
    count = load_all_weights(model, checkpoint)
    print(f"{count}/{count} tensors from {checkpoint}")
    options = cfg.test_dataloader.dataset
    place = options.get("name") or options.get("data_root")
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
