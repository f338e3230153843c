"""Training from the command line: kill and resume, several processes, flags."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ENV, NO_WORKERS, ROOT, kill_once

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


def run(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=ENV)


@pytest.mark.slow
def test_resume_after_kill_in_mid_epoch(few, tmp_path, here):
    log, work = tmp_path / "first.log", tmp_path / "work"
    command = [sys.executable, *train_args(work, 12), *few]
    kill_once(lambda: "Iter(train) [ 6/12]" in log.read_text(), command, log)
    assert not (work / "iter_12.pth").exists()
    assert load_file(work / "weights.safetensors"), "the weights lie beside every checkpoint"
    newest = int(re.search(r"iter_(\d+)\.pth", (work / "last_checkpoint").read_text())[1])
    before = json.loads((work / "train.json").read_text())
    assert before["iterations"] == newest and not before["resumed"]
    assert before["classes"] == list("0123456789")

    second = here("train", *train_args(work, 12, "--resume")[1:], *few, *NO_WORKERS)
    output = second.stdout + second.stderr
    assert second.returncode == 0, output
    done = [int(n) for n in re.findall(r"Iter\(train\) \[ *(\d+)/12\]", output)]
    assert done == list(range(newest + 1, 13))
    assert "effective batch 2 = 2 images x 1 processes x 1 accumulated" in output
    after = json.loads((work / "train.json").read_text())
    assert after["iterations"] == 12 and after["resumed"]
    assert after["minutes"] > before["minutes"]

    third = here("train", *train_args(work, 12, "--resume")[1:], *few, *NO_WORKERS)
    assert third.returncode == 0, third.stdout + third.stderr
    assert json.loads((work / "train.json").read_text()) == after, "nothing was left to train"


def torchrun(folder, *commands):
    """Runs tools in two processes on the CPU, one after the other; returns all that they print."""
    (folder / "commands.json").write_text(json.dumps([list(map(str, c)) for c in commands]))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    in_turn = [str(Path(__file__).with_name("in_turn.py")), str(folder / "commands.json")]
    done = run([sys.executable, *launcher, *in_turn])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_on_the_cpu(few, tmp_path):
    """Part of the backbone frozen and checkpointed; no parameter is left waiting."""
    work, out = tmp_path / "work", tmp_path / "metrics.json"
    frozen = ["model.backbone.frozen_stages=1", "model.backbone.with_cp=True"]
    evaluate = [str(ROOT / "tools" / "test.py"), "configs/prunet_effdet.py"]
    evaluate += [work / "weights.safetensors", "--work-dir", tmp_path / "test"]
    evaluate += ["--launcher", "pytorch", "--out", out, "--cfg-options", *few, *NO_WORKERS]
    train = [*train_args(work, 3, "--launcher", "pytorch"), *frozen, *few, *NO_WORKERS]
    output = torchrun(tmp_path, train, evaluate)
    assert "find_unused_parameters = True" not in output
    assert "effective batch 4 = 2 images x 2 processes" in output
    assert "Iter(train) [3/3]" in output
    assert json.loads(out.read_text())["training"]["iterations"] == 3


def test_stock_mmdet_trains_the_same_config(few, tmp_path, here):
    import mmdet

    stock = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = ["--cfg-options", *SHORT, *few, *NO_WORKERS, "train_cfg.max_iters=2"]
    options += ["param_scheduler.0.end=1", "param_scheduler.1.begin=1"]
    done = here(str(stock), "configs/prunet_effdet.py", "--work-dir", tmp_path, *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Iter(train) [2/2]" in output


def test_evaluation_writes_metrics(few, tmp_path, here):
    from prunet_det.zoo.weights import save_safetensors

    first = here("train", *train_args(tmp_path, 2)[1:], *few, *NO_WORKERS)
    assert first.returncode == 0, first.stdout + first.stderr
    state = load_file(tmp_path / "weights.safetensors")
    half = tmp_path / "half" / "w.safetensors"
    half.parent.mkdir()
    save_safetensors(state, half, half=True)
    assert half.stat().st_size < 8_000_000
    flags = ["--work-dir", tmp_path / "test", "--out", tmp_path / "metrics.json"]
    flags += ["--cfg-options", *few, *NO_WORKERS]
    done = here("test", "configs/prunet_effdet.py", half, *flags)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert f"{len(state)}/{len(state)} tensors from" in output
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["metrics"]["bbox_mAP"] >= 0.0
    assert record["training"] == {} and record["evaluated"]["commit"]
    training = json.loads((tmp_path / "train.json").read_text())
    assert training["iterations"] == 2 and "--max-iters 2" in training["command"]
    assert training["config"] == "prunet_effdet.py" and (tmp_path / training["config"]).is_file()
