"""What was run, on what, and what came of it: the JSON beside every figure."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from prunet_det.training.launch import build_evaluation_runner
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path, write_json
from prunet_det.utils.package import find_config
from prunet_det.zoo.weights import load_all_weights, read_state_dict, save_safetensors

TRAINING_FILE = "train.json"


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


def release(
    config: str, checkpoint: str | os.PathLike[str], out: str | os.PathLike[str]
) -> dict[str, Any]:
    """Writes `out` (FP16 safetensors) and its card, with metrics of the rounded weights.

    Args:
        config: The config that the weights were trained with.
        checkpoint: The trained weights, beside the train.json of their training.
        out: The safetensors file; the card gets the suffix .json.

    Returns:
        The card.

    Raises:
        UserError: There is no train.json: a released checkpoint must say what made it.
    """
    out = Path(out)
    training = read_training(checkpoint)
    if not training:
        raise UserError(
            f"{Path(checkpoint).parent} has no train.json; tools/train.py writes it at its end."
        )
    cfg = Config.fromfile(find_config(config))
    cfg.launcher = "none"
    cfg.work_dir = str(Path("work_dirs") / f"release_{out.stem}")
    runner = build_evaluation_runner(cfg)
    with atomic_path(out) as candidate:  # only what has been evaluated takes the released name
        save_safetensors(read_state_dict(checkpoint), candidate, half=True)
        record = evaluate(runner, cfg, config, candidate)
        card = {**record, "training": training, "precision": "FP16"}
        write_json(out.with_suffix(".json"), card)
    return card
