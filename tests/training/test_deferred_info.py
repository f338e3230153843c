"""Losses stay on the device until they are logged, and the logs are the same."""

from __future__ import annotations

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from prunet_det.training import DeferredInfoHook
from tests.conftest import forget_runs
from tests.dispatched import Dispatched


class Line(BaseModel):
    """A linear network with two losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 1)

    def forward(self, inputs, mode="tensor"):
        y = self.linear(inputs)
        return {"loss_square": y.square(), "loss_shift": (y - 1).abs(), "mean": y.mean()}


class Unforeseen(Hook):
    """Saves a checkpoint when nobody expects it, as Ctrl-C does in a search."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 2:
            runner.save_checkpoint(runner.work_dir, "unforeseen.pth", by_epoch=False)


def build(hook, folder, accumulated=1, **checkpoint):
    """A runner of 10 iterations in 2 epochs."""
    forget_runs()
    torch.manual_seed(1)
    data = [{"inputs": torch.randn(4)} for _ in range(10)]
    return Runner(
        Line(),
        str(folder),
        train_dataloader=DataLoader(data, 2, sampler=DefaultSampler(data, shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.1),
            clip_grad=dict(max_norm=1.0),
            accumulative_counts=accumulated,
        ),
        default_hooks=dict(
            runtime_info=dict(type=hook),
            logger=dict(type="LoggerHook", interval=4),
            checkpoint={"type": "CheckpointHook", "save_last": False, **checkpoint},
        ),
        custom_hooks=[Unforeseen()],
        log_level="ERROR",
    )


def train(hook, folder, accumulated):
    """Scalars of a training, and how often it waited."""
    runner = build(hook, folder, accumulated, by_epoch=False, interval=7)
    with Dispatched() as mode:
        runner.train()
    checkpoint = torch.load(folder / "iter_7.pth", weights_only=False)["message_hub"]
    scalars = runner.message_hub.log_scalars
    kept = {k: v.data for k, v in scalars.items() if "time" not in k}
    saved = {k: v.data for k, v in checkpoint["log_scalars"].items() if "time" not in k}
    return kept, saved, mode.operators["_local_scalar_dense"]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_logs_and_checkpoints_are_the_same(tmp_path, accumulated):
    plain, plain_saved, waits = train("RuntimeInfoHook", tmp_path / "plain", accumulated)
    kept, saved, none = train("DeferredInfoHook", tmp_path / "deferred", accumulated)
    assert waits >= 40 and none == 2, "the loader draws a seed in each of two epochs"
    assert list(kept) == list(plain)
    assert {"train/loss", "train/loss_shift", "train/mean", "train/grad_norm"} <= kept.keys()
    for one, other in ((kept, plain), (saved, plain_saved)):
        for key, (values, counts) in other.items():
            assert one[key][0].tolist() == pytest.approx(values.tolist()), key
            assert one[key][1].tolist() == counts.tolist()
    assert len(kept["train/loss"][0]) == 10 and len(saved["train/loss"][0]) == 7
    unforeseen = torch.load(tmp_path / "deferred" / "unforeseen.pth", weights_only=False)
    assert len(unforeseen["message_hub"]["log_scalars"]["train/loss"].data[0]) == 3


def test_checkpoints_of_epochs_make_no_iteration_wait(tmp_path, monkeypatch):
    """Their interval counts epochs: 1 is no reason to wait in every iteration."""
    waited, hand_on = [], DeferredInfoHook._hand_on

    def note(self, runner):
        waited.append(runner.iter)
        hand_on(self, runner)

    monkeypatch.setattr(DeferredInfoHook, "_hand_on", note)
    build("DeferredInfoHook", tmp_path, by_epoch=True, interval=1).train()
    assert (tmp_path / "epoch_1.pth").is_file()
    assert waited == [2, 3, 4, 8, 9], "the unforeseen checkpoint, every fourth, ends of epochs"


def test_a_second_training_of_a_runner_logs_the_same(tmp_path):
    runner = build("DeferredInfoHook", tmp_path, by_epoch=False, interval=7)
    for total in (10, 20):
        runner.train()
        runner.train_loop._iter = runner.train_loop._epoch = 0
        for name in ("loss", "grad_norm"):
            assert len(runner.message_hub.log_scalars[f"train/{name}"].data[0]) == total
