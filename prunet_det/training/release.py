"""Turning trained weights into a released checkpoint: FP16 safetensors and a JSON card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from prunet_det.errors import UserError
from prunet_det.files import atomic_path
from prunet_det.training.launch import build_evaluation_runner
from prunet_det.training.records import evaluate, read_training, write_json
from prunet_det.zoo.weights import read_state_dict, save_safetensors


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
    cfg = Config.fromfile(config)
    cfg.launcher = "none"
    cfg.work_dir = str(Path("work_dirs") / f"release_{out.stem}")
    runner = build_evaluation_runner(cfg)
    with atomic_path(out) as candidate:  # only what has been evaluated takes the released name
        save_safetensors(read_state_dict(checkpoint), candidate, half=True)
        record = evaluate(runner, cfg, config, candidate)
        card = {**record, "training": training, "precision": "FP16"}
        write_json(out.with_suffix(".json"), card)
    return card
