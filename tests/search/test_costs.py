"""A space's prices, repair, and what a search is compared with."""

from __future__ import annotations

import pytest

from prunet_det.arch.spec import Provenance
from prunet_det.latency import load_device, predict
from prunet_det.latency.table import TableError, predict_table
from prunet_det.search.baselines import random_network, random_repaired, scaled_repaired
from prunet_det.search.costs import Budget, BudgetError, Pricing, SpaceCosts, space_keys
from prunet_det.search.objective import BudgetController
from prunet_det.search.repair import repair
from prunet_det.search.space import SearchSpace
from tests.search.conftest import SMALL
from tests.search.test_space import config_space

HAND = Provenance("hand-written", {"reason": "a test"})


def predicted(space, network, size):
    spec = space.to_spec(network, "x", HAND, size)
    return predict(spec, input_size=size).latency.ms


def test_a_network_costs_what_is_predicted_for_it(space, costs):
    for seed in range(20):
        network = random_network(space, seed)
        expected = predicted(space, network, 256)
        assert costs.network_ms(network) == pytest.approx(expected, rel=1e-9)


def test_nothing_is_cheaper_or_dearer_than_the_extremes(space, costs):
    low, high = costs.reachable
    for seed in range(50):
        assert low <= costs.network_ms(random_network(space, seed)) <= high
    assert f"{low:.3f} to {high:.3f} ms at 256 px" in costs.describe()


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_budget_out_of_reach_is_refused_with_the_range(costs, share):
    low, high = costs.reachable
    budget = low * share if share < 1 else high * share
    with pytest.raises(BudgetError, match=f"the space reaches {low:.3f} to {high:.3f} ms"):
        costs.check_budget(costs.budget(budget))


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
        assert priced.network_ms(network) == pytest.approx(exact.network_ms(network), rel=0.05)


@pytest.mark.parametrize("budget", [0.5, 0.83])
def test_random_networks_meet_the_budget(budget):
    space = config_space("quick")
    costs = Pricing(device="v100").costs(space, 512)
    found = [random_repaired(costs, costs.budget(budget), seed) for seed in range(4)]
    for repaired in found:
        assert costs.budget(budget).fits(predicted(space, repaired.network, 512))
    assert len({r.network for r in found}) == 4
    assert random_repaired(costs, costs.budget(budget), 3) == found[3]


@pytest.mark.parametrize("budget", [0.5, 0.83, 1.6])
def test_the_published_p0_scales_to_the_budget(budget):
    wanted = Budget(ms=budget, conditions=load_device("v100").at(1), input_size=512)
    costs, repaired = scaled_repaired(Pricing(device="v100"), wanted)
    assert wanted.fits(predicted(costs.space, repaired.network, 512))


def test_scaled_by_nothing_p0_is_itself():
    from prunet_det import load_spec
    from prunet_det.search.baselines import scaled_frame

    space, network = scaled_frame(0.0)
    spec = load_spec("prunet_p0")
    assert space.to_spec(network, "x", spec.provenance, 224).stages == spec.stages


def test_repair_keeps_what_fits_and_narrows_last_what_is_worth_most(space, costs):
    network = random_network(space, 1)
    ms = costs.network_ms(network)
    assert repair(network, costs, costs.budget(ms / 0.98)).network == network
    larger = config_space("quick")
    costs = Pricing(device="v100").costs(larger, 512)
    wide = random_repaired(costs, costs.budget(0.83), 0).network
    budget = costs.budget(0.8)
    narrowed = repair(wide, costs, budget)
    at = next(i for i, (a, b) in enumerate(zip(wide, narrowed.network, strict=True)) if a != b)
    worth = [1.0] * len(wide)
    worth[at] = 1e6
    spared = repair(wide, costs, budget, worth)
    assert budget.fits(spared.after_ms) and spared.steps > 0 and spared.width_changed > 0
    assert spared.network[at].hidden > narrowed.network[at].hidden


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_repair_reaches_every_budget_from_either_end(costs, share):
    low, high = costs.reachable
    budget = costs.budget(low + share * (high - low))
    for most in (False, True):
        assert budget.fits(repair(costs.extreme(most), costs, budget).after_ms)


def test_the_weight_rises_above_the_budget_and_rests_far_from_it():
    controller = BudgetController(budget_ms=1.0)
    first = controller.weight(1.1)
    assert controller.weight(1.1) > first > 0
    assert BudgetController(budget_ms=1.0).weight(0.9) < 0
    far = BudgetController(budget_ms=1.0)
    far.weight(2.0)
    assert far.integral == 0
