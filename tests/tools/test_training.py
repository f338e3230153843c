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
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=ENV)


def test_resume_after_kill_in_mid_epoch(digits, tmp_path):
    log = tmp_path / "first.log"
    with open(log, "w") as out:
        first = subprocess.Popen(
            [sys.executable, *train_args(tmp_path / "work", 500)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=ENV,
            start_new_session=True,
        )
        deadline = time.time() + 200
        while "Iter(train) [  6/500]" not in log.read_text() and time.time() < deadline:
            assert first.poll() is None, log.read_text()
            time.sleep(0.2)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    weights = load_file(tmp_path / "work" / "weights.safetensors")
    assert weights, "the averaged weights lie beside every checkpoint"

    second = run([sys.executable, *train_args(tmp_path / "work", 12, "--resume")])
    output = second.stdout + second.stderr
    assert second.returncode == 0, output
    assert re.search(r"resumed? .*iter: 4|iter: 4", output, re.IGNORECASE), output
    done = [int(n) for n in re.findall(r"Iter\(train\) \[ *(\d+)/12\]", output)]
    assert done == list(range(5, 13))
    assert "effective batch 2 = 2 images x 1 processes x 1 accumulated" in output
    assert (tmp_path / "work" / "iter_12.pth").is_file()


def test_two_processes_on_the_cpu(digits, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command = [sys.executable, *launcher, *train_args(tmp_path, 4, "--launcher", "pytorch")]
    done = run(command)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "effective batch 4 = 2 images x 2 processes" in output
    assert "Iter(train) [4/4]" in output


def test_stock_mmdet_trains_the_same_config(digits, tmp_path):
    import mmdet

    stock = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = ["--cfg-options", *SHORT, "train_cfg.max_iters=2"]
    config = ["configs/prunet_effdet.py", "--work-dir", str(tmp_path)]
    done = run([sys.executable, str(stock), *config, *options])
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Iter(train) [2/2]" in output


def test_evaluation_writes_metrics(digits, tmp_path):
    from prunet_det.zoo.weights import save_safetensors

    first = run([sys.executable, *train_args(tmp_path, 2)])
    assert first.returncode == 0, first.stdout + first.stderr
    few = json.loads((digits / "annotations" / "val.json").read_text())
    few["images"] = few["images"][:4]
    ids = {i["id"] for i in few["images"]}
    few["annotations"] = [a for a in few["annotations"] if a["image_id"] in ids]
    (tmp_path / "few.json").write_text(json.dumps(few))
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
            f"test_evaluator.ann_file={tmp_path / 'few.json'}",
            f"test_dataloader.dataset.ann_file={tmp_path / 'few.json'}",
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
