"""A space's prices, and which budgets they allow."""

from __future__ import annotations

import random

import pytest

from prunet_det.arch.spec import Provenance
from prunet_det.latency import predict
from prunet_det.latency.table import TableError, predict_table
from prunet_det.search.costs import Pricing, SpaceCosts, space_keys
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from tests.search.conftest import SMALL

HAND = Provenance("hand-written", {"reason": "a test"})


def random_network(space, seed):
    """Any network of a space, whatever it costs."""
    chosen = random.Random(seed)
    depths = [chosen.randint(1, depth) for depth in space.depths]
    network = []
    for layer in space.layers:
        operator = chosen.choice(layer.operators)
        block = layer.block(operator, chosen.choice(layer.widths_of(operator)))
        network.append(block if layer.index < depths[layer.stage] else None)
    return tuple(network)


def predicted(space, network, size):
    spec = space.to_spec(network, "x", HAND, size)
    return predict(spec, input_size=size).latency.ms


def ms_of(costs, network):
    shapes = Shapes(costs)
    return shapes.ms(shapes.shape_of(network))


def test_a_network_costs_what_is_predicted_for_it(space, costs):
    for seed in range(20):
        network = random_network(space, seed)
        expected = predicted(space, network, 256)
        assert ms_of(costs, network) == pytest.approx(expected, rel=1e-9)


def test_nothing_is_cheaper_or_dearer_than_the_extremes(space, costs):
    low, high = Shapes(costs).reachable()
    for seed in range(50):
        assert low <= ms_of(costs, random_network(space, seed)) <= high


@pytest.mark.parametrize("ms", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_time(costs, ms):
    with pytest.raises(ValueError, match="a budget must be above 0 ms"):
        costs.budget(ms)


def test_a_table_of_another_space_is_refused(space):
    table = predict_table(space_keys(space, 256), "v100")
    other = SearchSpace.from_config({**SMALL, "kernels": (3, 7)})
    with pytest.raises(TableError, match="another space or input size"):
        SpaceCosts(other, 256, table)
    with pytest.raises(TableError, match="another space or input size"):
        SpaceCosts(space, 224, table)


def test_a_few_widths_are_interpolated(space):
    keys = space_keys(space, 256, widths=4)
    assert len(keys) < len(space_keys(space, 256))
    table = predict_table(keys, "v100")
    priced = SpaceCosts(space, 256, table)
    exact = Pricing(device="v100").costs(space, 256)
    for seed in range(5):
        network = random_network(space, seed)
        assert ms_of(priced, network) == pytest.approx(ms_of(exact, network), rel=0.05)
