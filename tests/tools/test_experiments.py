"""Scripts of tools/experiments: what they make, and what they measure."""

from __future__ import annotations

import runpy
from dataclasses import replace

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunet_det.arch.spec import ArchSpec
from prunet_det.search.widths import WidthRule
from tests.conftest import ROOT


def script(name: str) -> dict:
    return runpy.run_path(str(ROOT / "tools" / "experiments" / f"{name}.py"))


NARROW, COST, RULE = map(script, ("narrow_networks", "supernet_cost", "prunode_rule"))


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_efficientnet_is_timm_s_but_for_one_convolution():
    with torch.device("meta"):
        ours, theirs = NARROW["efficientnet_b0"]().build(), timm.create_model("efficientnet_b0")
    expansion = 32 * 32 + 2 * 32  # of the first block, and its batch norm
    assert parameters(ours) == parameters(theirs) + expansion


def test_narrow_networks_are_what_the_command_writes():
    made = {spec.name: spec for spec in NARROW["narrow_networks"]()}
    files = list((ROOT / NARROW["FOLDER"]).glob("*.json"))
    assert {path.stem: ArchSpec.load(path) for path in files} == made


@pytest.mark.parametrize("count", COST["COUNTS"][1:])
def test_any_number_of_widths_costs_the_same(count):
    x = torch.randn(2, 48, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for n in (COST["COUNTS"][0], count):
        net = COST["CostNet"](COST["layer_space"](n))
        assert len(net.space.widths) == n
        with FlopCounterMode(display=False) as counter:
            COST["step_of"](net, x)()
        parameters = sum(p.numel() for p in net.layers.parameters())
        found.append((parameters, counter.get_total_flops(), COST["saved_bytes"](net, x)))
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=0.01)
    explicit = COST["CostNet"](COST["layer_space"](count, fixed=True))
    assert COST["saved_bytes"](explicit, x) > 0.3 * count * found[0][2]


def test_the_rule_finds_what_there_is_and_leaves_alone_what_is_noise():
    result = RULE["check_rule"](200, noise=0.3, steps=90, paths=8, seed=0)
    assert result.after < 0.4 * result.before
    assert result.worse < 0.1 and result.moved < 0.15
    still = replace(WidthRule(), significance=1e9)
    result = RULE["check_rule"](50, noise=0.3, steps=90, paths=8, seed=0, rule=still)
    assert result.after == result.before and result.moved == 0


def test_preferences_have_one_best_width():
    losses = RULE["random_preferences"](200, 0)
    assert losses.min() == 0 and losses.max() == 1
    for loss in losses:
        best = int(loss.argmin())
        assert (loss[: best + 1][:-1] >= loss[1 : best + 1] - 1e-9).all()
        assert (loss[best:][1:] >= loss[best:][:-1] - 1e-9).all()
