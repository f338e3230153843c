"""From config and flags to what the Runner gets."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from prunet_det.training import ClassCheckHook, RecordHook, launch
from prunet_det.training.batch import effective_batch
from prunet_det.training.numbers import check_numbers
from prunet_det.utils.errors import InputError, UserError
from prunet_det.zoo.weights import CheckpointError, refuse_pretrained
from tests.conftest import ROOT, forget_runs
from tests.training.test_deferred_info import build


@pytest.fixture
def cfg():
    return Config.fromfile(ROOT / "configs" / "prunet_effdet.py")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("train_cfg.max_iters", 0, "train_cfg.max_iters must be a positive integer, got 0"),
        ("train_cfg.max_iters", 1.5, "must be a positive integer, got 1.5"),
        ("train_dataloader.batch_size", 0, "train_dataloader.batch_size must be a positive"),
        ("optim_wrapper.optimizer.lr", -0.1, "lr must be a number from 0 up, got -0.1"),
        ("optim_wrapper.optimizer.lr", "fast", "lr must be a number from 0 up, got 'fast'"),
        ("optim_wrapper.optimizer.weight_decay", -1, "weight_decay must be a number from 0 up"),
        ("optim_wrapper.optimizer.momentum", -0.9, "momentum must be a number from 0 up"),
        (
            "optim_wrapper.optimizer",
            dict(type="AdamW", betas=(0.9,)),
            "betas must be 2 numbers, as .0.9, 0.999., got",
        ),
        ("optim_wrapper.optimizer", dict(type="Adam", betas=0.9), "betas must be 2 numbers"),
    ],
)
def test_numbers_that_train_nothing_are_refused(option, value, sentence):
    with pytest.raises(UserError, match=sentence):
        check_numbers(launch.load_config("prunet_effdet.py", options={option: value}))


@pytest.mark.parametrize(
    ("optimizer", "schedule", "sentence"),
    [
        (dict(type="SGD", lr=0.1, nesterov=True), None, "Nesterov momentum requires a momentum"),
        (dict(type="Adam", betas=(0.9, 2.0)), None, "Invalid beta parameter at index 1: 2.0"),
        (dict(type="Adam"), dict(end=-1), "end should be larger than begin"),
    ],
)
def test_what_optimizers_and_schedulers_refuse(tmp_path, optimizer, schedule, sentence):
    runner = build("DeferredInfoHook", tmp_path)
    runner.optim_wrapper["optimizer"] = optimizer
    runner.param_schedulers = schedule and [dict(type="ExponentialLR", gamma=0.9, **schedule)]
    with pytest.raises(InputError, match=f"the config cannot be used: .*{sentence}"):
        launch.train(runner)


def test_an_error_in_a_step_stays_a_bug(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("ours")

    monkeypatch.setattr(torch.optim.SGD, "step", fail)
    with pytest.raises(ValueError, match="ours") as error:
        launch.train(build("DeferredInfoHook", tmp_path))
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(("key", "begin"), [("begin_iter", 11), ("begin_epoch", 3)])
def test_an_average_begins_in_the_training(tmp_path, key, begin):
    runner = build("DeferredInfoHook", tmp_path)
    runner.register_hook(dict(type="EMAHook", **{key: begin}))
    with pytest.raises(InputError, match=f"EMAHook's {key}={begin} is after the end of the train"):
        launch.train(runner)


def test_effective_batch(cfg):
    cfg.optim_wrapper.accumulative_counts = 2
    assert effective_batch(cfg, 4) == (
        "effective batch 64 = 8 images x 4 processes x 2 accumulated, learning rate 0.01 "
        "(chosen for batch 8; --auto-scale-lr scales it)"
    )
    cfg.auto_scale_lr.enable = True
    assert effective_batch(cfg, 4).endswith("scaled by the square root from batch 8 to 0.0282843")
    cfg.optim_wrapper.optimizer = dict(type="SGD", lr=0.01)
    assert effective_batch(cfg, 4).endswith("scaled linearly from batch 8 to 0.08")
    cfg.auto_scale_lr.base_batch_size = 64
    assert effective_batch(cfg, 4).endswith("learning rate 0.01")


@pytest.mark.parametrize(
    ("optimizer", "factor"), [("SGD", 4.0), ("AdamW", 2.0), ("TimmMuon", 2.0), ("TimmLamb", 2.0)]
)
def test_the_rate_is_scaled_as_it_is_said(optimizer, factor, tmp_path):
    """Of all groups of parameters, and with the images of all iterations of a step."""
    import prunet_det.classification  # noqa: F401 (registers the model)

    forget_runs()
    options = dict(type=optimizer, lr=0.01, weight_decay=0.01)
    data = dict(dataset=[], batch_size=8, sampler=dict(type="DefaultSampler", shuffle=False))
    cfg = Config(
        dict(
            model=dict(type="Classifier", arch="prunet_demo", num_classes=2),
            work_dir=str(tmp_path),
            train_cfg=dict(by_epoch=False, max_iters=1),
            train_dataloader=data,
            optim_wrapper=dict(
                optimizer=options, accumulative_counts=2, paramwise_cfg=dict(bias_decay_mult=0.0)
            ),
            auto_scale_lr=dict(base_batch_size=4, enable=True),
            launcher="none",
        )
    )
    runner = launch.build_runner(cfg)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    before = [group["lr"] for group in wrapper.optimizer.param_groups]
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    after = [group["lr"] for group in wrapper.optimizer.param_groups]
    assert after == pytest.approx([factor * lr for lr in before]) and 0.01 in before
    assert effective_batch(cfg, 1).endswith(f"from batch 4 to {0.01 * factor:g}")


def test_bfloat16_needs_no_loss_scale(cfg):
    launch.set_amp(cfg)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper" and "dtype" not in cfg.optim_wrapper
    assert cfg.optim_wrapper.loss_scale == "dynamic"
    launch.set_amp(cfg, "bfloat16")
    scaler = torch.amp.GradScaler("cuda", **cfg.optim_wrapper.loss_scale)
    assert cfg.optim_wrapper.dtype == "bfloat16" and not scaler.is_enabled()


def test_cudnns_fastest_algorithms_can_be_left_out(cfg, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    precision = torch.get_float32_matmul_precision()
    try:
        launch.set_up_cuda(cfg)
        assert torch.backends.cudnn.benchmark is True
        cfg.env_cfg.cudnn_benchmark = False
        launch.set_up_cuda(cfg)
        assert torch.backends.cudnn.benchmark is False
    finally:
        torch.set_float32_matmul_precision(precision)


class Loop(BaseLoop):
    """A loop over data of these classes."""

    def __init__(self, *classes):
        self.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo={"classes": classes}))

    def run(self):
        raise NotImplementedError


def check(model, train=None, val=None, test=None):
    runner = SimpleNamespace(_train_loop=train, _val_loop=val, _test_loop=test, model=model)
    ClassCheckHook().before_run(runner)


def test_classes_must_agree():
    detector = torch.nn.Module()
    detector.bbox_head = SimpleNamespace(num_classes=2)
    check(detector, Loop("cat", "dog"), Loop("cat", "dog"))
    check(detector, test=Loop("cat", "dog"))
    check(torch.nn.Module(), Loop("a"), {"type": "ValLoop"})
    with pytest.raises(UserError, match="train and val data have different classes, or in another"):
        check(detector, Loop("cat", "dog"), Loop("dog", "cat"))
    with pytest.raises(UserError, match=r"3 classes and the model 2; set model\.bbox_head\.num_cl"):
        check(detector, Loop(*"abc"))
    val = Loop("dog", "cat")  # a folder in COCO's format matches categories by name
    val.evaluator = SimpleNamespace()
    val.dataloader.dataset.use_classes = lambda classes: val.dataloader.dataset.metainfo.update(
        classes=classes
    )
    check(detector, Loop("cat", "dog"), val)
    assert val.evaluator.dataset_meta == {"classes": ("cat", "dog")}
    roi = detector.roi_head = SimpleNamespace(bbox_head=SimpleNamespace(num_classes=80))
    del detector.bbox_head
    for data in (dict(train=Loop(*"abc")), dict(test=Loop(*"abc"))):
        with pytest.raises(
            UserError, match=r"and the model 80; set model\.roi_head\.bbox_head\.num_classes=3"
        ):
            check(detector, **data)
    stages = [torch.nn.Module() for _ in range(2)]
    for stage, count in zip(stages, (3, 80), strict=True):
        stage.num_classes = count
    roi.bbox_head = torch.nn.ModuleList(stages)
    roi.mask_head = SimpleNamespace(num_classes=80)
    with pytest.raises(
        UserError, match=r"set model\.roi_head\.bbox_head\.1\.num_cl.* model\.roi_head\.mask_head\."
    ):
        check(detector, Loop(*"abc"))
    stages[1].num_classes, roi.mask_head.class_agnostic = 3, True
    check(detector, Loop(*"abc"))
    classifier = torch.nn.Module()
    classifier.num_classes = 5
    with pytest.raises(UserError, match=r"set model\.num_classes=3"):
        check(classifier, test=Loop(*"abc"))


def resume_precision(saved, wrapper):
    model = torch.nn.Linear(2, 2)
    cfg = {"optim_wrapper": wrapper}
    runner = SimpleNamespace(model=model, _resume=True, param_schedulers=[], cfg=cfg)
    checkpoint = {"state_dict": model.state_dict(), "meta": saved}
    RecordHook().after_load_checkpoint(runner, checkpoint)


def test_a_training_is_resumed_in_its_precision(cfg, tmp_path):
    wrappers = {"float32": copy.deepcopy(cfg.optim_wrapper)}
    for dtype in ("float16", "bfloat16"):
        launch.set_amp(cfg, dtype)
        wrappers[dtype] = copy.deepcopy(cfg.optim_wrapper)
    for before, wrapper in wrappers.items():
        runner = SimpleNamespace(cfg={"optim_wrapper": wrapper}, work_dir=tmp_path)
        checkpoint = {"state_dict": {}, "meta": {"iter": 1}}
        hook = RecordHook()
        hook._write_record = lambda *_: None
        hook.before_save_checkpoint(runner, checkpoint)
        meta = checkpoint["meta"]
        for now, other in wrappers.items():
            if now == before:
                resume_precision(meta, other)
                continue
            with pytest.raises(CheckpointError, match=f"in {before}, this run is in {now}; resume"):
                resume_precision(meta, other)
    resume_precision({}, wrappers["bfloat16"])  # a checkpoint from before it was noted


def resume(saved_teacher, teacher):
    model = torch.nn.Linear(2, 2)
    cfg = {"model": {"teacher": teacher and {"name": teacher}}}
    runner = SimpleNamespace(model=model, _resume=True, param_schedulers=[], cfg=cfg)
    checkpoint = {"state_dict": model.state_dict(), "meta": {"teacher": saved_teacher}}
    RecordHook().after_load_checkpoint(runner, checkpoint)


def test_a_training_is_resumed_with_its_teacher():
    resume("resnet50", "resnet50")
    resume(None, None)
    for before, now in (("resnet50", None), (None, "resnet50"), ("resnet50", "resnet18")):
        with pytest.raises(CheckpointError, match="resume with the same --teacher"):
            resume(before, now)


def test_a_training_is_resumed_with_its_schedule():
    model = torch.nn.Linear(2, 2)
    now = SimpleNamespace(begin=0, end=60, T_max=60)
    runner = SimpleNamespace(model=model, _resume=True, param_schedulers=[now], cfg={})
    saved = {"begin": 0, "end": 60, "T_max": 60}
    checkpoint = {"state_dict": model.state_dict(), "meta": {}, "param_schedulers": [saved]}
    RecordHook().after_load_checkpoint(runner, checkpoint)
    saved["T_max"] = 30
    with pytest.raises(CheckpointError, match="T_max 30, this run's 60; resume with what"):
        RecordHook().after_load_checkpoint(runner, checkpoint)


def test_pretrained_is_refused_anywhere(cfg):
    refuse_pretrained(cfg.model)
    cfg.model.neck.init_cfg = [dict(type="Constant"), dict(type="Pretrained", checkpoint="x.pth")]
    with pytest.raises(UserError, match="would unpickle"):
        refuse_pretrained(cfg.model)


def test_evaluation_ignores_other_weights(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.Runner, "from_cfg", lambda c: c)
    cfg.load_from, cfg.resume, cfg.launcher = "some.pth", True, "none"
    cfg.work_dir = "work_dirs/x"
    built = launch.build_evaluation_runner(cfg)
    assert built.load_from is None and built.resume is False
    assert built.work_dir == "work_dirs/x/evaluation", "the training's config stays as it was"


def test_overrides_reach_the_config():
    path = ROOT / "configs" / "prunet_effdet.py"
    cfg = launch.load_config(path, data_root="mine", options={"model.neck.channels": 24})
    assert cfg.model.neck.channels == 24
    assert cfg.work_dir == "work_dirs/prunet_effdet"
    assert cfg.train_dataloader.dataset.data_root == "mine"
    assert cfg.test_evaluator.ann_file.startswith("mine/")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"there is no config file .*own\.py"),
        ("model = dict(\n", "is no valid config"),
        ("x = 1\n", "has no `model`"),
    ],
)
def test_configs_that_are_refused(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=sentence):
        launch.load_config(tmp_path / "own.py")


def test_lengths_that_are_refused(cfg):
    with pytest.raises(UserError, match="iterations must be a positive integer"):
        launch.set_max_iters(cfg, 0)
    epochs = launch.load_config(ROOT / "configs" / "classification" / "prunet_imagenet.py")
    with pytest.raises(UserError, match="--max-iters is for configs that train by iterations"):
        launch.set_max_iters(epochs, 5)


def test_teachers_are_for_classifiers(cfg, tmp_path):
    with pytest.raises(UserError, match="for classification configs"):
        launch.set_teacher(cfg, "resnet10t", None)
    classifier = launch.load_config(ROOT / "configs" / "classification" / "prunet_digits.py")
    with pytest.raises(UserError, match="needs --teacher NAME"):
        launch.set_teacher(classifier, None, tmp_path)
    with pytest.raises(UserError, match="there is no teacher's checkpoint"):
        launch.set_teacher(classifier, "resnet10t", tmp_path / "none.pth")
    launch.set_teacher(classifier, "resnet10t", None)
    assert classifier.model.teacher.name == "resnet10t"


def test_what_cannot_be_resumed(cfg, tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        launch.set_resume(cfg, tmp_path / "none.pth")
    (tmp_path / "iter_9.pth").write_bytes(b"half of a file")
    with pytest.raises(UserError, match="is truncated or no checkpoint"):
        launch.set_resume(cfg, tmp_path / "iter_9.pth")
    cfg.work_dir = str(tmp_path)
    with pytest.raises(UserError, match="no checkpoint in .* is whole; leave out --resume"):
        launch.set_resume(cfg, "auto")


def test_the_newest_whole_checkpoint_is_resumed(cfg, tmp_path, caplog):
    caplog.set_level("INFO")
    cfg.work_dir = str(tmp_path)
    launch.set_resume(cfg, "auto")
    assert not cfg.resume and "holds no checkpoint; the training starts afresh" in caplog.text
    for number in (8, 10, 9):
        torch.save({"meta": {}}, tmp_path / f"iter_{number}.pth")
    launch.set_resume(cfg, "auto")
    assert cfg.resume and cfg.load_from == str(tmp_path / "iter_10.pth")
    (tmp_path / "last_checkpoint").write_text("/moved/iter_9.pth")
    launch.set_resume(cfg, "auto")
    assert cfg.load_from == str(tmp_path / "iter_9.pth")
    with open(tmp_path / "iter_9.pth", "r+b") as file:
        file.truncate(200)
    launch.set_resume(cfg, "auto")
    assert cfg.load_from == str(tmp_path / "iter_10.pth")
    assert "iter_9.pth is truncated" in caplog.text


def test_what_is_there_to_resume_is_resumed_and_else_the_start_is_taken(cfg, tmp_path):
    cfg.work_dir = str(tmp_path)
    shipped, own = "checkpoints/prunet_demo_digits.safetensors", str(tmp_path / "own.pth")
    for resume in (None, "auto"):
        for start in (shipped, "imagenet"):
            launch.set_resume(cfg, resume, start)
            assert not cfg.resume and cfg.load_from == start
    cfg.load_from = own
    with pytest.raises(UserError, match="there is no checkpoint .*own.pth"):
        launch.set_resume(cfg, None)
    torch.save({}, own)
    launch.set_resume(cfg, None)
    assert not cfg.resume and cfg.load_from == own
    torch.save({"meta": {}}, tmp_path / "iter_9.pth")
    (tmp_path / "last_checkpoint").write_text("iter_9.pth")
    launch.set_resume(cfg, "auto", "not_read.safetensors")
    assert cfg.resume and cfg.load_from == str(tmp_path / "iter_9.pth")
    cfg.load_from, cfg.resume = None, True  # by the config
    launch.set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == str(tmp_path / "iter_9.pth")


def test_another_model_is_not_resumed():
    model = torch.nn.Linear(2, 2)
    runner = SimpleNamespace(model=model, _resume=True, param_schedulers=[], cfg={})
    checkpoint = {"state_dict": {"a": torch.zeros(1)}, "meta": {}}
    with pytest.raises(CheckpointError, match="does not fit the model"):
        RecordHook().after_load_checkpoint(runner, checkpoint)


@pytest.mark.parametrize(("images", "fit"), [(8, True), (7, False)])
def test_data_must_fill_a_batch(images, fit):
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader = torch.utils.data.DataLoader(range(images), 8, drop_last=True)
    runner = SimpleNamespace(train_loop=loop)
    if fit:
        launch.check_one_batch(runner)
        return
    with pytest.raises(UserError, match="the 7 training images do not fill one batch of 8"):
        launch.check_one_batch(runner)
