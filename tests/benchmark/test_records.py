"""Records: what is written is read again, and nothing is mixed or half read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prunet_det.benchmark import records as r
from prunet_det.benchmark.run import Training
from prunet_det.benchmark.suite import load_suite
from prunet_det.latency.record import Conditions, Latency
from prunet_det.utils.errors import UserError
from prunet_det.utils.runs import RunStore
from tests.benchmark.planted import save
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
    save(tmp_path, [RECORD, other, replace(RECORD, seed=1)])
    rows = [{**latency("prunet_p0", size).to_dict(), "spread": 0.1} for size in (128, 160)]
    r.save_latencies(tmp_path, "My CPU, 2 cores", rows, {"command": "x"})
    (tmp_path / r.LATENCY / ".17.half.json").write_text("{")  # what a killed process leaves
    found = r.load_records(tmp_path)
    assert [(f.input_size, f.seed) for f in found] == [(128, 0), (128, 1), (160, 0)]
    assert [f.latencies for f in found] == [(latency("prunet_p0", f.input_size),) for f in found]
    assert replace(found[0], latencies=()) == RECORD


def another(key):
    return 2 if key == "training_revision" else "another"


@pytest.mark.parametrize("key", list(r.SHARED))
def test_other_revision_data_or_recipe_is_refused(tmp_path, key):
    save(tmp_path, [RECORD, replace(RECORD, seed=1, **{key: another(key)})])
    with pytest.raises(UserError, match=r"folders of their own"):
        r.load_records(tmp_path)
    with pytest.raises(UserError, match=r"differ in .*folders of their own"):
        r.check_shared([RECORD], {key: another(key)})


def test_other_blocks_of_one_name_are_refused(tmp_path):
    save(tmp_path, [replace(RECORD, arch={"bn_eps": 1}), replace(RECORD, seed=1, arch={})])
    with pytest.raises(UserError, match="other blocks than prunet_p0 has"):
        r.load_records(tmp_path)
    moved = [{"bn_eps": 1, "provenance": {"file": name}} for name in "ab"]
    r.check_shared([replace(RECORD, arch=moved[0]), replace(RECORD, seed=1, arch=moved[1])])
    with pytest.raises(UserError, match="prunet_p0_128_seed0 has other blocks"):
        r.check_shared([RECORD], networks={("prunet_p0", 128): replace(RECORD, arch={}).subject})


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
    RunStore(tmp_path).add(replace(RECORD.run, figures={**RECORD.run.figures, **change}))
    with pytest.raises(UserError, match=said):
        r.load_records(tmp_path)
    with pytest.raises(UserError, match="holds no records"):
        r.load_records(tmp_path / "elsewhere")


def test_result_leaves_times_out():
    slower = replace(RECORD, seconds=9.0, images_per_second=1.0, commit="other")
    assert slower.result() == RECORD.result()
    assert replace(RECORD, metrics={**METRICS, "mAP": 0.3}).result() != RECORD.result()


def test_records_without_a_training_revision_count_as_its_first(tmp_path):
    figures = {k: v for k, v in RECORD.run.figures.items() if k != "training_revision"}
    RunStore(tmp_path).add(replace(RECORD.run, figures=figures))
    assert r.load_records(tmp_path) == [RECORD]


def test_published_records_are_of_the_suite_s_networks(monkeypatch):
    """Whatever a spec says of where it comes from: its maker's file may have moved."""
    monkeypatch.chdir(ROOT)
    suite, folder = load_suite("digits"), Path("docs/results/benchmark/digits")
    shared = r.load_records(folder)[0].shared
    about = {"suite": suite, "out": folder, "shared": shared, "command": ""}
    tasks = [
        Training(name=c.key(s), candidate=c, seed=s, **about)
        for c in suite.candidates
        for s in range(suite.seeds)
    ]
    store = RunStore(folder)
    assert all(task.key in store for task in tasks)


FINISHED = """
import sys
from pathlib import Path

import prunet_det
from prunet_det.benchmark.campaign import trainings
from prunet_det.benchmark.suite import load_suite
from prunet_det.detection import pyramid
from prunet_det.utils.runs import RunStore

copy, folder = map(Path, sys.argv[1:])
assert copy in Path(prunet_det.__file__).parents
store = RunStore(folder)
print(sum(task.key in store for task in trainings(load_suite("digits"), 3, folder, "")))
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
    assert int(done.stdout.split()[-1]) == len(list(RunStore(folder))) > 0
