"""The learning rate is chosen on training images that are kept from training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prunet_det.benchmark import rate
from prunet_det.benchmark.campaign import Plan
from prunet_det.benchmark.records import METRICS, Record, save_record
from prunet_det.benchmark.suite import load_suite
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT


def test_the_test_split_is_not_looked_at(tiny_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = rate.with_rate(load_suite(tiny_suite), 0.05)
    cfg = suite.build(suite.candidates[0], 0, tmp_path / "run")
    assert cfg.optim_wrapper.optimizer.lr == 0.05
    train, test = cfg.train_dataloader.dataset.dataset, cfg.test_dataloader.dataset
    assert test.data_prefix == train.data_prefix and test.data_root == train.data_root
    assert cfg.test_evaluator.ann_file == test.ann_file
    parts = [json.loads(Path(dataset.ann_file).read_text()) for dataset in (train, test)]
    ids = [{image["id"] for image in part["images"]} for part in parts]
    all_of_them = json.loads((ROOT / "data/digits/annotations/train.json").read_text())
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == len(all_of_them["images"])
    assert 0.08 < len(ids[1]) / len(all_of_them["images"]) < 0.12
    for part, own in zip(parts, ids, strict=True):
        assert {a["image_id"] for a in part["annotations"]} <= own


def test_the_best_mean_is_chosen(tiny_suite, tmp_path, monkeypatch):
    suite = load_suite(tiny_suite).choose(["prunet_tiny", "gpunet_0@64", "gpunet_1@64"])
    assert [str(c) for c in rate.one_a_family(suite)] == ["prunet_tiny@64", "gpunet_0@64"]
    suite = replace(suite, candidates=rate.one_a_family(suite))
    accuracy = {"prunet_tiny": {0.01: 0.3, 0.02: 0.2}, "gpunet_0": {0.01: 0.1, 0.02: 0.4}}

    def run(plan):
        assert plan.suite.held_out and "--held-out" in plan.flags
        lr = plan.suite.options[rate.OPTION]
        for c in plan.suite.candidates:
            metrics = dict.fromkeys(METRICS, accuracy[c.model][lr])
            record = Record(
                model=c.model,
                family=c.family,
                input_size=c.input_size,
                seed=0,
                suite="tiny",
                metrics=metrics,
                artifact="x",
            )
            save_record(plan.out, record)
        return [], []

    monkeypatch.setattr(rate, "run_suite", run)
    plan = Plan(suite=suite, seeds=1, out=tmp_path, flags=())
    chosen = rate.choose_rate(plan, "command")
    assert chosen["learning_rate"] == 0.02 and chosen["mean_mAP"] == {"0.01": 0.2, "0.02": 0.3}
    assert json.loads((tmp_path / rate.RATE_FILE).read_text()) == chosen
    with pytest.raises(UserError, match="fewer than two learning_rates"):
        rate.choose_rate(replace(plan, suite=replace(suite, learning_rates=())), "command")
