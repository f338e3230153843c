"""Classification from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import load_file

from prunet_det.detection import PruNet
from prunet_det.zoo.weights import save_safetensors

DIGITS = "configs/classification/prunet_digits.py"
QUICK = [
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "train_dataloader.batch_size=4",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "val_dataloader.batch_size=4",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "default_hooks.logger.interval=1",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """The work folder of a short training on the digits' crops."""
    import subprocess
    import sys

    from tests.conftest import ROOT

    work = tmp_path_factory.mktemp("digits_classifier")
    args = ["tools/train.py", DIGITS, "--work-dir", str(work), "--max-iters", "120"]
    # A faster moving average than the recipe's, which is for a longer training.
    options = ["--cfg-options", "custom_hooks.0.momentum=0.05"]
    done = subprocess.run(
        [sys.executable, *args, *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return work


def test_it_learns_and_is_evaluated(trained, tmp_path, tool):
    weights, out = trained / "weights.safetensors", tmp_path / "metrics.json"
    done = tool("test", DIGITS, weights, "--work-dir", tmp_path / "test", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy/top1" in done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert record["metrics"]["top1"] > 0.2 and record["metrics"]["top5"] > 0.6
    assert record["classes"] == list("0123456789") and record["data"] == "digits, val"
    assert record["training"]["iterations"] == 120 and len(record["data_hash"]) == 16


def test_its_weights_start_a_detector(trained, tool, tmp_path, capsys, digits):
    backbone = PruNet("prunet_demo", checkpoint=trained / "weights.safetensors")
    said = capsys.readouterr().out
    count = len(backbone.net.model.state_dict())
    assert f"{count}/{count} backbone tensors from" in said
    state = load_file(trained / "weights.safetensors")
    for key, value in backbone.net.model.state_dict().items():
        assert (value == state[f"net.{key}"]).all(), key
    options = [
        f"model.backbone.checkpoint={trained / 'weights.safetensors'}",
        "train_dataloader.batch_size=2",
        "train_cfg.val_interval=100",
    ]
    args = ["configs/prunet_effdet.py", "--max-iters", 1, "--work-dir", tmp_path]
    done = tool("train", *args, "--cfg-options", *options, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"backbone: {count}/{count} backbone tensors" in done.stdout


def test_imagenet_config_with_a_teacher(tmp_path, tool):
    """Any ImageFolder, mixup, LAMB, EMA, distillation, top-1 alone for two classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (70, 90, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / kind / f"{i}.jpg")
    state = timm.create_model("resnet10t", num_classes=2).state_dict()
    save_safetensors(state, tmp_path / "teacher.safetensors")
    config = "configs/classification/prunet_imagenet.py"
    args = [config, "--data-root", tmp_path / "data", "--work-dir", tmp_path / "work"]
    flags = ["--teacher", "resnet10t", "--teacher-checkpoint", tmp_path / "teacher.safetensors"]
    options = [
        *QUICK,
        "model.arch=prunet_demo",
        "model.num_classes=2",
        "train_cfg.max_epochs=2",
        "train_cfg.val_interval=1",
        "param_scheduler=None",
    ]
    done = tool("train", *args, *flags, "--cfg-options", *options, OMP_NUM_THREADS="1")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "teacher: " in output and "loss_teacher" in output and "accuracy/top1" in output
    again = tool("train", *args, "--resume", *flags, "--cfg-options", *options, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stdout + again.stderr
    flags = ["--data-root", tmp_path / "data", "--work-dir", tmp_path / "test"]
    weights = tmp_path / "work" / "weights.safetensors"
    options = [*QUICK, "model.arch=prunet_demo", "model.num_classes=2"]
    done = tool("test", config, weights, *flags, "--cfg-options", *options, OMP_NUM_THREADS="1")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "accuracy/top1" in output and "accuracy/top5" not in output
