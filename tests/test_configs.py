"""The recipes of configs/ are those that the committed records were made by."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("mmengine")

from prunet_det.benchmark.suite import load_suite
from prunet_det.search.trial import recipe_hash
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results"


def test_benchmark_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite("digits")
    records = (RESULTS / "benchmark" / "digits" / "records").glob("*.json")
    assert {json.loads(r.read_text())["config_hash"] for r in records} == {suite.config_hash()}
    for rate in suite.learning_rates:
        options = {**suite.options, "optim_wrapper.optimizer.lr": rate}
        tried = replace(suite, options=options, held_out=True).config_hash()
        records = (RESULTS / "benchmark" / "digits" / "rates" / str(rate)).rglob("*_seed*.json")
        assert {json.loads(r.read_text())["config_hash"] for r in records} == {tried}


def test_records_of_the_searched_networks():
    about = json.loads((RESULTS / "search" / "compare" / "entries.json").read_text())["about"]
    assert recipe_hash(str(ROOT / about["recipe_file"])) == about["recipe"]
