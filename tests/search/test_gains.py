"""How the two widths of a Prunode move."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunet_det.search.gains import Prunodes
from prunet_det.search.schedule import WidthRule

COUNT, STEPS, DRAWS = 200, 100, 8


def search(best, seed, noise=1.0, curvature=4.0):
    """Centres that the rule finds for losses of which the best positions are known."""
    rule, nodes = WidthRule(), Prunodes.start((COUNT,))
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        at = step / STEPS
        gap = rule.half_gap(at)
        likely = nodes.wide()
        wide = rng.random((DRAWS, COUNT)) < likely
        position = nodes.centre + np.where(wide, gap, -gap)
        gain = -curvature * (position - best) ** 2 + noise * rng.standard_normal(wide.shape)
        gain -= gain.mean(0)
        each = (wide - likely) / (likely * (1 - likely)) * gain
        counts = np.full(COUNT, DRAWS)
        nodes.move(counts, each.sum(0), (each**2).sum(0), at=at, rule=rule)
    return nodes.centre


def test_noise_alone_moves_hardly_any_pair():
    centres = np.stack([search(0.0, seed, curvature=0.0) for seed in range(5)])
    assert (centres != 0).mean() < 0.25
    assert abs(centres).mean() < 0.05


@pytest.mark.parametrize("best", [-0.6, 0.6])
def test_evidence_moves_the_pair_to_the_best_width(best):
    centres = np.stack([search(best, seed) for seed in range(3)])
    assert np.median(abs(centres - best)) < 0.2
    assert abs(centres - best).mean() < 0.3 * abs(best)


def test_the_pair_closes_in():
    rule = WidthRule()
    gaps = [rule.half_gap(at) for at in np.linspace(0, 1, 21)]
    assert gaps[0] == rule.start and gaps[-1] == pytest.approx(rule.end)
    assert all(b <= a for a, b in itertools.pairwise(gaps))


def test_the_better_width_is_drawn_more_often_but_never_alone():
    nodes, rule = Prunodes.start((2,)), WidthRule(significance=1e9)
    sign = np.array([1.0, -1.0])
    for _ in range(20):
        nodes.move(np.full(2, 4.0), 4 * sign, np.full(2, 8.0), at=0.0, rule=rule)
    up, down = nodes.wide()
    assert 0.7 < up < 0.75
    assert 0.25 < down < 0.3


def test_a_state_comes_back_exactly():
    nodes, rng = Prunodes.start((3, 2)), np.random.default_rng(0)
    for _ in range(30):
        gain = rng.standard_normal((3, 2)) + 1
        nodes.move(np.ones((3, 2)), gain, gain**2, at=0.5, rule=WidthRule())
    again = Prunodes.from_dict(nodes.to_dict())
    for name, values in vars(nodes).items():
        np.testing.assert_array_equal(getattr(again, name), values)
