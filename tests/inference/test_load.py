"""Detectors from a training's folder, from weights, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import prunet_det
from prunet_det.inference.load import find_training
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import InputError, MissingFileError
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "prunet_effdet.py"
SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a training leaves: weights, train.json and the config, written out."""
    path = tmp_path_factory.mktemp("training")
    shutil.copy(SHIPPED, path / "weights.safetensors")
    names = [f"digit {i}" for i in range(10)]
    (path / "train.json").write_text(json.dumps({"classes": names}))
    read_config(CONFIG).dump(path / "prunet_effdet.py")
    return path


def test_the_shipped_detector_finds_digits(digits):
    detector = prunet_det.load_detector(runtime="eager", device="cpu")
    found = detector(digits / "val" / "000001.jpg")
    truth = json.loads((digits / "annotations" / "val.json").read_text())
    wanted = [a["category_id"] for a in truth["annotations"] if a["image_id"] == 1]
    assert detector.classes == DIGITS
    assert len(set(found.labels + 1) & set(wanted)) >= len(wanted) / 2
    assert (found.scores >= 0.3).all() and found.boxes.dtype == np.float32


def test_a_folder_a_file_in_it_and_a_card(folder):
    names = tuple(f"digit {i}" for i in range(10))
    for model in (folder, folder / "weights.safetensors"):
        found = find_training(model)
        assert found.weights == folder / "weights.safetensors" and found.classes == names
        assert found.config.filename == str(folder / "prunet_effdet.py")
    shipped = find_training(SHIPPED)
    assert shipped.classes == DIGITS and shipped.config.filename.endswith("prunet_effdet.py")
    own = find_training(folder, CONFIG, "abcdefghij")
    assert own.classes == tuple("abcdefghij") and own.config.filename == str(CONFIG)


def test_of_several_configs_the_trainings(folder, tmp_path):
    """Whatever their times, which git, zip and cp do not keep."""
    copy = shutil.copytree(folder, tmp_path / "w")
    (copy / "later.py").write_text("model = dict()\n")
    with pytest.raises(
        InputError, match=r"several configs \(later.py, prunet_effdet.py\), and its"
    ):
        find_training(copy)
    (copy / "train.json").write_text(json.dumps({"config": "prunet_effdet.py", "classes": DIGITS}))
    assert find_training(copy).config.filename == str(copy / "prunet_effdet.py")
    (copy / "prunet_effdet.py").unlink()
    with pytest.raises(MissingFileError, match=r"has no prunet_effdet.py, with which train.json"):
        find_training(copy)


def test_a_card_and_its_config_lie_together(tmp_path, monkeypatch):
    """As of converted weights, wherever the folder is."""
    shutil.copy(SHIPPED, tmp_path / "d0.safetensors")
    read_config(CONFIG).dump(tmp_path / "own.py")
    card = {"classes": DIGITS, "source": "effdet's"}
    (tmp_path / "d0.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"the card d0.json of .* names no config"):
        find_training(tmp_path / "d0.safetensors")
    (tmp_path / "d0.json").write_text(json.dumps({**card, "config": "own.py"}))
    assert find_training(tmp_path / "d0.safetensors").config.filename == str(tmp_path / "own.py")
    (tmp_path / "d0.json").write_text(json.dumps(card))  # of an earlier conversion
    (tmp_path / "own.py").rename(tmp_path / "d0.py")
    assert find_training(tmp_path / "d0.safetensors").config.filename == str(tmp_path / "d0.py")


def test_classes_of_a_config_of_mmdetections_kind(folder, tmp_path):
    shutil.copy(SHIPPED, tmp_path / "w.safetensors")
    cfg = read_config(CONFIG)
    cfg.test_dataloader.dataset.metainfo = dict(classes=tuple("abcdefghij"))
    assert find_training(tmp_path / "w.safetensors", cfg).classes == tuple("abcdefghij")


@pytest.mark.parametrize(
    ("model", "options", "kind", "sentence"),
    [
        ("gone.safetensors", {}, MissingFileError, r"there is no checkpoint or folder .*gone"),
        ("empty", {}, MissingFileError, r"empty has no weights\.safetensors"),
        ("alone.safetensors", {}, InputError, r"no readable card alone\.json .* name the config"),
        ("alone.safetensors", {"config": CONFIG}, InputError, "nothing says the classes of"),
        ("config.py", {}, InputError, "is a config, which has no weights"),
        (SHIPPED, {"classes": ["a", "b"]}, InputError, "10 classes, but 2 names"),
        (SHIPPED, {"runtime": "tflite"}, InputError, "no runtime 'tflite'; .* auto, eager, "),
        (SHIPPED, {"score_thr": 30}, InputError, "score_thr must lie in 0..1"),
        (SHIPPED, {"device": "gpu"}, InputError, "there is no device 'gpu'"),
        (SHIPPED, {"config": "gone.py"}, MissingFileError, "there is no config file gone.py"),
    ],
)
def test_refusals(tmp_path, model, options, kind, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.py").write_text("model = dict()\n")
    save_file({"a": torch.zeros(3)}, tmp_path / "alone.safetensors")
    with pytest.raises(kind, match=sentence):
        prunet_det.load_detector(tmp_path / model, **options)
