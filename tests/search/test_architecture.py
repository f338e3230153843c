"""The tiers on planted losses: what is best is known, and has to be found through noise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prunet_det.search.architecture import Architecture
from prunet_det.search.costs import BudgetError
from prunet_det.search.schedule import Tiers
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from tests.search.test_shapes import shapes_of

SPACE = dict(
    stem=16,
    tail=64,
    hidden_step=8,
    stages=[
        dict(width=16, depth=1, kinds=("conv",)),
        dict(width=24, depth=3, stride=2),
        dict(width=32, depth=4, stride=2),
    ],
)
STEPS, DRAWS, MS = 100, 8, 0.35


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return shapes_of(SearchSpace.from_config(SPACE), 512)


class Planted:
    """A loss of networks with a best candidate, relative width and depth of every layer."""

    def __init__(self, shapes: Shapes, seed: int, width: float = 0.3, depth: float = 0.15):
        rng = np.random.default_rng(seed)
        self.shapes, self.width, self.depth, layers = shapes, width, depth, shapes.space.layers
        self.best = np.array([rng.integers(len(layer.operators)) for layer in layers])
        self.cost = rng.uniform(0.05, 0.15, shapes.counts.shape)
        self.cost[np.arange(len(layers)), self.best] = 0
        self.position = rng.choice([-0.6, 0.6], len(layers))
        self.depths = np.array([1, 2, 3])
        self.stages = np.array([layer.stage for layer in layers])
        self.in_chs = np.array([layer.in_chs for layer in layers])

    def __call__(self, shape) -> float:
        kept, rows = shape.operators >= 0, np.arange(len(shape.operators))
        hidden = np.array(self.shapes.hidden(shape), float)
        inner = kept & (hidden > 0)
        position = np.log(hidden[inner] / self.in_chs[inner])
        wanted = self.position[inner]
        off = (position - position.mean()) - (wanted - wanted.mean())
        depths = np.bincount(self.stages[kept], minlength=3)
        return float(
            self.cost[rows, shape.operators][kept].sum()
            + self.width * (off**2).sum()
            + self.depth * abs(depths - self.depths).sum()
        )


def search(shapes, loss, ms=MS, seed=0, tiers=None, noise=0.05):
    architecture = Architecture(shapes, ms, tiers, seed=seed)
    rng, events = np.random.default_rng(seed), []
    for step in range(STEPS):
        draws = architecture.sample(step, DRAWS)
        batch = rng.standard_normal()  # what all networks of a step share
        losses = [loss(d.shape) + batch + noise * rng.standard_normal() for d in draws]
        events += architecture.step(draws, losses, step / STEPS)
    return architecture, events


@pytest.fixture(scope="module")
def found(shapes):
    losses = [Planted(shapes, seed) for seed in range(6)]
    return [(loss, *search(shapes, loss, seed=i)) for i, loss in enumerate(losses)]


def test_the_best_candidates_are_found(found):
    hits = []
    for loss, architecture, _ in found:
        shape = architecture.shape()
        hits += (shape.operators == loss.best)[shape.operators >= 0].tolist()
    assert np.mean(hits) > 0.8


def test_layers_leave_that_no_network_needs(shapes):
    missed = []
    for seed in range(4):
        loss = Planted(shapes, seed, width=0.0, depth=0.4)
        architecture, events = search(shapes, loss, seed=seed)
        missed.append(abs(_depths(loss, architecture.shape()) - loss.depths).sum())
        assert any("is skipped" in event for event in events)
    assert np.mean(missed) <= 0.75  # random depths miss 1.7 layers


def test_widths_end_above_uniform_ones_on_the_same_operators(shapes, found):
    gains = []
    for loss, architecture, _ in found:
        shape = architecture.shape()
        gains.append(loss(shapes.uniform(shape, architecture.budget_ms)) - loss(shape))
    assert np.mean(gains) > 0.05
    assert min(gains) > -0.05


def test_widths_stay_uniform_where_there_is_no_evidence(shapes):
    for seed in range(3):
        architecture, _ = search(shapes, Planted(shapes, seed, width=0.0), seed=seed, noise=0.2)
        shape = architecture.shape()
        positions = architecture.nodes.centre[np.arange(len(shape.operators)), shape.operators]
        assert (positions != 0)[shape.operators >= 0].mean() < 0.35


def test_it_ends_far_above_random_networks(shapes, found):
    for loss, architecture, _ in found:
        random = [loss(s) for s in shapes.draw(np.random.default_rng(0), MS, 200)]
        assert loss(architecture.shape()) < np.percentile(random, 5)


def _depths(loss, shape):
    return np.bincount(loss.stages[shape.operators >= 0], minlength=3)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9, 0.98])
def test_every_draw_meets_the_budget_all_over_the_range(shapes, share):
    low, high = shapes.reachable()
    ms = low * (high / low) ** share
    architecture, _ = search(shapes, Planted(shapes, 1), ms=ms)
    for step in (0, STEPS):
        for draw in architecture.sample(step, DRAWS):
            assert 0.97 * ms <= shapes.ms(draw.shape) <= ms
    shape = architecture.shape()
    assert 0.97 * ms <= shapes.ms(shape) <= ms
    kept = shape.operators >= 0
    assert not kept[architecture.gone].any()
    assert architecture.live[np.arange(len(kept)), shape.operators][kept].all()


def test_no_candidate_leaves_that_half_of_the_layers_need(shapes):
    """Candidates that cost hardly anything win, and still the budget can be spent."""
    dear = np.nanmax(np.where(shapes.counts > 0, _greatest(shapes), np.nan), 1)
    cheap = _greatest(shapes) < 0.7 * dear[:, None]

    def loss(shape):
        return -float(cheap[np.arange(len(cheap)), shape.operators][shape.operators >= 0].sum())

    half = np.array([la.index <= (1, 3, 4)[la.stage] // 2 for la in shapes.space.layers])
    ms = 0.95 * (shapes.costs.fixed_ms + dear[half].sum())
    architecture, _ = search(shapes, loss, ms=ms, tiers=Tiers(skip_enters=2.0, skip_end=3.0))
    assert architecture.live.sum() < (shapes.counts > 0).sum()
    most = np.where(architecture.live, _greatest(shapes), 0.0).max(1)
    assert shapes.costs.fixed_ms + most[half].sum() >= ms


def _greatest(shapes):
    return shapes.costs.ms[:, :-1].max(-1)


@pytest.mark.parametrize("off", ["widths", "candidates", "layers"])
def test_each_tier_can_be_off(shapes, off):
    architecture, events = search(shapes, Planted(shapes, 0), tiers=Tiers(**{off: False}))
    shape = architecture.shape()
    if off == "widths":
        assert shape == shapes.uniform(shape, architecture.budget_ms)
        assert not any(draw.wide.any() for draw in architecture.sample(0, DRAWS))
    if off == "candidates":
        assert (architecture.live == (shapes.counts > 0)).all()
        assert not any("loses" in event for event in events)
    if off == "layers":
        assert (shape.operators >= 0).all()
        assert not any("skip" in event for event in events)


def test_a_budget_is_refused_that_nothing_meets(shapes):
    low, high = shapes.reachable()
    for ms in (0.9 * low, 1.2 * high):
        with pytest.raises(BudgetError, match="cannot be met"):
            Architecture(shapes, ms)
    with pytest.raises(BudgetError, match="tier 3"):
        Architecture(shapes, 1.02 * low, Tiers(layers=False))


def test_it_can_be_restricted_to_what_a_supernet_still_has(shapes):
    left = shapes.counts > 0
    left[2:, 0] = False
    left[3] = False  # and so the layers behind it in its stage
    architecture = Architecture(shapes, MS)
    architecture.restrict(left)
    assert not (architecture.left & ~left).any()
    for draw in architecture.sample(0, DRAWS):
        assert draw.shape.operators[3] == -1
        assert (draw.shape.operators != 0)[2:].all()
    left[[2, 5]] = False
    with pytest.raises(BudgetError, match="cannot be met"):
        Architecture(shapes, 0.9 * shapes.reachable()[1]).restrict(left)


def test_draws_hang_on_seed_budget_and_step_alone(shapes):
    one, other = (Architecture(shapes, MS, seed=3) for _ in range(2))
    one.sample(0, 4)
    assert [d.shape for d in one.sample(5, 4)] == [d.shape for d in other.sample(5, 4)]
    assert [d.shape for d in one.sample(6, 4)] != [d.shape for d in other.sample(5, 4)]


def test_a_state_continues_to_the_same_end(shapes):
    loss = Planted(shapes, 0)
    one, _ = search(shapes, loss)
    other = Architecture(shapes, MS)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for architecture in (one, other):
        draws = architecture.sample(STEPS, DRAWS)
        architecture.step(draws, [loss(d.shape) for d in draws], 1.0)
    assert one.state_dict() == other.state_dict()
    assert one.shape() == other.shape()


def test_a_record_is_what_plots_show(shapes):
    architecture, _ = search(shapes, Planted(shapes, 0))
    record = json.loads(json.dumps(architecture.record()))
    layers = len(shapes.space.layers)
    assert np.shape(record["probabilities"]) == shapes.counts.shape
    np.testing.assert_allclose(np.sum(record["probabilities"], 1), 1, atol=1e-3)
    assert np.shape(record["skips"]) == (layers,) and np.shape(record["pairs"]) == (layers, 2)
    for i, (small, large) in enumerate(record["pairs"]):
        if record["skips"][i] < 1 and architecture.shape().operators[i] >= 0 and i > 0:
            assert 0 < small < large
        else:
            assert small == large == 0
