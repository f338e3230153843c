"""Records: what is written is read again, and nothing is mixed or half read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from prunet_det.benchmark import records as r
from prunet_det.benchmark.run import finished
from prunet_det.benchmark.suite import load_suite
from prunet_det.latency.record import Conditions, Latency
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT

METRICS = dict.fromkeys(r.METRICS, 0.25)
RECORD = r.Record(
    model="prunet_p0",
    family="prunet",
    input_size=128,
    seed=0,
    suite="tiny",
    metrics=METRICS,
    artifact="onnxruntime fp32",
)


def latency(model: str, size: int) -> Latency:
    conditions = Conditions(device="cpu", runtime="onnxruntime", precision="fp32")
    return Latency(
        model=model,
        input_size=size,
        scope="backbone",
        conditions=conditions,
        ms=2.0,
        low=1.0,
        high=3.0,
        kind="measured",
    )


def test_joins_latencies_by_network_and_size(tmp_path):
    other = replace(RECORD, input_size=160)
    for record in (RECORD, other, replace(RECORD, seed=1)):
        r.save_record(tmp_path, record)
    rows = [{**latency("prunet_p0", size).to_dict(), "spread": 0.1} for size in (128, 160)]
    r.save_latencies(tmp_path, "My CPU, 2 cores", rows, {"command": "x"})
    (tmp_path / r.RECORDS / ".17.half.json").write_text("{")  # what a killed process leaves
    found = r.load_records(tmp_path)
    assert [(f.input_size, f.seed) for f in found] == [(128, 0), (128, 1), (160, 0)]
    assert [f.latencies for f in found] == [(latency("prunet_p0", f.input_size),) for f in found]
    assert replace(found[0], latencies=()) == RECORD


def another(key):
    return 2 if key == "training_revision" else "another"


@pytest.mark.parametrize("key", list(r.SHARED))
def test_other_revision_data_or_recipe_is_refused(tmp_path, key):
    r.save_record(tmp_path, RECORD)
    r.save_record(tmp_path, replace(RECORD, seed=1, **{key: another(key)}))
    with pytest.raises(UserError, match=r"folders of their own"):
        r.load_records(tmp_path)
    failed = replace(RECORD, seed=1, status="failed", metrics={}, **{key: another(key)})
    r.save_record(tmp_path, failed)
    assert len(r.load_records(tmp_path)) == 2, "a failure has no figures to mix"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": "resnet"}, "family"),
        ({"metrics": {"mAP": 0.1}}, "metrics"),
        ({"metrics": {**METRICS, "mAP": 43.0}}, "between 0 and 1"),
        ({"colour": 1}, "colour"),
    ],
)
def test_damaged_records_are_named(tmp_path, change, said):
    path = r.save_record(tmp_path, RECORD)
    path.write_text(json.dumps({**RECORD.to_dict(), **change}))
    with pytest.raises(UserError, match=said):
        r.load_records(tmp_path)
    with pytest.raises(UserError, match="holds no records"):
        r.load_records(tmp_path / "elsewhere")


def test_result_leaves_times_out():
    slower = replace(RECORD, seconds=9.0, images_per_second=1.0, commit="other")
    assert slower.result() == RECORD.result()
    assert replace(RECORD, metrics={**METRICS, "mAP": 0.3}).result() != RECORD.result()


def test_records_of_before_the_training_revision_count_as_its_first(tmp_path):
    path = r.save_record(tmp_path, RECORD)
    old = {k: v for k, v in RECORD.to_dict().items() if k != "training_revision"}
    path.write_text(json.dumps({**old, "code_hash": "790ce12cf512"}))
    assert r.read_record(path) == RECORD


def test_published_records_are_of_the_suite_s_networks(monkeypatch):
    """Whatever a spec says of where it comes from: its maker's file may have moved."""
    monkeypatch.chdir(ROOT)
    suite = load_suite("digits")
    for candidate in suite.candidates:
        for seed in (0, 1):
            key = candidate.key(seed)
            record = finished("docs/results/benchmark/digits", key, {"arch": candidate.arch})
            assert record is not None and record.key == key
    smaller = {**candidate.arch, "stages": candidate.arch["stages"][:-1]}
    with pytest.raises(UserError, match="is of another arch"):
        finished("docs/results/benchmark/digits", key, {"arch": smaller})


FINISHED = """
import sys
from pathlib import Path

import prunet_det
from prunet_det.benchmark.identity import identity
from prunet_det.benchmark.records import load_records
from prunet_det.benchmark.run import finished
from prunet_det.benchmark.suite import load_suite
from prunet_det.detection import pyramid

copy, folder = map(Path, sys.argv[1:])
assert copy in Path(prunet_det.__file__).parents
wanted = identity(load_suite("digits"))
print(sum(finished(folder, r.key, wanted) is not None for r in load_records(folder)))
"""


@pytest.mark.slow
def test_a_refactoring_leaves_the_committed_records_valid(digits, tmp_path):
    """A module that training imports is renamed in a copy of the package."""
    copy = shutil.copytree(ROOT / "prunet_det", tmp_path / "prunet_det")
    (copy / "detection" / "bifpn.py").rename(copy / "detection" / "pyramid.py")
    for path in copy.rglob("*.py"):
        path.write_text(path.read_text().replace("detection.bifpn", "detection.pyramid"))
    folder = ROOT / "docs" / "results" / "benchmark" / "digits"
    (tmp_path / "finished.py").write_text(FINISHED)  # beside the copy, which it imports
    command = [sys.executable, tmp_path / "finished.py", tmp_path, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(list((folder / "records").glob("*.json")))
