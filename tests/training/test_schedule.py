"""Schedules that end with the training, whatever its length."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader

from prunet_det.training import launch
from prunet_det.training.schedule import explicit_schedule, fitted_schedule, set_length
from prunet_det.utils.errors import InputError
from tests.conftest import ROOT
from tests.training.test_deferred_info import build


@pytest.fixture
def cfg():
    return Config.fromfile(ROOT / "configs" / "prunet_effdet.py")


@pytest.mark.parametrize(
    ("iters", "ends"), [(8000, [(0, 100), (100, 8000)]), (40, [(0, 10), (10, 40)]), (2, [(0, 2)])]
)
def test_the_schedule_follows_the_length(cfg, iters, ends):
    launch.set_max_iters(cfg, iters)
    assert cfg.train_cfg.max_iters == iters
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == ends
    assert cfg.param_scheduler[-1].T_max == ends[-1][1] - ends[-1][0]


def test_the_schedule_follows_an_option(tmp_path):
    """Also where the config's own length is shorter than its warm-up."""
    warmup = "dict(type='LinearLR', start_factor=0.1, end=1, by_epoch=True)"
    cosine = "dict(type='CosineAnnealingLR', begin=1, by_epoch=True{})"
    steps = "dict(type='MultiStepLR', milestones=[8, 11], end=12, by_epoch=True)"
    config = tmp_path / "c.py"
    for length, parts, ends in (
        (1, [warmup, cosine.format("")], [(0, 1), (1, 4)]),
        (300, [warmup, cosine.format(", end=300, T_max=300")], [(0, 1), (1, 4)]),
        (12, [steps], [(0, 4)]),
    ):
        loop = f"train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={length})"
        config.write_text(f"model = dict()\n{loop}\nparam_scheduler = [{', '.join(parts)}]\n")
        cfg = launch.load_config(config, options={"train_cfg.max_epochs": 4})
        assert cfg.train_cfg.max_epochs == 4
        assert [(s.begin, s.end) for s in cfg.param_scheduler] == ends
    assert cfg.param_scheduler[0].milestones == [3, 4]
    own = {"train_cfg.max_epochs": 4, "param_scheduler.0.end": 9}
    assert launch.load_config(config, options=own).param_scheduler[0].end == 9


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (dict(type="OneCycleLR", total_steps=100), dict(total_steps=250)),
        (dict(type="CosineRestartLR", periods=[20, 30, 50]), dict(periods=[50, 75, 125])),
        (dict(type="StepLR", step_size=30), dict(step_size=75)),
        (dict(type="CosineAnnealingLR", T_max=80), dict(T_max=200)),
        (dict(type="CosineAnnealingLR", begin=20, T_max=80), dict(begin=20, T_max=230)),
        (dict(type="MultiStepLR", milestones=[60, 90]), dict(milestones=[150, 225])),
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
def test_lengths_within_a_schedule_follow(scheduler, expected):
    cfg = Config(dict(param_scheduler=[dict(scheduler, by_epoch=False)]))
    cfg.train_cfg = dict(max_iters=100)
    set_length(cfg, 250)
    assert cfg.param_scheduler[0] == cfg.param_scheduler[0] | expected
    assert cfg.param_scheduler[0].end == cfg.train_cfg.max_iters == 250


def test_one_cycle_takes_a_longer_training(tmp_path):
    cycle = dict(type="OneCycleLR", eta_max=0.1, total_steps=5, by_epoch=True)
    got = rates(tmp_path, [cycle], epochs=10, before=5)
    assert len(got) == 50 and max(got) == pytest.approx(1.0) and got[-1] < 0.01


def test_the_same_length_is_the_same_schedule():
    """YOLOX's cosine has a length of its own, and its last epochs a constant rate."""
    schedule = [
        dict(type="QuadraticWarmupLR", end=5, convert_to_iter_based=True),
        dict(type="CosineAnnealingLR", begin=5, end=285, T_max=285, convert_to_iter_based=True),
        dict(type="ConstantLR", factor=1, begin=285, end=300),
    ]
    cfg = Config(dict(param_scheduler=schedule, train_cfg=dict(max_epochs=300)))
    set_length(cfg, 300)
    assert cfg.param_scheduler == schedule
    set_length(cfg, 30)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 5), (5, 28), (28, 30)]
    assert cfg.param_scheduler[1].T_max == 23


def test_a_single_schedule_is_a_list_of_one():
    one = dict(type="CosineAnnealingLR", by_epoch=False)
    assert explicit_schedule(one, dict(max_iters=9)) == explicit_schedule([one], dict(max_iters=9))
    with pytest.raises(InputError, match="several optimizers"):
        explicit_schedule(dict(first=[one], second=[one]), dict(max_iters=9))


def test_a_schedule_beyond_the_end_is_said(caplog):
    steps = [dict(type="MultiStepLR", milestones=[8, 11], by_epoch=True)]
    assert fitted_schedule(steps, dict(max_epochs=12)) == steps and not caplog.text
    assert fitted_schedule(steps, dict(max_epochs=4)) == steps
    assert "goes on to 11, and the training ends at 4" in caplog.text


def test_a_default_written_out_is_the_same_schedule(cfg):
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, end=9, by_epoch=False),
        dict(type="CosineAnnealingLR", begin=9, by_epoch=False),
    ]
    short = explicit_schedule(cfg.param_scheduler, dict(max_iters=30))
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, begin=0, end=9, by_epoch=False),
        dict(type="CosineAnnealingLR", begin=9, end=30, T_max=21, by_epoch=False),
    ]
    assert (
        explicit_schedule(cfg.param_scheduler, dict(max_iters=30)) == short == cfg.param_scheduler
    )


def test_a_training_may_be_shorter_than_its_warm_up(cfg):
    schedule = cfg.param_scheduler
    assert fitted_schedule(schedule, dict(max_iters=101)) == schedule
    short = fitted_schedule(schedule, dict(max_iters=40))
    assert [(s.begin, s.end) for s in short] == [(0, 10), (10, 40)]
    by_iterations = [dict(type="LinearLR", start_factor=0.1, end=500, by_epoch=False)]
    assert fitted_schedule(by_iterations, dict(max_epochs=12)) == by_iterations


def rates(folder, schedulers, epochs=2, before=300):
    """Learning rates of a training of epochs of five iterations, as shares of the config's."""
    runner = build("DeferredInfoHook", folder)
    runner._train_loop["max_epochs"] = epochs
    # The schedule at another length of the training, as an option gives it.
    cfg = Config(dict(param_scheduler=schedulers, train_cfg=dict(max_epochs=before)))
    set_length(cfg, epochs)
    runner.param_schedulers = cfg.param_scheduler
    launch.train(runner)
    return [10 * rate for rate in runner.message_hub.log_scalars["train/lr"].data[0]]


def warm_up(**options):
    return dict(type="LinearLR", start_factor=0.1, **options)


def cosine(**options):
    return dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True, **options)


@pytest.mark.parametrize(
    ("schedulers", "epochs", "first"),
    [
        ([warm_up(end=1, convert_to_iter_based=True), cosine(begin=1)], 2, [0.1, 1.0]),
        ([warm_up(end=1, convert_to_iter_based=True), cosine(begin=1)], 3, [0.1, 0.55, 1.0]),
        ([warm_up(end=1, convert_to_iter_based=True), cosine(begin=1)], 1, [1.0]),  # one step
        ([warm_up(end=1), cosine(begin=1)], 4, [0.1, 0.325, 0.55, 0.775, 1.0]),
        ([warm_up(end=500, by_epoch=False), cosine()], 4, [0.1, 0.316, 0.537]),
        ([warm_up(end=1, by_epoch=False), cosine(begin=0)], 2, [1.0]),
        (cosine(), 2, [1.0]),
    ],
)
def test_a_short_training_warms_up_and_cools_down(tmp_path, schedulers, epochs, first):
    """The warm-up takes a part of the training, and mmengine's rates reach the top and the end."""
    got = rates(tmp_path, schedulers, epochs)
    assert got[: len(first)] == pytest.approx(first, abs=0.01)
    assert len(got) == 5 * epochs and max(got) > 0.8 and got[-1] < 0.15


def test_warm_ups_of_one_step_are_left_out(tmp_path, caplog):
    """Epochs of one iteration: mmengine would stay at a tenth of the rate for good."""
    runner = build("DeferredInfoHook", tmp_path)
    runner._train_loop = dict(by_epoch=True, max_epochs=8)
    runner._train_dataloader = DataLoader([{"inputs": torch.zeros(4)}] * 2, 2)
    runner.param_schedulers = [warm_up(end=1, convert_to_iter_based=True)]
    caplog.set_level("INFO")
    launch.train(runner)
    assert set(runner.message_hub.log_scalars["train/lr"].data[0]) == {0.1}
    assert "there is no warm-up: it would take one step" in caplog.text


def test_a_schedule_among_the_options_stays(cfg):
    schedule = copy.deepcopy(cfg.param_scheduler)
    launch.set_max_iters(cfg, 40, {"param_scheduler.0.end": 100})
    assert cfg.train_cfg.max_iters == 40 and cfg.param_scheduler == schedule
    launch.set_max_iters(cfg, 80, {"train_dataloader.batch_size": 2})
    assert cfg.param_scheduler[0].end == 20


def test_a_warm_up_beyond_the_end_is_shortened_alone(caplog):
    long = [warm_up(end=500, by_epoch=False)]
    assert fitted_schedule(long, dict(max_iters=40))[0].end == 10
    falling = [dict(type="LinearLR", end_factor=0.0, end=500, by_epoch=False)]
    assert fitted_schedule(falling, dict(max_iters=40)) == falling
    assert "goes on to 500, and the training ends at 40" in caplog.text
    several = dict(first=dict(type="StepLR", step_size=3), second=dict(type="StepLR", step_size=4))
    assert fitted_schedule(several, dict(max_iters=40)) == several
