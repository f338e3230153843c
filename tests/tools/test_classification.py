"""Classification from the command line."""

from __future__ import annotations

import json

import numpy as np
import timm
from PIL import Image
from safetensors.torch import load_file

from prunet_det.detection import PruNet
from prunet_det.zoo.weights import save_safetensors
from tests.conftest import NO_WORKERS

DIGITS = "configs/classification/prunet_digits.py"
QUICK = [
    *NO_WORKERS,
    "train_dataloader.batch_size=4",
    "val_dataloader.batch_size=4",
    "default_hooks.logger.interval=1",
]
# Half the recipe's input size.
SMALL = [
    f"{split}_dataloader.dataset.transform.input_size=(3,32,32)"
    for split in ("train", "val", "test")
]


def test_a_classifier_is_trained_and_evaluated(digits, tmp_path, here):
    """On the digits' crops; its weights start a detector's backbone."""
    work, out = tmp_path / "work", tmp_path / "metrics.json"
    train = [DIGITS, "--work-dir", work, "--max-iters", 3]
    done = here("train", *train, "--cfg-options", *QUICK, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = work / "weights.safetensors"
    flags = ["--work-dir", tmp_path / "test", "--out", out, "--cfg-options", *SMALL, *NO_WORKERS]
    done = here("test", DIGITS, weights, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy/top1" in done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert 0 <= record["metrics"]["top1"] <= record["metrics"]["top5"] <= 1
    assert record["classes"] == list("0123456789") and record["data"] == "digits, val"
    assert record["training"]["iterations"] == 3 and len(record["data_hash"]) == 16
    backbone, state = PruNet("prunet_demo", checkpoint=weights), load_file(weights)
    for key, value in backbone.net.model.state_dict().items():
        assert (value == state[f"net.{key}"]).all(), key


def test_imagenet_config_with_a_teacher(tmp_path, here):
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
    done = here("train", *args, *flags, "--cfg-options", *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "teacher: " in output and "loss_teacher" in output and "accuracy/top1" in output
    again = here("train", *args, "--resume", *flags, "--cfg-options", *options)
    assert again.returncode == 0, again.stdout + again.stderr
    flags = ["--data-root", tmp_path / "data", "--work-dir", tmp_path / "test"]
    weights = tmp_path / "work" / "weights.safetensors"
    options = [*QUICK, "model.arch=prunet_demo", "model.num_classes=2"]
    done = here("test", config, weights, *flags, "--cfg-options", *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "accuracy/top1" in output and "accuracy/top5" not in output
