"""Scripts of tools/experiments: what they make, and what they measure."""

from __future__ import annotations

import runpy
from dataclasses import replace

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark import extras
from prunet_det.benchmark.suite import load_suite
from prunet_det.search.schedule import WidthRule
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import read_csv
from tests.conftest import ROOT


def script(name: str) -> dict:
    return runpy.run_path(str(ROOT / "tools" / "experiments" / f"{name}.py"))


NARROW, COST, RULE = map(script, ("narrow_networks", "supernet_cost", "prunode_rule"))
DETECTORS = script("detector_study")
PROFILE = ROOT / "tools" / "experiments" / "training_profile.py"


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


@pytest.mark.slow
def test_where_the_time_of_a_training_goes(tiny_suite, tmp_path, here):
    flags = ["--iterations", 1, "--seconds", 0.01, "--workers", 0, 1]
    done = here(str(PROFILE), "--suite", tiny_suite, "--out", tmp_path, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    loading, rows, speeds = (
        read_csv(tmp_path / f"{name}.csv")[1] for name in ("loading", "profile", "throughput")
    )
    found = [(row["source"], row["workers"]) for row in loading]
    assert found == [("disk", "0"), ("disk", "1"), ("memory", "0"), ("memory", "1")]
    assert all(float(row["images_per_s"]) > 0 < float(row["handover_ms"]) for row in loading)
    assert {row["input_size"] for row in loading} == {"64"}
    (speed,) = speeds
    assert float(speed["disk_images_per_s"]) > 0 < float(speed["memory_images_per_s"])
    parts = ["loading", "collating", "iteration", "evaluation"]
    assert [*dict.fromkeys(row["part"] for row in rows)] == parts
    assert all(float(row["ms"]) > 0 for row in rows)
    text = extras.markdown(tmp_path, [])
    assert "| iteration, per batch | all of it |" in text and "Training speed" in text


def test_what_does_not_fit_the_memory_is_measured_from_disk_alone(tiny_suite, monkeypatch, caplog):
    def refuse(cfg):
        raise InputError("the cache needs more")

    monkeypatch.chdir(ROOT)
    profile = script("training_profile")
    monkeypatch.setitem(profile["loading_speeds"].__globals__, "set_cache", refuse)
    cfg = load_suite(tiny_suite).choose(["prunet_tiny"]).recipe()
    rows = profile["loading_speeds"](cfg, [0], 1)
    assert [row["source"] for row in rows] == ["disk"]
    assert "the cache needs more" in caplog.text


def test_detectors_of_a_study_cost_the_same_whatever_their_frame(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = DETECTORS["Study"](tmp_path)
    assert 0.97 * 4 <= study.predicted(study._scaled(4.0)) <= 4.001
    loss, crops, *_ = study.searches([2.5, 4.0])
    assert f"--budget-ms 2.5 4 --detector {tmp_path}/detector.py --scope detector" in loss
    assert f"--budget-ms {2.5 - study.beyond:.4g} {4 - study.beyond:.4g} --input-size 192" in crops
    with pytest.raises(UserError, match="loss_0"):
        next(study.networks(4.0))
