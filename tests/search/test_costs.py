"""A space's prices, and which budgets they allow."""

from __future__ import annotations

import random

import pytest

from prunet_det.arch.spec import Provenance
from prunet_det.latency import predict
from prunet_det.latency.table import TableError, predict_table
from prunet_det.search.costs import Pricing, SpaceCosts, space_keys
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace, Shape
from tests.search.conftest import SMALL

HAND = Provenance("hand-written", {"reason": "a test"})


def random_network(space, seed):
    """Any network of a space, whatever it costs."""
    chosen = random.Random(seed)
    depths = [chosen.randint(1, depth) for depth in space.depths]
    points = []
    for layer in space.layers:
        operator = chosen.randrange(len(layer.operators))
        width = chosen.randrange(len(layer.widths_of(layer.operators[operator])))
        points.append((operator, width) if layer.index < depths[layer.stage] else (-1, 0))
    return Shape(*zip(*points, strict=True))


def test_a_network_costs_what_is_predicted_for_it(space, costs):
    for seed in range(20):
        shape = random_network(space, seed)
        spec = space.to_spec(shape, "x", HAND, 256)
        expected = predict(spec, input_size=256).latency.ms
        assert Shapes(costs).ms(shape) == pytest.approx(expected, rel=1e-9)


def test_nothing_is_cheaper_or_dearer_than_the_extremes(space, costs):
    shapes = Shapes(costs)
    low, high = shapes.reachable()
    for seed in range(50):
        assert low <= shapes.ms(random_network(space, seed)) <= high


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
    priced = Shapes(SpaceCosts(space, 256, table))
    exact = Shapes(Pricing(device="v100").costs(space, 256))
    for seed in range(5):
        shape = random_network(space, seed)
        assert priced.ms(shape) == pytest.approx(exact.ms(shape), rel=0.05)
