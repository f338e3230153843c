"""Options of data loaders, and the cache of decoded images as a setting."""

from __future__ import annotations

import os

import pytest
from mmengine.config import Config

import prunet_det.detection  # noqa: F401  (registers)
from prunet_det.training import loading
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("cores", "processes", "workers"), [(1, 1, 1), (2, 1, 1), (16, 1, 14), (16, 4, 2), (96, 2, 16)]
)
def test_workers_leave_two_cores_to_each_training(cores, processes, workers, monkeypatch):
    monkeypatch.setattr(loading, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loading.default_workers() == workers


@pytest.mark.parametrize("variable", ["SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"])
@pytest.mark.parametrize(("cores", "workers"), [(64, 6), (8, 6), (4, 2)])
def test_cores_that_a_launcher_has_shared_out_are_not_shared_again(
    variable, cores, workers, monkeypatch
):
    monkeypatch.setattr(loading, "usable_cores", lambda: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv(variable, "8")
    assert loading.default_workers() == workers


def test_options_are_filled_in_where_a_config_says_nothing(monkeypatch):
    monkeypatch.setattr(loading, "default_workers", lambda: 5)
    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=2),
            val_dataloader=dict(num_workers=0, persistent_workers=True, pin_memory=True),
            test_dataloader=None,
        )
    )
    loading.set_loader_options(cfg)
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert (train.num_workers, train.persistent_workers) == (5, True)
    assert (val.num_workers, val.persistent_workers, val.pin_memory) == (0, False, True)
    assert cfg.test_dataloader is None


def test_the_cache_is_a_setting_of_the_data_set():
    cfg = Config.fromfile(ROOT / "configs" / "prunet_effdet.py")
    plain = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="PlacedSamples", dataset=plain)
    loading.set_cache(cfg)
    assert cfg.train_dataloader.dataset.dataset.cache is True
    assert "cache" not in cfg.val_dataloader.dataset


def test_data_without_a_cache_are_named():
    loader = dict(dataset=dict(type="CocoDataset"))
    cfg = Config(dict(default_scope="mmdet", train_dataloader=loader))
    with pytest.raises(UserError, match="the data set CocoDataset has no cache"):
        loading.set_cache(cfg)
