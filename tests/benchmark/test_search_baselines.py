"""What a search is compared with."""

from __future__ import annotations

import pytest

from prunet_det import load_spec
from prunet_det.arch.spec import Provenance
from prunet_det.benchmark.search_baselines import scaled_frame, scaled_published
from prunet_det.latency import load_device, predict
from prunet_det.search.costs import Budget, BudgetError, Pricing

HAND = Provenance("hand-written", {"reason": "a test"})


def budget_of(ms):
    return Budget(ms=ms, conditions=load_device("v100").at(1), input_size=512)


@pytest.mark.parametrize("ms", [0.5, 0.83, 1.6])
def test_the_published_p0_scales_to_the_budget(ms):
    shapes, shape = scaled_published(Pricing(device="v100"), budget_of(ms))
    spec = shapes.space.to_spec(shape, "x", HAND, 512)
    assert budget_of(ms).fits(predict(spec, input_size=512).latency.ms)


def test_scaling_does_not_reach_everything():
    with pytest.raises(BudgetError, match="does not reach 0.1 ms"):
        scaled_published(Pricing(device="v100"), budget_of(0.1))


def test_scaled_by_nothing_p0_is_itself():
    space, shape = scaled_frame(0.0)
    spec = load_spec("prunet_p0")
    assert space.to_spec(shape, "x", spec.provenance, 224).stages == spec.stages
