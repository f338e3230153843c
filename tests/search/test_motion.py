"""The rule by which Prunodes move."""

from __future__ import annotations

import numpy as np
import pytest

from prunet_det.search.motion import MotionRule, Prunodes, move
from prunet_det.search.rule_check import WIDTHS, random_preferences, run_rule

RULE = MotionRule()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_best_width_of_200_preferences(seed):
    preferences = random_preferences(200, seed)
    result = run_rule(preferences, updates=600, noise=1.0, seed=seed)
    assert result.clear >= 0.95 and result.within_one >= 0.85 and result.monotone == 1.0
    assert result.mean_regret < 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_early_bias_to_the_wider_path_does_not_mislead_it(seed):
    result = run_rule(random_preferences(200, seed), updates=600, noise=1.0, bias=2.0, seed=seed)
    assert result.within_one >= 0.75


def test_the_check_can_fail():
    still = MotionRule(drift=0.0)
    assert run_rule(random_preferences(100, 0), rule=still).within_one < 0.2


def test_preferences_are_what_they_say():
    preferences = random_preferences(200, 0)
    assert preferences.losses.shape == (200, len(WIDTHS)) and len(WIDTHS) == 64
    assert preferences.losses.min() == 0 and preferences.losses.max() == 1
    for loss, best in zip(preferences.losses, preferences.best, strict=True):
        assert (np.diff(loss[: best + 1]) <= 0).all() and (np.diff(loss[best:]) >= 0).all()
    ends = preferences.best[preferences.monotone]
    assert set(ends) <= {0, 63} and 0.5 < preferences.clear.mean() < 0.9


def test_it_is_pure_and_moves_against_the_gradient():
    state = Prunodes.start(np.array([20.0, 20.0, 0.0]))
    before = state.to_dict()
    after = move(state, np.array([1.0, -1.0, 0.0]), 1.0, 0.1, RULE)
    assert state.to_dict() == before
    assert after.centre[0] < 10 < after.centre[1]
    assert after.pair(RULE.half_gap(after.top, 0.1))[0][2] == 0


def test_the_pair_closes_in_and_the_range_with_it():
    state = Prunodes.start(np.array([60.0]))
    gaps, reaches = [], []
    for k in range(300):
        state = move(state, np.array([0.0]), 1.0, k / 300, RULE)
        a, b = state.pair(RULE.half_gap(state.top, k / 300))
        assert a[0] < b[0]
        gaps.append(int(b[0] - a[0]))
        reaches.append(int(state.reach()[0]))
    assert gaps == sorted(gaps, reverse=True) and gaps[0] == 30 and gaps[-1] == 2
    assert reaches == sorted(reaches, reverse=True) and reaches[-1] < 45


def test_a_state_survives_json_exactly():
    import json

    state = Prunodes.start(np.array([7.0, 30.0]), np.array([1.0, 9.0]))
    state = move(state, np.array([0.123456789, -1e-9]), 0.3, 0.95, RULE)
    again = Prunodes.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.to_dict() == state.to_dict() and again.count == 1
