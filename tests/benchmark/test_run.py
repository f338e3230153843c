"""A run of the benchmark: killed and resumed it gives what an undisturbed one gives."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from prunet_det.benchmark import extras
from prunet_det.benchmark.records import load_records
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # trains, exports, evaluates and times a whole run

KEY = "prunet_tiny_64_seed0"
ITERATION = r"Iter\(train\) +\[ *(\d+)/10\]"
TOOL = [sys.executable, str(ROOT / "tools" / "benchmark.py")]
KILLS = int(os.environ.get("PRUNET_KILLS", "1"))  # more of them take minutes
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def undisturbed(tiny_suite, here, tmp_path_factory):
    """The folder of a suite that ran through, with its latencies."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = here("benchmark", "--suite", tiny_suite, "--out", out, "--seconds", 0.05)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_record(undisturbed):
    (record,) = load_records(undisturbed)
    assert record.key == KEY and record.suite == "tiny" and record.artifact == "onnxruntime fp32"
    assert record.parameters > 5e4 and record.macs > 1e6 and record.kernels > 50
    assert record.images_per_second > 0 and record.peak_memory_mb > 50 and record.seconds > 0
    assert record.arch["name"] == "prunet_tiny" and record.weights_hash
    assert {(latency.scope, latency.kind) for latency in record.latencies} == {
        ("backbone", "measured"),
        ("detector", "measured"),
        ("e2e", "measured"),
        ("backbone", "predicted"),
        ("detector", "predicted"),
    }
    for latency in record.latencies:
        measured, c = latency.kind == "measured", latency.conditions
        assert f"{c.runtime} {c.precision}" == (record.artifact if measured else "tensorrt fp16")
        assert c.threads == int(measured)
    assert not list((undisturbed / "work" / KEY).glob("iter_*.pth"))


def test_evaluates_what_is_deployed(undisturbed, tiny_suite, monkeypatch):
    """A program, for whatever runtime, gives the boxes that the training's own detector gives."""
    import torch
    from mmengine.runner import Runner

    from prunet_det.benchmark.evaluate import make_artifact, predictor
    from prunet_det.benchmark.suite import load_suite
    from prunet_det.detection.build import build_detector

    monkeypatch.chdir(ROOT)
    suite = load_suite(tiny_suite)
    work = undisturbed / "work" / KEY
    cfg = suite.build(suite.candidates[0], 0, work)
    detector = build_detector(cfg, work / "weights.safetensors")
    detector.bbox_head.test_cfg["score_thr"] = 0.0  # ten iterations teach nothing
    part, program = make_artifact(detector, 64, suite.artifact, "cpu", 1)
    batch = next(iter(Runner.build_dataloader(cfg.test_dataloader)))
    found = predictor(detector, part, program)(batch)
    with torch.no_grad():
        expected = detector.test_step(batch)
    for one, other in zip(found, expected, strict=True):
        assert len(one.pred_instances) == len(other.pred_instances) > 0
        torch.testing.assert_close(
            one.pred_instances.scores, other.pred_instances.scores, atol=1e-4, rtol=1e-3
        )
        # Untrained scores are nearly equal: boxes are compared without their order.
        boxes = [
            torch.cat([p.pred_instances.bboxes, p.pred_instances.labels[:, None]], 1)
            for p in (one, other)
        ]
        distance = torch.cdist(*boxes).min(1).values
        assert (distance < 0.5).float().mean() > 0.9


def test_killed_and_resumed_is_undisturbed(undisturbed, tiny_suite, tmp_path, here):
    command = [*TOOL, "--suite", str(tiny_suite), "--out", str(tmp_path), "--no-timing"]
    log, draw = tmp_path / "work" / "logs" / f"{KEY}.log", random.Random(KILLS)
    for kill in range(KILLS):
        first = subprocess.Popen(command, cwd=ROOT, env=ENV, start_new_session=True)
        goal = draw.randint(3, 9) if kill else 3
        past = len(log.read_text()) if log.exists() else 0
        deadline = time.time() + 900
        while time.time() < deadline and first.poll() is None:
            text = log.read_text() if log.exists() else ""
            # The latest start's; where it went on after the goal, at its first iteration.
            seen = re.findall(ITERATION, text[past:])
            if seen and int(seen[-1]) >= goal:
                break
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (tmp_path / "records.jsonl").exists()
    past = len(log.read_text())
    second = here("benchmark", *command[2:])
    assert second.returncode == 0, second.stdout + second.stderr
    done = [int(n) for n in re.findall(ITERATION, log.read_text()[past:])]
    assert done and 1 not in done, "it did not begin anew"
    (found,), (expected,) = map(load_records, (tmp_path, undisturbed))
    assert found.result() == expected.result()


def test_a_second_call_keeps_what_is_done(undisturbed, tiny_suite, here):
    path = undisturbed / "records.jsonl"
    before = path.read_bytes()
    arguments = ["--suite", tiny_suite, "--out", undisturbed]
    done = here("benchmark", *arguments)
    assert done.returncode == 0 and "1 of 1 runs are done" in done.stdout, done.stderr
    assert "all networks are timed" in done.stdout
    other = here("benchmark", *arguments, "--options", "optim_wrapper.optimizer.lr=0.5")
    assert other.returncode == 2 and "differ in recipe (config_hash)" in other.stderr
    assert path.read_bytes() == before


def test_a_network_that_cannot_be_timed_leaves_the_others_their_rows(
    undisturbed, tiny_suite, here, monkeypatch, tmp_path
):
    from prunet_det.benchmark import timing

    out = shutil.copytree(undisturbed, tmp_path / "out")
    (first,) = (out / "latency").glob("*onnxruntime*.json")
    rows = json.loads(first.read_text())["rows"][:2]

    def without_one(suite, candidates, out, seconds):
        return rows, {"prunet_tiny@64 e2e": "its outputs are not finite."}

    monkeypatch.setattr(timing, "measure_suite", without_one)
    done = here("benchmark", "time", "--suite", tiny_suite, "--out", out)
    assert done.returncode == 1 and "its outputs are not finite" in done.stderr, done.stderr
    written = json.loads(first.read_text())
    assert written["rows"] == rows and list(written["failed"]) == ["prunet_tiny@64 e2e"]
    again = here("benchmark", "--suite", tiny_suite, "--out", out)
    assert again.returncode == 1 and "all networks are timed" not in again.stdout


def test_a_second_timing_lies_beside_the_first(undisturbed, tiny_suite, here, monkeypatch):
    from prunet_det.benchmark import timing

    (first,) = (undisturbed / "latency").glob("*onnxruntime*.json")
    rows = json.loads(first.read_text())["rows"]
    slower = [{**row, **{k: 9 * row[k] for k in ("latency_ms", "high_ms")}} for row in rows]
    monkeypatch.setattr(timing, "measure_suite", lambda *_: (slower, {}))
    arguments = ["--suite", tiny_suite, "--out", undisturbed, "--repeat-timing"]
    done = here("benchmark", "time", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(first.read_text())["rows"] == rows
    (second,) = (undisturbed / "repeat" / "latency").glob("*.json")
    assert json.loads(second.read_text())["rows"] == slower
    text = extras.markdown(undisturbed, load_records(undisturbed))
    assert "| end to end | 0 of 1 | 800.0% | 0 of 0 | 0 |" in text
