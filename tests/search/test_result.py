"""What a search leaves: saved, loaded, and told whether it is finished."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from prunet_det.arch.spec import Provenance
from prunet_det.search.report import write_report
from prunet_det.search.result import RUN_FILE, FoundNetwork, SearchResult, network_folder
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.utils.errors import InputError, MissingFileError, UserError

DETAILS = {"command": "c", "budget": {}, "seed": 0, "data": {}}


@pytest.fixture
def network(costs) -> FoundNetwork:
    """The least network of the small space, at a budget that it meets."""
    layers = costs.space.layers
    least = Shape([-1 if layer.skippable else 0 for layer in layers], np.zeros(len(layers)))
    spec = costs.space.to_spec(least, "found", Provenance("searched", DETAILS), 256)
    ms = Shapes(costs).ms(least)
    weights = spec.build(num_classes=3).state_dict()
    budget = costs.budget(1.01 * ms)
    return FoundNetwork(
        spec=spec, budget=budget, kind="predicted", ms=ms, weights=weights, figures={"top1": 0.5}
    )


@pytest.fixture
def result(network, tmp_path) -> SearchResult:
    run = {"command": "python x", "config": "configs/search/quick.py"}
    run |= {"off": ["layers"], "weights": "paths", "seed": 3, "commit": "c"}
    run["seconds"] = {"warm-up": 1.5, "paths": 2.0}
    made = SearchResult(networks={network.budget.ms: network}, run=run, folder=tmp_path / "out")
    made.save()
    return made


def test_a_result_is_what_was_saved(result, network):
    (found,) = SearchResult.load(result.folder).networks.values()
    assert found.spec == network.spec and found.budget == network.budget
    assert found.figures == network.figures and found.accepted and found.final
    assert all(torch.equal(found.weights[key], value) for key, value in network.weights.items())
    net = found.build()
    assert not net.training and net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    folder = network_folder(result.folder, network.budget.ms)
    assert sorted(p.name for p in folder.iterdir()) == [
        "arch.json",
        "run.json",
        "weights.safetensors",
    ]


@pytest.mark.parametrize(
    ("share", "measured", "accepted"),
    [(1.01, None, True), (1.04, None, False), (0.99, None, False), (1.01, 0.97, True),
     (1.01, 0.9, False), (1.01, 1.1, False)],
)  # fmt: skip
def test_a_network_meets_its_budget_or_says_that_it_does_not(
    network, costs, share, measured, accepted
):
    ms = measured and measured * share * network.ms
    other = dataclasses.replace(network, budget=costs.budget(share * network.ms), measured_ms=ms)
    assert other.accepted is accepted
    assert ("does not meet" in other.line) is not accepted


def test_a_result_is_accepted_if_all_its_networks_are(result, network, costs):
    assert result.accepted
    other = dataclasses.replace(network, budget=costs.budget(9.0))
    both = dataclasses.replace(result, networks={**result.networks, 9.0: other})
    assert not both.accepted and len(both.lines) == 2


def test_without_weights_there_is_nothing_to_build(network):
    with pytest.raises(UserError, match="has no weights"):
        dataclasses.replace(network, weights=None).build()


def test_damaged_and_missing_results(result, tmp_path):
    with pytest.raises(MissingFileError, match="holds no result"):
        SearchResult.load(tmp_path / "nothing")
    path = network_folder(result.folder, next(iter(result.networks))) / RUN_FILE
    run = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in run.items() if k != "chooser"}))
    with pytest.raises(InputError, match=r"run\.json is no run of a search: it has no 'chooser'"):
        SearchResult.load(result.folder)
    path.write_text(json.dumps(run))
    (path.parent / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"weights\.safetensors is truncated or no checkpoint"):
        SearchResult.load(result.folder)


def test_the_report_has_a_picture_of_everything_that_happened(result, network, space, costs):
    most = max(len(layer.operators) for layer in space.layers)
    ms = network.budget.ms
    history = []
    for step in range(1, 6):
        live = [[1.0 / len(x.operators)] * len(x.operators) for x in space.layers]
        record = {
            "probabilities": [row + [0.0] * (most - len(row)) for row in live],
            "skips": [0.1 * step if layer.skippable else 0.0 for layer in space.layers],
            "pairs": [[8, 8 * step] for _ in space.layers],
        }
        history.append({"step": step, f"{ms:g}": record})
    finalist = {"name": "tiers", "ms": ms, "operators": [0, 1, -1], "scores": {"100": [0.5, None]}}
    figures = {"finalists": [finalist]}
    shown = dataclasses.replace(network, figures={**network.figures, **figures})
    events = [(4, ms, "layer 1.2 leaves"), (4, 9.0, "of another budget")]
    whole = dataclasses.replace(result, networks={ms: shown})
    write_report(whole, space, history, events)
    text = (result.folder / "report.md").read_text()
    for name in (f"{ms:g}ms/widths", f"{ms:g}ms/tiers"):
        assert f"({name}.png)" in text
        assert (result.folder / f"{name}.png").stat().st_size > 5000
    assert "layer 1.2 leaves" in text and "another budget" not in text
    assert "| tiers | " in text and "| 2 | 0.500 (100) |" in text and "| warm-up | 1.5 |" in text
