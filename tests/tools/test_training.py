"""Training from the command line: kill and resume, several processes, flags."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT

SHORT = [
    "train_dataloader.batch_size=2",
    "default_hooks.checkpoint.interval=4",
    "default_hooks.logger.interval=1",
    "train_cfg.val_interval=1000",
]


def train_args(work, iters, *flags):
    return [
        str(ROOT / "tools" / "train.py"),
        "configs/prunet_effdet.py",
        "--work-dir",
        str(work),
        "--max-iters",
        str(iters),
        *flags,
        "--cfg-options",
        *SHORT,
    ]


# One thread a process: several busy-waiting thread pools on two cores would stall one another.
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=ENV)


@pytest.fixture
def few(digits, tmp_path):
    """Options that evaluate on four images only."""
    coco = json.loads((digits / "annotations" / "val.json").read_text())
    coco["images"] = coco["images"][:4]
    ids = {i["id"] for i in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    path = tmp_path / "few.json"
    path.write_text(json.dumps(coco))
    return [f"test_evaluator.ann_file={path}", f"test_dataloader.dataset.ann_file={path}"]


def test_resume_after_kill_in_mid_epoch(digits, tmp_path):
    log, work = tmp_path / "first.log", tmp_path / "work"
    with open(log, "w") as out:
        first = subprocess.Popen(
            [sys.executable, *train_args(work, 30)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=ENV,
            start_new_session=True,
        )
        deadline = time.time() + 200
        while "Iter(train) [ 6/30]" not in log.read_text() and time.time() < deadline:
            assert first.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (work / "iter_30.pth").exists()
    assert load_file(work / "weights.safetensors"), "the weights lie beside every checkpoint"
    newest = int(re.search(r"iter_(\d+)\.pth", (work / "last_checkpoint").read_text())[1])
    before = json.loads((work / "train.json").read_text())
    assert before["iterations"] == newest and not before["resumed"]
    assert before["classes"] == list("0123456789")

    second = run([sys.executable, *train_args(work, 30, "--resume")])
    output = second.stdout + second.stderr
    assert second.returncode == 0, output
    done = [int(n) for n in re.findall(r"Iter\(train\) \[ *(\d+)/30\]", output)]
    assert done == list(range(newest + 1, 31))
    assert "effective batch 2 = 2 images x 1 processes x 1 accumulated" in output
    after = json.loads((work / "train.json").read_text())
    assert after["iterations"] == 30 and after["resumed"]
    assert after["minutes"] > before["minutes"]

    third = run([sys.executable, *train_args(work, 30, "--resume")])
    assert third.returncode == 0, third.stdout + third.stderr
    assert json.loads((work / "train.json").read_text()) == after, "nothing was left to train"


def torchrun(script, *args):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    return run([sys.executable, *launcher, script, *args])


def test_a_frozen_timm_backbone_trains_in_two_processes(digits, tmp_path):
    """Without find_unused_parameters: what is frozen never had a gradient to wait for."""
    backbone = [
        "model.backbone._delete_=True",
        "model.backbone.type=TimmBackbone",
        "model.backbone.name=efficientnet_b0",
        "model.backbone.frozen_stages=2",
    ]
    done = torchrun(*train_args(tmp_path, 2, "--launcher", "pytorch"), *backbone)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Iter(train) [2/2]" in output and "find_unused_parameters = True" not in output


def test_two_processes_on_the_cpu(few, tmp_path):
    """With a frozen and checkpointed backbone, and without find_unused_parameters."""
    backbone = ["model.backbone.frozen_stages=1", "model.backbone.with_cp=True"]
    done = torchrun(*train_args(tmp_path, 4, "--launcher", "pytorch"), *backbone)
    output = done.stdout + done.stderr
    assert "find_unused_parameters = True" not in output
    assert done.returncode == 0, output
    assert "effective batch 4 = 2 images x 2 processes" in output
    assert "Iter(train) [4/4]" in output

    weights, out = tmp_path / "weights.safetensors", tmp_path / "metrics.json"
    config = ["configs/prunet_effdet.py", str(weights), "--work-dir", str(tmp_path / "test")]
    flags = ["--launcher", "pytorch", "--out", str(out), "--cfg-options", *few]
    done = torchrun(str(ROOT / "tools" / "test.py"), *config, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(out.read_text())["training"]["iterations"] == 4


def test_stock_mmdet_trains_the_same_config(digits, tmp_path):
    import mmdet

    stock = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = ["--cfg-options", *SHORT, "train_cfg.max_iters=2"]
    config = ["configs/prunet_effdet.py", "--work-dir", str(tmp_path)]
    done = run([sys.executable, str(stock), *config, *options])
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Iter(train) [2/2]" in output


def test_evaluation_writes_metrics(few, tmp_path):
    from prunet_det.zoo.weights import save_safetensors

    first = run([sys.executable, *train_args(tmp_path, 2)])
    assert first.returncode == 0, first.stdout + first.stderr
    state = load_file(tmp_path / "weights.safetensors")
    (tmp_path / "half").mkdir()
    save_safetensors(state, tmp_path / "half" / "w.safetensors", half=True)
    assert (tmp_path / "half" / "w.safetensors").stat().st_size < 8_000_000
    done = run(
        [
            sys.executable,
            str(ROOT / "tools" / "test.py"),
            "configs/prunet_effdet.py",
            str(tmp_path / "half" / "w.safetensors"),
            "--work-dir",
            str(tmp_path / "test"),
            "--out",
            str(tmp_path / "metrics.json"),
            "--cfg-options",
            *few,
        ]
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert f"{len(state)}/{len(state)} tensors from" in output
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["metrics"]["bbox_mAP"] >= 0.0
    assert record["training"] == {} and record["evaluated"]["commit"]
    training = json.loads((tmp_path / "train.json").read_text())
    assert training["iterations"] == 2 and "--max-iters 2" in training["command"]


@pytest.mark.parametrize("name", ["train", "test", "detect", "make_data", "convert_weights"])
def test_help(name, tool):
    done = tool(name, "--help")
    assert done.returncode == 0 and "usage:" in done.stdout
