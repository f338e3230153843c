"""The networks of the zoo that a search found: each is what its provenance says."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

import prunet_det
from prunet_det.latency import device_names, load_device, predict
from prunet_det.search.result import SearchResult
from tests.conftest import ROOT

SEARCHED = [
    n for n in prunet_det.model_names() if prunet_det.load_spec(n).provenance.kind == "searched"
]


def milliseconds(name):
    budget = prunet_det.load_spec(name).provenance.details["budget"]
    return predict(name, budget["device"], budget["batch"], budget["input_size"]).latency.ms


def test_all_five_are_there():
    assert {f"prunet_{size}" for size in "ntsml"} <= set(SEARCHED)


@pytest.mark.parametrize("name", SEARCHED)
def test_it_spends_its_budget(name):
    budget = prunet_det.load_spec(name).provenance.details["budget"]
    assert budget["scope"] == "backbone" and budget["input_size"] == 512
    assert 0.97 <= milliseconds(name) / budget["latency_ms"] <= 1.0


def test_they_are_wider_apart_than_the_predictions_are_wrong():
    assert "v100" in device_names()
    error = load_device("v100").provenance["in_sample"]["worst"]
    latencies = sorted(map(milliseconds, SEARCHED))
    assert all(b / a > 1 + 2 * error for a, b in pairwise(latencies))


def test_one_recorded_search_found_them():
    found = SearchResult.load(ROOT / "docs" / "results" / "search" / "found" / "zoo")
    assert found.accepted and re.fullmatch("[0-9a-f]{40}", found.run["commit"])
    specs = {network.spec.name: network.spec for network in found.networks.values()}
    assert specs == {name: prunet_det.load_spec(name) for name in SEARCHED}
    for spec in specs.values():
        assert spec.provenance.details["command"] == found.run["command"]


def test_the_script_that_regenerates_them_has_their_command():
    script = (ROOT / "tools" / "regenerate_zoo.sh").read_text().replace("\\\n", "")
    specs = [prunet_det.load_spec(name) for name in SEARCHED]
    (command,) = {spec.provenance.details["command"] for spec in specs}
    assert command.removeprefix("python ") in " ".join(script.replace('"$python"', "").split())
    for spec in specs:
        budget = spec.provenance.details["budget"]["latency_ms"]
        assert f" {spec.name.removeprefix('prunet_')}:{budget:g}" in script
