"""A resumed training is what its start said, or is refused with what differs."""

from __future__ import annotations

import logging

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from prunet_det.zoo.weights import CheckpointError
from tests.training.test_deferred_info import build

SCHEDULE = dict(type="CosineAnnealingLR", T_max=10, eta_min=0.0, by_epoch=False)


def runner(folder, loader=None, schedule=SCHEDULE, seed=0, **optimizer):
    """One of 10 iterations in two epochs, with a checkpoint after each."""
    built = build("DeferredInfoHook", folder, by_epoch=True, interval=1)
    built.optim_wrapper["optimizer"] = dict(type="SGD", lr=0.1, weight_decay=0.01) | optimizer
    built.param_schedulers = [schedule] if schedule else []
    built.cfg = Config(
        dict(
            optim_wrapper=built.optim_wrapper,
            train_dataloader=loader or dict(batch_size=2, dataset=dict(data_root="digits/")),
            randomness=dict(seed=seed),
        )
    )
    built._randomness_cfg = dict(seed=seed)
    built.set_randomness(seed)
    built.register_hook(dict(type="RecordHook"))
    return built


def resume(folder, name, **changed):
    built = runner(folder, **changed)
    built._resume, built._load_from = True, str(folder / name)
    built.train()
    return built


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("started")
    runner(folder).train()
    return folder


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (dict(lr=0.2), "with optim_wrapper.optimizer.lr 0.1, this run has 0.2; resume with what"),
        (dict(weight_decay=0.0), "weight_decay 0.01, this run has 0.0"),
        (dict(momentum=0.9), "momentum 0, this run has 0.9"),
        (dict(type="Adam"), "with the optimizer SGD, this run has Adam"),
        (dict(seed=3), "with the seed 0, this run has 3"),
        (dict(schedule=SCHEDULE | dict(eta_min=0.01)), "has eta_min 0.0, this run's 0.01"),
        (dict(schedule=SCHEDULE | dict(T_max=20)), "has T_max 10, this run's 20; resume with"),
        (dict(schedule=None), "has 1 parts, this run's 0; resume with"),
    ],
)
def test_what_the_checkpoint_would_override_is_refused(started, changed, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        resume(started, "epoch_1.pth", **changed)


SCHEDULERS = [
    dict(type="ConstantLR", factor=0.5, end=3, by_epoch=False),
    SCHEDULE,
    dict(type="CosineAnnealingMomentum", T_max=10, eta_min=0.5, by_epoch=False),
    dict(type="CosineRestartLR", periods=[4, 6], restart_weights=[1, 0.5], eta_min=0.0)
    | dict(by_epoch=False),
    dict(type="ExponentialLR", gamma=0.9, by_epoch=False),
    dict(type="LinearLR", start_factor=0.1, end=7, by_epoch=False),
    dict(type="MultiStepLR", milestones=[4, 8], by_epoch=False),
    dict(type="OneCycleLR", eta_max=0.1, total_steps=10, by_epoch=False),
    dict(type="PolyLR", power=2.0, end=10, by_epoch=False),
    dict(type="ReduceOnPlateauLR", monitor="loss", patience=0, cooldown=2),
    dict(type="StepLR", step_size=3, by_epoch=False),
]


class Evaluated(Hook):
    """Gives schedulers what an evaluation finds."""

    def after_train_epoch(self, runner):
        for scheduler in runner.param_schedulers:
            if getattr(scheduler, "need_val_args", False):
                scheduler.step({"loss": 1.0 + runner.epoch})


@pytest.mark.parametrize("schedule", SCHEDULERS, ids=lambda schedule: schedule["type"])
def test_any_schedule_goes_on(tmp_path, schedule):
    """A scheduler's own state is no other setting, and the weights are those of one training."""
    runs = {"first": False, "again": True}
    for name, resumed in runs.items():
        built = runner(tmp_path, schedule=schedule, momentum=0.9)
        built.register_hook(Evaluated())
        if resumed:
            built._resume, built._load_from = True, str(tmp_path / "epoch_1.pth")
        built.train()
        runs[name] = (tmp_path / "weights.safetensors").read_bytes()
    assert runs["first"] == runs["again"]


def test_what_changes_is_said(started, caplog):
    caplog.set_level(logging.INFO)
    data = dict(data_root="other/")
    loader = dict(batch_size=4, dataset=dict(type="PlacedSamples", dataset=data))
    resumed = resume(started, "epoch_1.pth", loader=loader)
    assert resumed.iter == 10 and "nothing is left" not in caplog.text
    assert "this run has 4 images a step, the checkpoint was trained with 2." in caplog.text
    assert "this run has other/ as data, the checkpoint was trained with digits/." in caplog.text


def test_a_finished_training_says_so(started, caplog):
    resume(started, "epoch_1.pth")
    before = (started / "weights.safetensors").read_bytes()
    resume(started, "epoch_2.pth")
    assert "nothing is left to train: the checkpoint is of epoch 2 of 2." in caplog.text
    assert (started / "weights.safetensors").read_bytes() == before


def test_weights_are_no_checkpoint(started):
    torch.save({"linear.weight": torch.zeros(1)}, started / "weights.pth")
    with pytest.raises(CheckpointError, match="is no checkpoint of a training"):
        resume(started, "weights.pth")
