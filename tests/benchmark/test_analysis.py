"""Statistics, from planted figures."""

from __future__ import annotations

import numpy as np
import pytest

from prunet_det.benchmark import analysis
from prunet_det.utils.errors import UserError


def planted(networks: int, trainings: int, between: float, noise: float) -> list[list[float]]:
    """Scores of networks whose spread and noise are known."""
    rng = np.random.default_rng(0)
    worth = between * rng.standard_normal(networks)
    return (worth[:, None] + noise * rng.standard_normal((networks, trainings))).tolist()


def test_the_spread_is_that_of_networks_and_the_noise_that_of_trainings():
    found = analysis.spread(planted(2000, 3, between=0.06, noise=0.04))
    assert found.noise == pytest.approx(0.04, rel=0.05)
    assert found.between == pytest.approx((0.06**2 + 0.04**2 / 3) ** 0.5, rel=0.05)
    assert found.corrected == pytest.approx(0.06, rel=0.05)
    assert found.corrected_ratio == pytest.approx(1.5, rel=0.1)
    assert found.corrected_ratio < found.ratio


def test_networks_that_differ_by_noise_alone_have_no_spread_of_their_own():
    found = analysis.spread(planted(2000, 4, between=0.0, noise=0.04))
    assert found.corrected_ratio < 0.2 and found.ratio == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("scores", [[[0.5, 0.6], [0.7, 0.7]], [[0.5], [0.6], [0.7]]])
def test_too_few_trainings_have_no_spread(scores):
    with pytest.raises(UserError, match="at least 3 random networks and 2 trainings"):
        analysis.spread(scores)


def test_percentiles_count_the_networks_that_are_beaten_ties_half():
    others = [[0.01 * i, 0.01 * i] for i in range(20)]
    assert analysis.percentile([0.155], others)[0] == pytest.approx(16 / 20)
    assert analysis.percentile([0.15], others)[0] == pytest.approx(15.5 / 20)
    point, low, high = analysis.percentile([0.12, 0.19], others)
    assert low < point < high
    with pytest.raises(UserError, match="no random networks"):
        analysis.percentile([0.1], [])


def test_rank_agreement():
    rising = list(range(20))
    assert analysis.rank_agreement(rising, rising) == pytest.approx((1.0, 1.0, 1.0))
    tau, low, high = analysis.rank_agreement(rising, [*rising[10:], *rising[:10]])
    assert tau == pytest.approx((2 * 45 - 100) / 190) and low < tau < high
    assert analysis.rank_agreement([1, 1, 1], [1, 2, 3]) is None
    assert analysis.rank_agreement([1, 2], [1, 2]) is None


def test_the_interval_of_a_mean_is_students():
    assert analysis.half_width([0.0, 1.0]) == pytest.approx(12.706 * 0.5, rel=1e-3)
    assert np.isnan(analysis.half_width([1.0]))


def test_groups_differ_when_two_standard_errors_say_so():
    found = analysis.difference([[0.7, 0.8], [0.6, 0.7]], [[0.5, 0.7]], noise=0.1)
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(0.1 * ((0.5 + 0.5) / 4 + 0.5) ** 0.5)
    assert found.verdict == "not told apart" and str(found).startswith("+0.100 ± 0.173 (two")
    assert analysis.Difference(0.2, 0.09).verdict == "better"
    assert analysis.Difference(-0.2, 0.09).verdict == "worse"
    assert "does not say how sure" in str(analysis.Difference(0.2, 0.0))


def test_the_best_of_some_networks_is_worth_what_was_not_looked_at():
    worth = np.array([0.0, 1.0, 2.0, 3.0])
    assert analysis.best_of(4, worth, worth) == 3.0
    assert analysis.best_of(4, -worth, worth) == 0.0
    assert analysis.best_of(1, worth, worth) == pytest.approx(1.5, abs=0.1)


def test_the_error_of_a_mean():
    assert analysis.mean_and_error([0.0, 2.0]) == pytest.approx((1.0, 1.0))
    assert analysis.mean_and_error([3.0]) == pytest.approx((3.0, np.nan), nan_ok=True)
    assert np.isnan(analysis.mean_and_error([])).all()
