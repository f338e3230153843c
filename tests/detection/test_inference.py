"""Detectors from weights and a card, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from prunet_det.detection.build import build_detector
from prunet_det.detection.inference import detect, read_card
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "prunet_effdet.py"
SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


def test_a_card_says_config_and_classes(tmp_path):
    assert read_card(SHIPPED)["classes"] == list("0123456789")
    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="has no readable card w.json"):
        read_card(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ("a", "b")}, "10 classes, but 2 names"),
        ({"config": "configs/classification/prunet_digits.py"}, "is no one-stage detector"),
        ({"checkpoint": "gone.safetensors"}, "there is no checkpoint"),
        pytest.param(
            {"device": "cuda"},
            "there is no CUDA device cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_refusals(change, sentence):
    given = dict(config=CONFIG, checkpoint=SHIPPED, classes=tuple("0123456789"))
    with pytest.raises((UserError, FileNotFoundError), match=sentence):
        build_detector(**{**given, **change})


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    model = build_detector(CONFIG, SHIPPED, classes=tuple("0123456789"))
    with pytest.raises(UserError, match="no image that can be read"):
        list(detect(model, [tmp_path / "a.png"]))
