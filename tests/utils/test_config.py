"""Values that people write."""

import copy
import re

import pytest

from prunet_det.utils.config import positive_int, read_config
from prunet_det.utils.errors import InputError, MissingFileError


def test_a_positive_integer_is_itself():
    assert positive_int(3, "the batch") == 3


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_anything_else_is_refused(value):
    with pytest.raises(InputError, match=f"the batch must be a positive integer, got {value!r}."):
        positive_int(value, "the batch")


def test_a_config_of_the_package_as_a_base(tmp_path):
    pytest.importorskip("mmengine")
    import prunet_det.training  # noqa: F401 (what lets MMEngine find our configs)

    mine = tmp_path / "mine.py"
    mine.write_text('_base_ = ["prunet_det::_base_/../prunet_effdet.py"]\nmax_iters = 7\n')
    cfg = read_config(mine)
    assert (cfg.max_iters, cfg.model.backbone.arch) == (7, "prunet_demo")
    assert "_scope_" not in cfg.pretty_text


def test_a_config_is_written_without_yapf(tmp_path, monkeypatch):
    """A runner does it six times before the first iteration; what is written is read again."""
    config = pytest.importorskip("mmengine.config")
    from yapf.yapflib import yapf_api

    monkeypatch.setattr(yapf_api, "FormatCode", None)
    cfg = copy.deepcopy(read_config("configs/prunet_effdet.py", {"log_level": "ERROR"}))
    cfg.dump(tmp_path / "written.py")
    monkeypatch.undo()
    written = config.Config.fromfile(tmp_path / "written.py", import_custom_modules=False)
    assert written.to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("train_dataloder.batch_size", "Did you mean train_dataloader"),
        ("train_dataloader.batchsize", "Did you mean train_dataloader.batch_size"),
        ("train_dataloader.dataset.data_rot", "Did you mean train_dataloader.dataset.data_root"),
        ("model.bakbone.arch", "Did you mean model.backbone"),
        ("model.backbone.frozen_stage", "Did you mean model.backbone.frozen_stages"),
        ("optim_wrapper.optimizer.lrr", "Did you mean optim_wrapper.optimizer.lr"),
        ("optim_wrapper.clip_grad.maxnorm", "Did you mean optim_wrapper.clip_grad.max_norm"),
        ("param_scheduler.0.ends", "Did you mean param_scheduler.0.end"),
        ("param_scheduler.1.eta_mim", "Did you mean param_scheduler.1.eta_min"),
        ("train_cfg.max_iter", "Did you mean train_cfg.max_iters"),
        ("default_hooks.chekpoint.interval", "Did you mean default_hooks.checkpoint"),
        ("lr", "Did you mean optim_wrapper.optimizer.lr"),
        ("max_iters", "would change nothing; set what is made of it: train_cfg.max_iters"),
        ("model.test_cfg.scor_thr", "Did you mean model.test_cfg.score_thr"),
        ("seed", "Did you mean randomness.seed"),
    ],
)
def test_a_misspelt_option_is_refused(option, sentence):
    pytest.importorskip("mmdet")
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_config("configs/prunet_effdet.py", {option: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"model.backbone.frozen_stages": 1, "model.backbone.with_cp": True},
        {"train_cfg.val_begin": 3, "optim_wrapper.accumulative_counts": 2},
        {"optim_wrapper.optimizer.betas": (0.9, 0.99), "optim_wrapper.optimizer.momentum": 0.9},
        {"custom_hooks.0.gamma": 500, "param_scheduler.1.T_max": 7},
        {"default_hooks.mine": {"type": "SyncBuffersHook"}, "default_hooks.visualization": None},
        {
            "default_hooks.checkpoint.save_best": "auto",
            "default_hooks.early.type": "EmptyCacheHook",
        },
        {"speed_up": "none", "model.test_cfg.nms_pre": 10, "env_cfg.cudnn_benchmark": False},
        {"train_dataloader.prefetch_factor": 4, "train_dataloader.dataset.cache": True},
        {
            "train_dataloader.dataset.pipeline.0.backend_args": None,
            "randomness.deterministic": True,
        },
        {"custom_hooks": [], "optim_wrapper.paramwise_cfg": {"norm_decay_mult": 0.0}},
        {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.dtype": "bfloat16"},
        {"optim_wrapper.dtype": "bfloat16"},  # beside --amp
        {"param_scheduler.1.type": "PolyLR", "param_scheduler.1.power": 2.0},
        {"model.backbone.type": "TimmBackbone", "model.backbone.name": "resnet18"},
        {"model.bbox_head.norm_cfg.requires_grad": False, "find_unused_parameters": True},
        {
            "optim_wrapper.constructor": "LearningRateDecayOptimizerConstructor",
            "optim_wrapper.paramwise_cfg.decay_rate": 0.8,
        },
        {"model.init_cfg": None, "activation_checkpointing": ["backbone"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_new_option_that_is_read_is_taken(options):
    pytest.importorskip("mmdet")
    cfg = read_config("configs/prunet_effdet.py", options)
    for option, value in options.items():
        node = cfg._cfg_dict
        for part in option.split("."):
            node = node[int(part)] if part.isdigit() else node[part]
        assert node == value


def test_a_part_of_another_kind_takes_its_own_keys():
    pytest.importorskip("mmdet")
    loss = "model.rpn_head.loss_bbox"
    options = {f"{loss}.type": "SmoothL1Loss", f"{loss}.beta": 0.1}
    cfg = read_config("configs/prunet_faster_rcnn_coco.py", options)
    assert cfg.model.rpn_head.loss_bbox.beta == 0.1
    options[f"{loss}.type"] = "CrossEntropyLoss"
    with pytest.raises(InputError, match=f"unknown option {loss}.beta"):
        read_config("configs/prunet_faster_rcnn_coco.py", options)


DATASETS = [f"{split}_dataloader.dataset" for split in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("option", "places"),
    [
        (
            "norm_cfg.momentum",
            ["model.neck.norm_cfg.momentum", "model.bbox_head.norm_cfg.momentum"],
        ),
        ("warmup", ["among what is 50 too", "param_scheduler.0.end", "param_scheduler.1.begin"]),
        ("test_pipeline.1.scale", [f"{d}.pipeline.1.scale" for d in DATASETS[1:]]),
        ("test_pipeline", [f"{d}.pipeline" for d in DATASETS[1:]]),
        ("data.ann_file", [f"of it: {DATASETS[0]}.ann_file."]),
        ("held_out.ann_file", [f"{d}.ann_file" for d in DATASETS[1:]]),
        ("data_root", ["give --data-root, or set", *(f"{d}.data_root" for d in DATASETS)]),
    ],
)
def test_an_option_of_a_variable_is_refused_with_its_places(option, places):
    pytest.importorskip("mmdet")
    with pytest.raises(InputError, match="would change nothing") as error:
        read_config("configs/prunet_effdet_finetune.py", {option: 1})
    assert all(place in str(error.value) for place in places), error.value


def test_a_variable_that_the_config_makes_nothing_of_is_set(tmp_path):
    """A user's own code may read it."""
    pytest.importorskip("mmdet")
    (tmp_path / "c.py").write_text("model = dict(a=0.5, b=dict(c=2))\nalpha = 0.5\nown = dict(d=1)")
    cfg = read_config(tmp_path / "c.py", {"alpha": 2.0, "own.d": 3})
    assert cfg.alpha == 2.0 and cfg.own.d == 3


def test_a_config_that_is_not_there():
    with pytest.raises(MissingFileError, match=r"no config file none\.py"):
        read_config("none.py")
