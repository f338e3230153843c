"""The learning rate is chosen on training images that are kept from training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prunet_det.benchmark import campaign
from prunet_det.benchmark.records import METRICS, Record
from prunet_det.benchmark.suite import load_suite
from prunet_det.utils.errors import UserError
from prunet_det.utils.jobs import Launch
from tests.conftest import ROOT


def test_the_test_split_is_not_looked_at(tiny_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = replace(load_suite(tiny_suite), held_out=True)
    cfg = suite.build(suite.candidates[0], 0, tmp_path / "run")
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
    monkeypatch.chdir(ROOT)
    suite = load_suite(tiny_suite).choose(["prunet_tiny", "gpunet_0@64", "gpunet_1@64"])
    assert [str(c) for c in campaign.one_a_family(suite)] == ["prunet_tiny@64", "gpunet_0@64"]
    suite = replace(suite, candidates=campaign.one_a_family(suite))
    accuracy = {"prunet_tiny": {0.01: 0.3, 0.02: 0.2}, "gpunet_0": {0.01: 0.1, 0.02: 0.4}}

    def run_all(tasks, do, store, how):
        tasks = list(tasks)
        assert len({str(task) for task in tasks}) == len(tasks) == 4, "a log and a folder each"
        for task in tasks:
            c = task.candidate
            assert task.suite.held_out
            lr = task.suite.options[campaign.RATE]
            record = Record(
                model=c.model,
                family=c.family,
                input_size=c.input_size,
                seed=0,
                **task.shared,
                arch=c.arch,
                metrics=dict.fromkeys(METRICS, accuracy[c.model][lr]),
            )
            assert record.run.key == task.key, "what is done is found again"
            store.add(record.run)
        return []

    monkeypatch.setattr(campaign, "campaign", run_all)
    how = Launch(logs=tmp_path)
    chosen = campaign.choose_rate(suite, how, tmp_path, "command")
    assert chosen["learning_rate"] == 0.02 and chosen["mean_mAP"] == {"0.01": 0.2, "0.02": 0.3}
    assert json.loads((tmp_path / "learning_rate.json").read_text()) == chosen
    with pytest.raises(UserError, match="fewer than two learning_rates"):
        campaign.choose_rate(replace(suite, learning_rates=()), how, tmp_path, "command")
