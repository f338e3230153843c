"""The last tier: what it tries, and that it keeps the best."""

from __future__ import annotations

import pytest

from prunet_det.search.costs import BudgetError, Pricing
from prunet_det.search.finals import Finals, FinalSettings, rounds, uniform
from prunet_det.search.repair import repair
from tests.search.test_space import config_space


@pytest.fixture(scope="module")
def costs():
    return Pricing(device="v100").costs(config_space("quick"), 512)


@pytest.fixture(scope="module")
def budget(costs):
    return costs.budget(0.5)


@pytest.fixture(scope="module")
def found(costs, budget):
    """All layers, kernel 3, widths that differ."""
    network = []
    for layer in costs.space.layers:
        operator = min(layer.operators, key=lambda o: (o.kernel, o.kind))
        widths = layer.widths_of(operator)
        network.append(layer.block(operator, widths[(5 * layer.index + 2) % len(widths)]))
    return repair(tuple(network), costs, budget, fill=True).network


def hidden(network):
    return [b.hidden for b in network if b is not None and b.hidden]


def test_every_change_stays_in_the_budget_and_changes_something(costs, found, budget):
    tried = 0
    for change in (c for changes in rounds(costs, budget) for c in changes.values()):
        try:
            made = change(found)
        except BudgetError:
            continue
        tried += 1
        assert budget.fits(costs.network_ms(made))
        assert len(made) == len(found)
    assert tried >= 6


def test_uniform_widths_differ_by_less_than_those_that_were_found(costs, found, budget):
    even = uniform(found, costs, budget)

    def ratios(network):
        return [b.hidden / b.in_chs for b in network if b is not None and b.hidden]

    def spread(network):
        return max(ratios(network)) / min(ratios(network))

    assert spread(even) < spread(found)
    operators = [(b.kind, b.kernel) if b else None for b in found]
    assert [(b.kind, b.kernel) if b else None for b in even] == operators


def run(found, costs, budget, judge, **settings):
    trained = []

    def train(network, training):
        trained.append((network, training))
        return judge(network)

    finals = Finals(found, costs, budget, FinalSettings(1, **settings), train)
    return finals.run(), finals, trained


def test_two_good_changes_are_found_together(costs, found, budget):
    """A judge that likes few layers and wide kernels: no one change makes both."""

    def judge(network):
        kept = [b for b in network if b is not None]
        return sum(b.kernel == 5 for b in kept) / len(kept) - 0.1 * len(kept)

    best, finals, trained = run(found, costs, budget, judge)
    assert judge(best.network) > judge(found)
    assert judge(best.network) == max(judge(f.network) for f in finals.finalists)
    assert "," in best.name  # more than one change
    networks = [f.network for f in finals.finalists]
    assert len(set(networks)) == len(networks)  # none is trained twice under two names
    assert len(set(trained)) == len(trained)


def test_the_leaders_are_trained_again(costs, found, budget):
    best, finals, trained = run(found, costs, budget, lambda network: sum(hidden(network)), again=2)
    again = [f for f in finals.finalists if len(f.scores) == 2]
    assert 2 <= len(again) <= 2 * 4 and best in again
    assert sum(training for _, training in trained) == len(again)


def test_one_lucky_training_does_not_win(costs, found, budget):
    """The first training of a bad network comes out best; its second one says what it is."""
    bad = rounds(costs, budget)[0]["half of stage 2"](found)

    def train(network, training):
        return 0.9 if network == bad and training == 0 else 0.1 if network == bad else 0.6

    best = Finals(found, costs, budget, FinalSettings(1), train).run()
    assert best.network != bad


def test_what_was_found_stays_where_nothing_is_better(costs, found, budget):
    best, finals, _ = run(found, costs, budget, lambda network: float(network == found))
    assert best is finals.finalists[0]
    assert best.network == found


def test_a_change_that_leads_out_of_the_budget_is_left_out(costs):
    low, _ = costs.reachable
    budget = costs.budget(1.005 * low)
    least = repair(costs.extreme(False), costs, budget, fill=True).network
    _, finals, _ = run(least, costs, budget, lambda network: 0.0)
    assert all(budget.fits(f.latency_ms) for f in finals.finalists)
