"""Networks as integers, and how they come to a latency."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from prunet_det.arch.spec import Provenance
from prunet_det.latency import predict
from prunet_det.latency.table import network_blocks, predict_table
from prunet_det.search.costs import FILLED, BudgetError, Pricing, SpaceCosts, space_keys
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace, Shape, SpaceError
from tests.search.conftest import SMALL
from tests.search.test_space import config_space, widest

HAND = Provenance("hand-written", {"reason": "a test"})


def shapes_of(space, size=256, widths=None):
    """Prices of all inner widths, or of a few, with lines and plateaus between them."""
    if widths is None:
        return Shapes(Pricing(device="v100").costs(space, size))
    table = predict_table(space_keys(space, size, widths), "v100")
    table.kind = "measured"
    for key, entry in table.entries.items():
        table.add(key, dataclasses.replace(entry, ms=round(entry.ms, 3)))
    return Shapes(SpaceCosts(space, size, table))


def with_fixed_widths(space):
    """The space with an operator for each of three widths in the place of free ones."""
    layers = []
    for layer in space.layers:
        widths = layer.widths[:: len(layer.widths) // 3]
        operators = [
            dataclasses.replace(operator, fixed=width)
            for operator in layer.operators
            for width in (widths if operator.has_hidden else (0,))
        ]
        layers.append(dataclasses.replace(layer, operators=tuple(operators)))
    return dataclasses.replace(space, layers=tuple(layers))


PLAIN = {
    **SMALL,
    "stages": [dict(width=w, depth=3, stride=2, kinds=("conv",)) for w in (8, 16, 24)],
}
SPACES = {
    "small": lambda: shapes_of(SearchSpace.from_config(SMALL)),
    "quick": lambda: shapes_of(config_space("quick"), 512),
    "prunet": lambda: shapes_of(config_space("prunet"), 512),
    "measured": lambda: shapes_of(config_space("quick"), 512, widths=4),
    "fixed widths": lambda: shapes_of(with_fixed_widths(config_space("quick")), 512),
    "plain convolutions": lambda: shapes_of(SearchSpace.from_config(PLAIN)),
}


@pytest.fixture(scope="module", params=SPACES)
def any_shapes(request):
    return SPACES[request.param]()


@pytest.fixture(scope="module")
def quick():
    return SPACES["quick"]()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def anything(shapes, rng, count):
    """Random shapes, whatever they cost."""
    operators = shapes._random_operators(rng, count, shapes.counts > 0, 0.0)
    tops = np.where(
        operators >= 0, shapes.counts[np.arange(len(shapes.space.layers)), operators] - 1, 0
    )
    return [
        Shape(o, rng.integers(0, top, endpoint=True))
        for o, top in zip(operators, tops, strict=True)
    ]


def test_what_a_shape_costs_is_what_its_network_costs(any_shapes, rng):
    for shape in anything(any_shapes, rng, 20):
        spec = any_shapes.space.to_spec(shape, "x", HAND, any_shapes.costs.input_size)
        if any_shapes.costs.table.kind == "predicted":
            predicted = predict(spec, input_size=any_shapes.costs.input_size).latency.ms
            assert any_shapes.ms(shape) == pytest.approx(predicted, rel=1e-12)
        assert any_shapes.space.shape_of(spec) == shape
        kept = [
            width
            for width, o in zip(any_shapes.hidden(shape), shape.operators, strict=True)
            if o >= 0
        ]
        assert kept == [block.hidden for block in spec.blocks]


def test_random_networks_meet_budgets_all_over_the_range(any_shapes, rng):
    low, high = any_shapes.reachable()
    for share in (0.02, 0.3, 0.6, 0.98):
        ms = low * (high / low) ** share
        shape = any_shapes.random(rng, ms)
        assert FILLED * ms <= any_shapes.ms(shape) <= ms
        if any_shapes.ms(shape) >= 0.99 * ms:
            assert any_shapes.scale(shape, ms) == shape  # scaling twice is scaling once


def test_the_ends_of_the_range_are_the_extremes(any_shapes):
    costs, space = any_shapes.costs, any_shapes.space
    layers = zip(space.layers, any_shapes.counts, costs.ms, strict=True)
    ms = [(layer.skippable, prices[:-1][counts > 0]) for layer, counts, prices in layers]
    low = sum(0.0 if skippable else prices.min() for skippable, prices in ms)
    high = sum(prices.max() for _, prices in ms)
    expected = costs.fixed_ms + low, costs.fixed_ms + high
    assert any_shapes.reachable() == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.9, 1.05])
def test_impossible_budgets_are_refused(any_shapes, rng, share):
    low, high = any_shapes.reachable()
    ms = (low if share < 1 else high) * share
    with pytest.raises(BudgetError, match=f"the space reaches {low:.3f} to {high:.3f} ms"):
        any_shapes.check(ms)
    with pytest.raises(BudgetError, match=f"left of the space reaches {low:.3f}"):
        any_shapes.random(rng, ms, any_shapes.counts > 0)


def test_scaling_keeps_operators_depth_and_proportions(quick, rng):
    even = []
    for shape in anything(quick, rng, 200):
        scaled = quick.scale(shape, 0.5)
        if scaled is None:
            continue
        assert FILLED * 0.5 <= quick.ms(scaled) <= 0.5
        assert (scaled.operators == shape.operators).all()
        before, after = (np.array(quick.hidden(s), float) for s in (shape, scaled))
        layers = quick.space.layers
        limits = [(layer.widths[0], layer.widths[-1]) for layer in layers]
        free = [i for i, (low, high) in enumerate(limits) if low < after[i] < high]
        factors = after[free] / before[free]
        # What fills the rest of the budget is a quarter at most, and a step of 16 beside rounding.
        tolerance = 0.25 * np.median(factors) + 32 / before[free].clip(16)
        even.append((np.abs(factors - np.median(factors)) <= tolerance).all())
    # Where one layer's step is more than 3 % of the budget, the others have to fill what it leaves.
    assert len(even) > 100 and np.mean(even) > 0.95


def test_none_where_operators_and_depth_cannot(quick):
    shapes = quick
    most = widest(shapes.space)
    kept = np.array([not layer.skippable for layer in shapes.space.layers])
    least = Shape(np.where(kept, 0, -1), np.zeros(len(kept)))
    assert shapes.scale(most, 0.3) is None  # all twelve layers, dense 5x5: too many
    assert shapes.scale(least, 1.4) is None  # four layers of the cheapest kind: too few
    assert shapes.uniform(least, 1.4) is None
    rng = np.random.default_rng(0)
    assert shapes.random_widths(rng, least, 1.4) is None


def test_widths_are_the_widest_of_their_price(rng):
    shapes = SPACES["measured"]()
    for shape in shapes.draw(rng, 0.5, 20):
        for i in np.flatnonzero(shape.operators >= 0):
            count, at = shapes.counts[i, shape.operators[i]], shape.widths[i]
            prices = shapes.costs.ms[i, shape.operators[i], :count]
            assert (prices[at + 1 :] > prices[at]).all()


def test_budgets_are_spent(quick, rng):
    """Networks of a few per cent less latency would be judged by it."""
    assert np.mean([quick.ms(s) for s in quick.draw(rng, 0.5, 200)]) > 0.99 * 0.5


def test_uniform_widths_are_of_one_expansion(quick, rng):
    shape = quick.random(rng, 0.5)
    even = quick.uniform(shape, 0.5)
    assert (even.operators == shape.operators).all()
    assert FILLED * 0.5 <= quick.ms(even) <= 0.5
    hidden = np.array(quick.hidden(even))
    ratios = (hidden / quick.in_chs)[hidden > 0]
    assert max(ratios) - min(ratios) <= 2 * 16 / 24


def test_random_widths_keep_operators(quick, rng):
    shape = quick.random(rng, 0.5)
    others = [quick.random_widths(rng, shape, 0.5) for _ in range(5)]
    assert all((o.operators == shape.operators).all() for o in others)
    assert all(FILLED * 0.5 <= quick.ms(o) <= 0.5 for o in others)
    assert len({*others}) == 5


def test_only_what_is_live_is_drawn(quick, rng):
    live = quick.counts > 0
    live[1:, :2] = False  # no inverted residuals
    live[7] = False  # the last layer of stage 2
    for shape in quick.draw(rng, 0.5, 30, live):
        layers = np.flatnonzero(shape.operators >= 0)
        assert live[layers, shape.operators[layers]].all() and 7 not in layers
    low, high = quick.reachable(live)
    assert quick.reachable()[0] <= low < high < quick.reachable()[1]


def test_depths_operators_and_draws_are_uniform(quick, rng):
    drawn = quick._random_operators(rng, 4000, quick.counts > 0, 0.0)
    assert Counter((drawn[:, 4:8] >= 0).sum(1)).keys() == {1, 2, 3, 4}
    for counts in (Counter((drawn[:, 4:8] >= 0).sum(1)), Counter(drawn[:, 1])):
        assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("span", [(0.35, 0.8), (0.5, 0.5), (0.25, 0.26), (1.2, 1.4)])
def test_fair_paths_hold_every_candidate_equally_often(quick, rng, span):
    live = quick.counts > 0
    live[5, 1:] = False
    live[6, 2:] = False
    for _ in range(10):
        paths = quick.fair(rng, 4, span, live)
        operators = np.stack([p.operators for p in paths])
        for i, row in enumerate(operators.T):
            if (row >= 0).any():
                assert Counter(row) == {
                    o: 4 // live[i].sum() for o in np.flatnonzero(live[i]).tolist()
                }
    if span == (0.35, 0.8):
        assert all(FILLED * 0.35 <= quick.ms(p) <= 0.8 for p in paths)
        assert len({round(quick.ms(p), 2) for p in paths}) > 1


def test_over_steps_no_candidate_is_favoured_where_the_paths_are_no_multiple(quick, rng):
    live = quick.counts > 0
    live[1:, 3] = False
    counts = Counter(
        o
        for _ in range(300)
        for p in quick.fair(rng, 4, (0.4, 0.6), live)
        for o in [p.operators[1]]
    )
    assert sum(counts.values()) == 1200 and set(counts) == {0, 1, 2}
    assert max(counts.values()) < 1.1 * min(counts.values())


def test_draws_depend_on_the_seed_alone(quick):
    def draw(seed):
        rng = np.random.default_rng(seed)
        return [quick.random(rng, 0.5), *quick.fair(rng, 4, (0.4, 0.8)), *quick.draw(rng, 0.6, 5)]

    assert draw(1) == draw(1) and draw(1) != draw(2)


def test_features_and_multiply_accumulates(quick, rng):
    from prunet_det.latency.kernels import block_kernels

    shapes = [quick.random(rng, 0.5) for _ in range(5)]
    features, macs = quick.features(shapes), quick.macs(shapes)
    assert features.shape == (5, 3)
    for shape, row, found in zip(shapes, features, macs, strict=True):
        spec = quick.space.to_spec(shape, "x", HAND, 512)
        keys = network_blocks(spec, 512)[1:]  # without the stem
        inner = [b for b, _ in keys if b.hidden]
        expected = sum(k.macs for key in keys for k in block_kernels(*key))
        assert found == pytest.approx(expected)
        assert row == pytest.approx(
            [
                np.mean([b.kind == "fused_irb" for b in inner]),
                np.mean(np.log([b.hidden for b in inner])),
                np.log(expected),
            ]
        )


def test_a_shape_goes_to_json_and_back(quick, rng):
    shape = quick.random(rng, 0.5)
    again = Shape(**json.loads(json.dumps(shape.to_dict())))
    assert again == shape and hash(again) == hash(shape) and len({again, shape}) == 1
    assert shape != quick.random(rng, 0.5)


def test_a_width_that_a_space_of_fixed_widths_lacks():
    fixed = SPACES["fixed widths"]()
    layer = fixed.space.layers[1]
    wrong = max(set(layer.widths) - {o.fixed for o in layer.operators})
    block = dataclasses.replace(
        layer.block(layer.operators[0], layer.operators[0].fixed), hidden=wrong
    )
    with pytest.raises(SpaceError, match=f"layer {layer.name} of the space .*width {wrong}"):
        layer.indices_of(block)
