"""Turning trained weights into a released checkpoint: FP16 safetensors and a JSON card."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import mmdet
import mmengine
import timm
import torch
from mmengine.config import Config

from prunet_det.datasets import data_hash
from prunet_det.detection.launch import build_runner
from prunet_det.zoo.weights import load_all_weights, read_state_dict, save_safetensors


def git_commit() -> str:
    """The checkout's commit, with `+changes` where files differ from it; `unknown` elsewhere."""
    try:
        args: dict[str, Any] = dict(capture_output=True, text=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **args).stdout.strip()
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        return commit + ("+changes" if subprocess.run(status, **args).stdout else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def release(
    config: str,
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    trained_by: str,
    trained_at: str,
) -> dict[str, Any]:
    """Writes `out` (FP16 safetensors) and its card, with metrics of the rounded weights.

    Args:
        config: The config that the weights were trained with.
        checkpoint: The trained weights.
        out: The safetensors file; the card gets the suffix .json.
        trained_by: The training command.
        trained_at: The commit that it ran on.

    Returns:
        The card.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    cfg = Config.fromfile(config)
    cfg.launcher = "none"
    cfg.work_dir = str(Path("work_dirs") / f"release_{out.stem}")
    runner = build_runner(cfg)
    load_all_weights(runner.model, checkpoint)
    save_safetensors(read_state_dict(checkpoint), out, half=True)
    load_all_weights(runner.model, out)
    metrics = runner.test()
    dataset = cfg.test_dataloader.dataset
    card = {
        "config": config,
        "classes": list(runner.test_dataloader.dataset.metainfo["classes"]),
        "parameters": sum(p.numel() for p in runner.model.parameters()),
        "precision": "FP16 on disk",
        "data": f"{dataset.get('name', dataset.data_root)}, {dataset.ann_file}",
        "data_hash": data_hash(dataset.data_root),
        "metrics": {k.removeprefix("coco/"): v for k, v in metrics.items()},
        "command": trained_by,
        "commit": trained_at,
        "date": datetime.date.today().isoformat(),
        "versions": {m.__name__: m.__version__ for m in (torch, timm, mmengine, mmdet)},
    }
    temporary = out.with_name(f".{out.stem}.json.tmp")
    temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, out.with_suffix(".json"))
    return card
