"""`make gpu`, rehearsed on a CPU: killed on the way, it goes on, and the docs can be written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunet_det.benchmark.gpu.tables import runs, throughput
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
MARK = "PRUNET_TEST_OF_GPU"


def processes(mark):
    """All that the rehearsal has started, by what they have in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_rehearsal(digits, tmp_path):
    out = tmp_path / "gpus" / "here"
    command = [sys.executable, str(ROOT / "tools" / "gpu.py"), "--rehearsal", "--minutes", "20"]
    command += ["--out", str(out), "--data", str(digits.parent), "--commit", "abcdef"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: str(tmp_path)}
    options = dict(cwd=tmp_path, env=env, text=True)  # no checkout

    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    wait_for((out / "blocks.json").is_file)
    assert len(processes(tmp_path)) >= 3
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(lambda: not processes(tmp_path), 20)
    before = json.loads((out / "summary.json").read_text())["parts"]
    assert before["latency"]["state"] == "done"
    assert before["blocks"]["state"] == "interrupted"

    done = subprocess.run(command, capture_output=True, **options)
    summary = json.loads((out / "summary.json").read_text())
    parts = summary["parts"]
    assert done.returncode == 0, done.stderr
    assert parts["latency"] == before["latency"]
    skipped = {name for name, part in parts.items() if part["state"] == "skipped"}
    assert skipped == {"tests", "compiled_latency", "compiled_training"}
    assert {part["state"] for part in parts.values()} == {"done", "skipped"}
    assert parts["suite"]["figures"]["trainings"] == "1 of 1"
    assert list(parts["search"]["record"]["specs"]) == ["0.5", "0.6"]
    assert set(parts["ablations"]["record"]["specs"]) == {"searched_0", "mixture_0"}
    assert "mixture 0" in parts["ablations_judge"]["record"]["study"]["means"]
    assert len(parts["training"]["record"]["throughput"]) == 1
    assert summary["machine"]["commit"]
    files = list(out.iterdir())
    assert len(files) <= 8 and all(f.stat().st_size < 2**24 for f in files)
    assert "| device | done |" in runs(out.parent)
    assert "`prunet_n_w250`" in throughput(out.parent)
