"""search_backbone.py gate and prices, on a supernet of a few steps and a planted study."""

from __future__ import annotations

import json
import runpy
import sys

import numpy as np
import pytest

from prunet_det.arch.spec import Provenance
from prunet_det.benchmark.search_study import RANDOM, Entry, read_entries, write_entries
from prunet_det.search.costs import Pricing
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from prunet_det.utils.runs import RECORDS, Run, RunStore
from tests.conftest import ROOT
from tests.search.conftest import SMALL
from tests.tools.test_search import config  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Six random networks at 0.26 ms; their scores rise with their number."""
    costs = Pricing(device="v100").costs(SearchSpace.from_config(SMALL), 256)
    folder, shapes = tmp_path_factory.mktemp("study"), Shapes(costs)
    drawn = dict.fromkeys(shapes.draw(np.random.default_rng(0), 0.26, 40))
    entries, store = [], RunStore(folder)
    for i, shape in enumerate([*drawn][:6]):
        provenance = Provenance("hand-written", {"reason": "a test"})
        spec = costs.space.to_spec(shape, f"random_{i}", provenance, 256)
        ms = shapes.ms(shape)
        entries.append(Entry(group=RANDOM, name=f"random_{i}", spec=spec, latency_ms=ms))
        figures = {"curve": {"10": [0.1 * i, 1.0]}}
        store.add(Run(subject=spec.digest, recipe="r", seed=0, figures=figures, seconds=1.0))
    write_entries(folder, {"recipe": "r", "budget_ms": 0.26}, entries)
    return folder


@pytest.fixture(scope="module")
def shared(config, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("supernet")
    return (config, "--budget-ms", 0.26, "--input-size", 256, "--supernet", folder, "--quiet")


def test_a_supernet_is_held_to_what_is_judged(here, shared, study, tmp_path):
    args = ("gate", *shared, "--study", study, "--out", tmp_path / "gate.json")
    done = here("search_backbone", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "gate.json").read_text())
    judged = {name: row["judged"] for name, row in record["networks"].items()}
    assert judged == {f"random_{i}": pytest.approx(0.1 * i) for i in range(6)}
    tau, low, high = record["tau_loss"]
    assert record["budget_ms"] == 0.26
    assert low <= tau <= high and f"tau of the supernet's loss: {tau:.2f}" in done.stdout
    assert record["command"].startswith("python tools/search_backbone.py gate ")


def test_layers_have_two_prices(here, shared, tmp_path):
    args = ("prices", *shared, "--count", 3, "--out", tmp_path / "prices.json")
    done = here("search_backbone", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "prices.json").read_text())
    assert set(record["stages"]) <= {"1", "2"} and len(record["removed_at_equal_ms"]) == 2
    assert "ms given to the other widths" in done.stdout and "all stages" in done.stdout


def test_networks_of_all_tiers_and_of_two_of_them(shared, tmp_path, monkeypatch):
    script = ROOT / "tools" / "experiments" / "tiers.py"
    out = tmp_path / "tiers"
    args = [*shared, "--draws", 1, "--out", out]
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, args)])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        runpy.run_path(str(script), run_name="tiers")["main"]()
    about, entries = read_entries(out)
    assert about["budget_ms"] == 0.26
    assert [e.group for e in entries] == [
        "tiers alone",
        *(f"tiers alone, without tier {i}" for i in (1, 2, 3)),
    ]
    assert all(0.97 * 0.26 <= e.latency_ms <= 0.26 for e in entries)


def test_a_study_that_is_none_is_refused_before_the_training(refused, shared, tmp_path):
    args = ("gate", *shared, "--supernet", tmp_path / "s", "--study", tmp_path)
    assert "there is no list of compared networks" in refused("search_backbone", *args)
    assert not (tmp_path / "s").exists()


def test_a_study_of_few_networks_is_refused_before_the_training(refused, shared, study, tmp_path):
    about, entries = read_entries(study)
    write_entries(tmp_path, about, entries[:4])
    (tmp_path / RECORDS).write_bytes((study / RECORDS).read_bytes())
    args = ("gate", *shared, "--supernet", tmp_path / "s", "--study", tmp_path)
    assert "needs 5 random networks, the study has trained 4" in refused("search_backbone", *args)
    assert not (tmp_path / "s").exists()


def test_a_study_of_another_space_is_refused_before_the_training(refused, study, tmp_path):
    args = ("gate", "search/quick.py", "--budget-ms", 0.5, "--supernet", tmp_path / "s", "--quiet")
    said = refused("search_backbone", *args, "--study", study)
    assert "random_0 has another stem or tail than the space" in said
    assert not (tmp_path / "s").exists()
