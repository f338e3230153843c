"""Bad input to every tool: one sentence, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import prunet_det
from tests.conftest import ROOT

CONFIG = "configs/detection/prunet_effdet.py"


@pytest.fixture
def train(refused, tmp_path, digits):
    """Runs tools/train.py with overrides; returns its one-line error."""

    def run(*options, config=CONFIG, flags=()):
        args = ["--cfg-options", *options] if options else []
        return refused("train", config, "--work-dir", tmp_path / "work", *flags, *args)

    return run


def write_spec(tmp_path, **block):
    """A spec file whose first block of the third stage is changed."""
    data = prunet_det.load_spec("prunet_demo").to_dict()
    data["stages"][2]["blocks"][0].update(block)
    (tmp_path / "arch.json").write_text(json.dumps(data))
    return f"model.backbone.arch={tmp_path / 'arch.json'}"


def test_missing_config(train):
    assert "there is no config file nowhere.py" in train(config="nowhere.py")


def test_config_that_is_no_python(train, tmp_path):
    (tmp_path / "broken.py").write_text("model = dict(\n")
    assert "no valid config" in train(config=tmp_path / "broken.py")


def test_config_without_model(train, tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "has no `model`" in train(config=tmp_path / "empty.py")


def test_unknown_model(train):
    assert "there is no network 'prunet_dmo'" in train("model.backbone.arch=prunet_dmo")


def test_unknown_backbone_type(train):
    assert "PruneNet is not in the" in train("model.backbone.type=PruneNet")


def test_unknown_spec_key(train, tmp_path):
    assert "unknown key 'hiden'" in train(write_spec(tmp_path, hiden=64))


def test_odd_width(train, tmp_path):
    assert "hidden must be an integer" in train(write_spec(tmp_path, hidden=96.5))


def test_missing_spec_file(train):
    assert "there is no spec file gone/arch.json" in train("model.backbone.arch=gone/arch.json")


def test_stride_that_the_network_lacks(train):
    error = train("model.backbone.out_strides=[8,16,64]")
    assert "has no feature of stride 64" in error


def test_frozen_stages_out_of_range(train):
    assert "frozen_stages must lie in" in train("model.backbone.frozen_stages=9")


def test_channels_that_do_not_fit(train):
    assert "leave it out of the config" in train("model.neck.in_channels=[1,2,3]")


def test_too_few_levels(train):
    assert "BiFPN with 2 levels got 3" in train("model.neck.num_levels=2")


def test_unknown_test_setting(train):
    assert "test_cfg has no 'thr'" in train("model.test_cfg.thr=0.1")


def test_no_iterations(train):
    assert "--max-iters must be at least 1" in train(flags=("--max-iters", 0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_mixed_precision_without_a_gpu(train):
    assert "--amp needs a CUDA device" in train(flags=("--amp",))


def test_resume_from_nothing(train, tmp_path):
    assert "there is no checkpoint" in train(flags=("--resume", tmp_path / "none.pth"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"half of a file", "is truncated or no checkpoint"),
        ({"state_dict": {"a": torch.zeros(1)}, "meta": {}}, "does not fit the model"),
    ],
    ids=["damaged", "of another model"],
)
def test_resume_from_something_else(train, tmp_path, content, sentence):
    path = tmp_path / "iter_9.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert sentence in train(flags=("--resume", path))


def test_load_from_is_not_unpickled(train):
    assert "would unpickle" in train("load_from=some.pth")


def test_backbone_checkpoint_of_another_network(train, tmp_path):
    net = prunet_det.create("gpunet_0", features_only=True, out_indices=(0,))
    save_file(net.model.state_dict(), tmp_path / "w.safetensors")
    error = train(f"model.backbone.checkpoint={tmp_path / 'w.safetensors'}")
    assert "it belongs to another network" in error


def own_data(tmp_path, coco):
    """A config like the embedded one, on a folder of one's own."""
    (tmp_path / "own" / "train").mkdir(parents=True)
    if coco is not None:
        (tmp_path / "own" / "train.json").write_text(coco)
    text = f"""
_base_ = [{str(ROOT / CONFIG)!r}]
train_dataloader = dict(dataset=dict(_delete_=True, type="CocoFolder",
    data_root={str(tmp_path / "own")!r}, ann_file="train.json", data_prefix=dict(img="train/"),
    pipeline=[dict(type="LoadImageFromFile")]))
"""
    (tmp_path / "own.py").write_text(text)
    return tmp_path / "own.py"


@pytest.mark.parametrize(
    ("coco", "sentence"),
    [
        (None, "there is no annotation file"),
        ("{", "is no COCO annotation file"),
        ("[]", "is no COCO annotation file"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "lists no categories"),
    ],
)
def test_annotations(train, tmp_path, coco, sentence):
    assert sentence in train(config=own_data(tmp_path, coco))


def test_missing_data_root(train, tmp_path):
    config = own_data(tmp_path, None)
    error = train(f"train_dataloader.dataset.data_root={tmp_path / 'gone'}", config=config)
    assert "there is no data folder" in error and "expected are the images in" in error


def test_unknown_embedded_set(train):
    assert "no embedded set 'letters'" in train("train_dataloader.dataset.name=letters")


@pytest.fixture
def evaluate(refused, tmp_path, digits):
    """Runs tools/test.py on a checkpoint with this content; returns its one-line error."""

    def run(write, name="w.safetensors"):
        path = tmp_path / name
        write(path)
        return refused("test", CONFIG, path, "--work-dir", tmp_path / "work")

    return run


def test_missing_checkpoint(evaluate):
    assert "there is no checkpoint" in evaluate(lambda path: None)


def test_truncated_checkpoint(evaluate):
    def write(path):
        save_file({"a": torch.zeros(100)}, path)
        path.write_bytes(path.read_bytes()[:60])

    assert "truncated or no checkpoint" in evaluate(write)


def test_checkpoint_of_another_model(evaluate):
    error = evaluate(lambda path: save_file({"a": torch.zeros(3)}, path))
    assert "does not fit the model" in error and "use the config" in error


def test_pickled_checkpoint(evaluate):
    error = evaluate(lambda p: torch.save({"state_dict": {}, "hub": object()}, p), "iter_9.pth")
    assert "not read for safety" in error and "weights.safetensors" in error


def test_text_as_checkpoint(evaluate):
    assert "no checkpoint" in evaluate(lambda p: p.write_text("hello"), "w.pth")


def test_detect_missing_image(refused):
    assert "there is no image or folder gone.png" in refused("detect", "gone.png")


def test_detect_empty_folder(refused, tmp_path):
    assert "holds no" in refused("detect", tmp_path)


def test_detect_impossible_score(refused, digits):
    error = refused("detect", digits / "val" / "000000.jpg", "--score-thr", 2)
    assert "--score-thr must lie in 0..1" in error


def test_detect_checkpoint_without_card(refused, digits, tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors")
    error = refused(
        "detect", digits / "val" / "000000.jpg", "--checkpoint", tmp_path / "w.safetensors"
    )
    assert "has no readable card" in error


def test_detect_unknown_device(refused, digits):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    error = refused("detect", digits / "val" / "000000.jpg", "--device", "cuda")
    assert "there is no device cuda" in error


def test_detect_wrong_number_of_classes(refused, digits):
    error = refused("detect", digits / "val" / "000000.jpg", "--classes", "a", "b")
    assert "10 classes, but 2 names" in error


def test_detect_over_its_input(refused, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    assert "would overwrite an input" in refused("detect", tmp_path, "--out", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"x"


def test_detect_something_that_is_no_image(refused, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    error = refused("detect", tmp_path / "a.png", "--out", tmp_path / "out")
    assert "no image that can be read" in error
    assert not list((tmp_path / "out").glob("*"))


def test_make_data_unknown_set(refused, tmp_path):
    assert "no embedded set 'letters'" in refused("make_data", "letters", "--out", tmp_path / "x")


def test_make_data_where_it_cannot_write(refused):
    assert "/proc/nowhere" in refused("make_data", "digits", "--out", "/proc/nowhere/digits")


def test_make_data_without_workers(refused, tmp_path):
    assert "--workers must be at least 1" in refused(
        "make_data", "digits", "--out", tmp_path / "x", "--workers", 0
    )


def test_release_needs_safetensors(refused, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    args = ("release", CONFIG, tmp_path / "w.safetensors", tmp_path / "out.pth")
    assert "must end in .safetensors" in refused("convert_weights", *args)


def test_release_needs_to_know_the_training(refused, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    args = ("release", CONFIG, tmp_path / "w.safetensors", tmp_path / "out.safetensors")
    assert "has no train.json" in refused("convert_weights", *args)
    assert not (tmp_path / "out.safetensors").exists()
