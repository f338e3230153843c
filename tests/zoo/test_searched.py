"""The networks of the zoo that a search found: each is what its provenance says."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

import pytest

import prunet_det
from prunet_det.latency import device_names, load_device, predict
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
def test_its_budget_lies_within_the_prediction_s_band(name):
    """The device was fitted to more networks after the search, which met the budget exactly."""
    budget = prunet_det.load_spec(name).provenance.details["budget"]
    assert budget["scope"] == "backbone" and budget["input_size"] == 512
    band = load_device(budget["device"]).provenance["band"]["inside"]
    assert 1 / (1 + band) <= budget["latency_ms"] / milliseconds(name) <= 1 + band


def test_they_are_wider_apart_than_the_predictions_are_wrong():
    assert "v100" in device_names()
    error = load_device("v100").provenance["in_sample"]["worst"]
    latencies = sorted(map(milliseconds, SEARCHED))
    assert all(b / a > 1 + 2 * error for a, b in pairwise(latencies))


@pytest.mark.parametrize("name", SEARCHED)
def test_the_script_that_regenerates_it_gives_its_command(name):
    """tools/regenerate_zoo.sh: name, budget and width factor a line."""
    script = (ROOT / "tools" / "regenerate_zoo.sh").read_text()
    budget, factor = re.search(rf"^{name} (\S+) (\S+)$", script, re.MULTILINE).groups()
    command = prunet_det.load_spec(name).provenance.details["command"]
    program, tool, config, *flags = shlex.split(command)
    assert (program, tool) == ("python", "tools/search_backbone.py")
    assert config in script
    assert flags[flags.index("--budget-ms") + 1] == budget
    assert f"space.width_factor={factor}" in flags
    assert flags[flags.index("--name") + 1] == name
