"""Averages through foreach: mmengine's and mmdet's, in few operators."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.config import ConfigDict
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import nn

from prunet_det.training.ema import ForeachEMA, use_foreach
from prunet_det.utils.config import read_config
from tests.conftest import ROOT
from tests.dispatched import dispatched


def network() -> nn.Module:
    """Parameters, and buffers of two types."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))


def averaged(kind: type, steps: int = 7, **options: Any) -> nn.Module:
    """Returns the average of a network that changes in every step."""
    model = network()
    average = kind(model, **options)
    for k in range(steps):
        generator = torch.Generator().manual_seed(k)
        model(torch.randn(2, 3, 8, 8, generator=generator))
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator)
        average.update_parameters(model)
    return average


@pytest.mark.parametrize("options", [{}, dict(interval=3), dict(update_buffers=True)])
@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        (ExponentialMovingAverage, dict(momentum=0.3)),
        (ExpMomentumEMA, dict(momentum=0.01, gamma=5)),
    ],
)
def test_it_is_theirs(theirs: type, own: dict[str, Any], options: dict[str, Any]) -> None:
    expected = averaged(theirs, **own, **options).state_dict()
    found = averaged(ForeachEMA, **own, **options).state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_a_checkpoint_of_theirs_goes_on() -> None:
    theirs = averaged(ExpMomentumEMA, momentum=0.01, gamma=5)
    ours = ForeachEMA(network(), momentum=0.01, gamma=5)
    ours.load_state_dict(theirs.state_dict())
    model = network()
    for average in (theirs, ours):
        average.update_parameters(model)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)


def test_its_operators_do_not_grow_with_the_model() -> None:
    large = nn.Sequential(*(network() for _ in range(20)))
    average = ForeachEMA(large, gamma=2000)
    for _ in range(3):
        operators = dispatched(lambda: average.update_parameters(large))
        assert operators.total() <= 6, operators


def test_configs_name_what_it_equals() -> None:
    hooks = [
        dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.002),
        dict(type="EMAHook", ema_type="ExpMomentumEMA", gamma=100),
        dict(type="EMAHook", momentum=0.002),
        dict(type="EMAHook", ema_type="MomentumAnnealingEMA"),
        dict(type="RecordHook"),
    ]
    hooks = [ConfigDict(hook) for hook in hooks]
    use_foreach(hooks)
    assert [hook.get("gamma", "none") for hook in hooks] == [2000, 100, None, "none", "none"]
    kinds = [hook.get("ema_type") for hook in hooks]
    assert kinds == ["ForeachEMA"] * 3 + ["MomentumAnnealingEMA", None]
    assert isinstance(MODELS.build(dict(type=kinds[0], model=network())), ForeachEMA)


@pytest.mark.parametrize("text", ["configs/prunet_effdet_glyphs.py", "docs/training.md"])
def test_a_larger_batch_is_averaged_as_the_recipe_is(text: str) -> None:
    """The advised command: at the end the newest weights have nearly the recipe's small share."""
    config = ROOT / "configs" / "prunet_effdet_glyphs.py"
    advised = re.findall(r"(custom_hooks\.0\.\w+)=([\d.]+)", (ROOT / text).read_text())

    def last_momentum(iterations: int, options: dict[str, float]) -> float:
        hook = read_config(config, options).custom_hooks[0]
        own = {key: hook[key] for key in ("momentum", "gamma") if key in hook}
        return float(ForeachEMA(network(), **{"gamma": 2000, **own})._momentum(iterations))

    options = {key: float(value) for key, value in advised}
    recipe, larger = last_momentum(6000, {}), last_momentum(1500, options)
    assert recipe < larger < 4 * recipe
