"""What the architecture prefers, prunes, and aims at."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prunet_det.search.costs import Pricing
from prunet_det.search.layer import SKIP
from prunet_det.search.objective import BudgetController
from prunet_det.search.old_architecture import Architecture
from prunet_det.search.repair import repair
from prunet_det.search.tiers import Tiers
from tests.search.test_space import config_space


def settled(costs, tiers=None, seed=0):
    """An architecture somewhere in a search."""
    architecture = Architecture(costs, tiers)
    random = np.random.default_rng(seed)
    architecture.logits = random.normal(size=len(architecture.logits))
    logit = random.normal(size=len(architecture.logits))
    architecture.nodes = replace(architecture.nodes, logit=logit)
    architecture.gates = random.normal(size=len(architecture.gates)) - 1
    architecture.gated = np.array([layer.skippable for layer in costs.space.layers])
    architecture.live[1] = False
    return architecture


def test_the_expected_latencys_gradient_is_the_finite_difference(costs):
    architecture = settled(costs)
    ms, gradient = architecture.expected_ms(0.5)
    count, h = len(architecture.logits), 1e-5
    for k in range(len(gradient)):
        values = []
        for sign in (1, -1):
            moved = settled(costs)
            if k < count:
                moved.logits[k] += sign * h
            elif k < 2 * count:
                logit = moved.nodes.logit.copy()
                logit[k - count] += sign * h
                moved.nodes = replace(moved.nodes, logit=logit)
            else:
                moved.gates[k - 2 * count] += sign * h
            values.append(moved.expected_ms(0.5)[0])
        live = k >= count or architecture.live[k]
        numeric = (values[0] - values[1]) / (2 * h) if live else 0.0
        assert gradient[k] == pytest.approx(numeric, abs=1e-7)
    low, high = costs.reachable
    assert low < ms < high


def test_mixtures_are_the_softmax_of_what_is_left(costs):
    architecture = settled(costs)
    theta = torch.from_numpy(architecture.theta()).requires_grad_()
    mixtures = architecture.mixtures(theta, torch.zeros_like(theta), 1.0, 0.5)
    w, q = architecture.probabilities(), architecture.skip_probabilities()
    assert [p.key for p in mixtures[0].parts] == ["0"] and mixtures[0].parts[0].weight is None
    for i, mixture in enumerate(mixtures[1:], 1):
        own = np.flatnonzero(architecture.layer_of == i)
        found = [part.weight.item() for part in mixture.parts]
        assert found == pytest.approx(list(w[own]), rel=1e-5)
        assert (mixture.keep is None) == (not costs.space.layers[i].skippable)
        if mixture.keep is not None:
            assert mixture.keep.item() == pytest.approx(1 - q[i], rel=1e-5)
        assert all(part.pair[0] < part.pair[1] for part in mixture.parts)


def test_candidates_leave_one_a_layer_at_a_time_and_never_the_last(costs):
    architecture = settled(costs, Tiers(layers=False))
    for _ in range(20):
        before = architecture.live.copy()
        events = architecture.prune(1.0, 0.3)
        lost = architecture.layer_of[before & ~architecture.live]
        assert len(set(lost)) == len(lost) == len(events)
    left = np.bincount(architecture.layer_of[architecture.live])
    best = [max(range(4), key=lambda k: settled(costs).logits[2 + k])]
    assert (left == 1).all() and architecture.live[2 + best[0]]
    assert not architecture.prune(1.0, 0.3)


def test_nothing_leaves_before_its_time_or_with_pruning_off(costs):
    for tiers, progress in ((Tiers(), 0.0), (Tiers(blocks=False, layers=False), 1.0)):
        architecture = settled(costs, tiers)
        architecture.gated[:] = False
        assert architecture.prune(progress, 0.3) == []


def test_layers_leave_late_or_lose_their_coefficient(costs):
    architecture = Architecture(costs)
    architecture.prune(0.2, 0.3)
    assert not architecture.gated.any()
    assert "skips enter" in architecture.prune(architecture.tiers.skip_enters, 0.1)
    skippable = [i for i, layer in enumerate(costs.space.layers) if layer.skippable]
    assert architecture.gated[skippable].all() and architecture.gated.sum() == len(skippable)
    architecture.gates[skippable[0]] = 5.0
    architecture.prune(0.5, 9.0)
    assert not architecture.gone.any()  # what it would save could not be spent
    architecture.prune(0.5, 0.1)
    assert list(np.flatnonzero(architecture.gone)) == skippable[:1]
    assert architecture.network()[skippable[0]] is None
    assert architecture.structure()[skippable[0]] is None
    architecture.prune(architecture.tiers.skip_end, 0.3)
    assert not architecture.gated.any() and architecture.gone.sum() == 1


def test_layers_that_cannot_be_paid_for_leave_at_the_end(costs):
    architecture = Architecture(costs)
    architecture.prune(architecture.tiers.skip_enters, 0.1)
    architecture.gates[2], architecture.gates[3], architecture.gates[5] = -0.5, -1.0, -0.1
    low, _ = costs.reachable
    architecture.prune(architecture.tiers.skip_end, low)
    assert architecture.gone[[2, 3, 5]].all()
    enough = Architecture(costs, Tiers(blocks=False))
    enough.prune(enough.tiers.skip_enters, 0.1)
    enough.gates[5] = -0.1
    budget = enough.least_ms() - 1e-3
    events = enough.prune(enough.tiers.skip_end, budget / 0.98)
    assert enough.gone.sum() == 1 and enough.gone[5] and "skipped" in events[0]


def test_a_pair_stays_within_what_the_supernet_still_has(costs):
    """A late and steady preference for wider paths, after the weights were cut."""
    architecture = Architecture(costs)
    count = len(architecture.logits)
    for k in range(300):
        progress = k / 300
        late = 1.0 if progress > 0.5 else -1.0
        task = np.zeros(len(architecture.theta()))
        task[count : 2 * count] = -late * (1 + np.random.default_rng(k).random(count))
        _, gradient = architecture.expected_ms(progress)
        architecture.update(task, 0 * gradient, 0.0, progress)
        _, larger = architecture.pairs(progress)
        assert (larger <= architecture.nodes.reach()).all()


def test_the_usual_skip_is_a_candidate(costs):
    architecture = Architecture(costs, Tiers(skip_from_start=True))
    keys = [architecture.keys[m] for m in np.flatnonzero(architecture.layer_of == 2)]
    assert keys == ["0", "1", "2", "3", SKIP]
    architecture.logits[np.array(architecture.keys) == SKIP] = 5.0
    for _ in range(6):
        architecture.prune(0.9, 0.3)
    assert architecture.gone[2] and architecture.network()[2] is None


def test_a_state_survives_json_exactly(costs):
    architecture = settled(costs)
    random = np.random.default_rng(1)
    size = len(architecture.theta())
    for k in range(30):
        _, gradient = architecture.expected_ms(k / 30)
        architecture.update(random.normal(size=size), gradient, 0.5, k / 30)
        architecture.prune(k / 30, 0.3)
    again = Architecture(costs)
    again.load_state_dict(json.loads(json.dumps(architecture.state_dict())))
    assert again.state_dict() == architecture.state_dict()
    assert again.expected_ms(0.9)[0] == architecture.expected_ms(0.9)[0]
    assert again.structure() == architecture.structure()


@pytest.mark.parametrize("budget", [0.5, 0.8, 1.1])
def test_any_preferences_end_near_the_budget(budget):
    """The whole machinery of the budget on gradients that prefer at random, and wide."""
    cfg_space = config_space("quick")
    costs = Pricing(device="v100").costs(cfg_space, 512)
    tiers = Tiers(blocks_begin=0.02, blocks_end=0.42)
    for seed in range(2):
        architecture = Architecture(costs, tiers, expansion=2.5)
        controller, random = BudgetController(budget_ms=0.985 * budget), np.random.default_rng(seed)
        count, layers = len(architecture.logits), len(architecture.gates)
        wish = np.concatenate(
            [
                random.normal(size=count) * 0.01,
                -np.abs(random.normal(size=count)) * 0.004,
                -np.abs(random.normal(size=layers)) * 0.01,
            ]
        )
        for k in range(240):
            progress = k / 240
            ms, gradient = architecture.expected_ms(progress)
            weight = controller.weight(ms)
            task = wish + random.normal(size=len(wish)) * 0.02
            architecture.project(ms - controller.budget_ms, progress)
            architecture.update(task, gradient / ms, weight, progress)
            entered = architecture.skips_entered
            architecture.prune(progress, controller.budget_ms)
            if architecture.skips_entered != entered:
                controller.integral = 0.0
        repaired = repair(architecture.network(), costs, costs.budget(budget), architecture.worth())
        assert repaired.before_ms == pytest.approx(budget, rel=0.08)
        assert repaired.width_changed <= 0.1
