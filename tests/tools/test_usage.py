"""Every tool says how it is used, and a user's mistake is one line and exit code 2.

That the sentences are right is tested with the functions that say them.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import ROOT

TOOLS = sorted(
    p.stem for p in (ROOT / "tools").glob("[!_]*.py") if p.stem not in ("doctor", "_flags")
)
DETECTOR = "configs/prunet_effdet.py"
CLASSIFIER = "configs/classification/prunet_digits.py"
TINY = ("--model", "prunet_demo", "--input-size", 64)
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("name", TOOLS)
def test_help(name, here):
    done = here(name, "--help")
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.parametrize(
    ("tool", "args", "sentence"),
    [
        ("train", ("nowhere.py",), "there is no config file nowhere.py"),
        ("train", (DETECTOR, "--max-iters", 0), "--max-iters: must be at least 1"),
        ("train", (DETECTOR, "--resume", "none.pth"), "there is no checkpoint"),
        ("train", (DETECTOR, "--from", "none.pth"), "there is no checkpoint none.pth"),
        ("train", (DETECTOR, "--teacher", "resnet10t"), "for classification configs"),
        pytest.param("train", (DETECTOR, "--amp"), "--amp needs a CUDA device", marks=NO_GPU),
        ("train", (DETECTOR, "--amp-dtype", "bfloat16"), "--amp-dtype needs --amp"),
        pytest.param(
            "train",
            (DETECTOR, "--speed-up", "graph"),
            "--speed-up graph needs a CUDA device",
            marks=NO_GPU,
        ),
        ("test", (DETECTOR, "none.pth"), "there is no checkpoint"),
        ("detect", ("gone.png",), "there is no image, video or folder gone.png"),
        ("detect", ("tests/data",), "holds no image"),
        ("detect", ("gone.png", "--score-thr", 2), "--score-thr must lie in 0..1"),
        ("make_data", ("letters", "--out", "x"), "no embedded set 'letters'"),
        ("make_data", ("digits", "--out", "/proc/nowhere/digits"), "/proc/nowhere"),
        ("make_data", ("digits", "--out", "x", "--workers", 0), "--workers: must be at least 1"),
        ("convert_weights", ("gpunet", "gpunet_0", "none.pth", "x"), "there is no checkpoint"),
        ("export", ("prunet_p9", "--out", "x.onnx"), "there is no network 'prunet_p9'"),
        ("export", ("prunet_demo", "--out", "x.pt"), "--out must end in .onnx"),
        ("export", ("prunet_demo", "--out", "x.onnx", "--batch", "two"), "--batch must be a posit"),
        ("latency", ("predict", "--model", "prunet_p7"), "there is no network 'prunet_p7'"),
        ("latency", ("predict", *TINY, "--device", "tpu"), "no device 'tpu'; the known ones are"),
        ("latency", ("predict", "--model", "gone.json"), "there is no spec file gone.json"),
        ("latency", ("measure", *TINY, "--device", "v100"), "no device 'v100'; give cpu"),
        ("latency", ("measure", *TINY, "--device", "cuda:9"), "there is no CUDA device cuda:9"),
        ("latency", ("check", "gone.json"), "there is no latency table gone.json"),
        (
            "latency",
            ("table", *TINY, "--variants", -1, "--out", "x"),
            "--variants: must be at least 0",
        ),
        ("latency", ("calibrate", "--from", "gone.json"), "--out FILE.json"),
        ("latency", ("calibrate", "--device", "h200"), "no published times of 'h200'"),
        (
            "search_backbone",
            ("quick.py", "--budget-ms", 1, "--jobs", 0),
            "--jobs: must be at least",
        ),
        ("search_backbone", (DETECTOR, "--budget-ms", 1), "no search config"),
        ("gpu", ("--out", "x", "--rehearsal", "--parts", "y"), "no part 'y'; the parts are tests"),
        ("gpu", ("--out", "x", "--minutes", 0), "--minutes: must be a number above 0"),
        pytest.param("gpu", ("--out", "x"), "--rehearsal runs all in small", marks=NO_GPU),
        ("benchmark", ("--suite", "nowhere.py", "--out", "x"), "there is no suite nowhere.py"),
        ("benchmark", ("--models", "vgg16", "--out", "x"), "has no model 'vgg16'; it has"),
        ("benchmark", ("--seeds", 0, "--out", "x"), "--seeds: must be at least 1"),
        ("benchmark", ("--jobs", 0, "--out", "x"), "--jobs: must be at least 1"),
        (
            "benchmark",
            ("--max-minutes", 0, "--out", "x"),
            "--max-minutes: must be a number above 0",
        ),
        ("benchmark", ("--max-iters", 0, "--out", "x"), "--max-iters: must be at least 1"),
        ("benchmark", ("--out", "/proc/out"), "cannot be written"),
        ("benchmark", ("report", "/nonexistent"), "/nonexistent"),
        ("benchmark", ("search", "--out", "x"), "unrecognized arguments: search"),
        ("benchmark", ("time", "--out", "/nonexistent"), "holds no records"),
        ("benchmark", ("speed-up", "--iterations", 1), "--iterations: must be at least 2"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line(refused, tool, args, sentence):
    assert sentence in refused(tool, *args)


def test_a_workers_mistake_is_one_line(refused, digits, tmp_path):
    """Without the traceback of the process that loads data."""
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            (tmp_path / split / kind).mkdir(parents=True)
            (tmp_path / split / kind / "a.png").write_bytes(b"no picture")
    options = ["model.arch=prunet_demo", "model.num_classes=2"]
    options += ["train_dataloader.num_workers=1", "train_dataloader.batch_size=2"]
    flags = ["--data-root", tmp_path, "--work-dir", tmp_path / "work", "--cfg-options", *options]
    error = refused("train", "configs/classification/prunet_imagenet.py", *flags)
    assert "a.png is no image that can be read" in error and len(error) < 400


def test_detect_leaves_inputs_alone(refused, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    assert "would overwrite an input" in refused("detect", tmp_path, "--out", tmp_path)
    assert (tmp_path / "a.png").read_text() == "no picture"
    error = refused("detect", tmp_path / "a.png", "--out", tmp_path / "out")
    assert "no image that can be read" in error and not (tmp_path / "out").exists()


def test_a_release_knows_its_training(refused, tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors")
    args = ("release", DETECTOR, tmp_path / "w.safetensors")
    error = refused("convert_weights", *args, tmp_path / "out.safetensors")
    assert "has no train.json" in error and not (tmp_path / "out.safetensors").exists()
    assert "must end in .safetensors" in refused("convert_weights", *args, tmp_path / "out.pth")


def test_a_detectors_weights_are_no_classifiers(refused, digits, tmp_path):
    shipped = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"
    error = refused("test", CLASSIFIER, shipped, "--work-dir", tmp_path / "work")
    assert "does not fit the model" in error
