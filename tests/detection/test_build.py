"""Detectors from configs and weights, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from prunet_det.detection.build import NetworkPart, build_detector
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "prunet_effdet.py"
SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ("a", "b")}, "10 classes, but 2 names"),
        ({"config": "configs/classification/prunet_digits.py"}, "is no detector's config"),
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


def test_what_a_backbone_was_started_from_need_not_be_here():
    cfg = read_config(CONFIG, {"model.backbone.checkpoint": "gone.safetensors"})
    build_detector(cfg, SHIPPED)
    with pytest.raises(UserError, match="there is no checkpoint gone"):
        build_detector(cfg)
    assert cfg.model.backbone.checkpoint == "gone.safetensors"


def test_two_stages():
    options = {
        "model.backbone": dict(type="PruNet", arch="prunet_demo", out_strides=[4, 8, 16, 32]),
        "model.neck.in_channels": [32, 48, 96, 160],
        "model.roi_head.bbox_head.fc_out_channels": 8,
    }
    cfg = read_config(ROOT / "configs" / "prunet_faster_rcnn_coco.py", options)
    with pytest.raises(UserError, match="80 classes, but 2 names were given"):
        build_detector(cfg, classes=("a", "b"))
    with pytest.raises(UserError, match="a FasterRCNN is no one-stage detector"):
        NetworkPart(build_detector(cfg), 64)
