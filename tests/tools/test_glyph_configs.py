"""The configs of the embedded glyphs, on a set of a few images."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from prunet_det.datasets import build
from prunet_det.datasets.glyphs import GlyphsSet
from prunet_det.training import launch
from tests.conftest import ROOT


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains two iterations of a config on a few images and evaluates; returns the metrics."""
    monkeypatch.setitem(build.SETS, "glyphs", GlyphsSet(counts=(("train", 8), ("val", 4))))

    def run(config, *options):
        MMLogger._instance_dict.clear()
        parser = argparse.ArgumentParser()
        launch.add_common_flags(parser)
        quick = ["train_cfg.val_interval=2", "train_dataloader.batch_size=2"]
        for split in ("train", "val"):
            quick += [f"{split}_dataloader.num_workers=0"]
            quick += [f"{split}_dataloader.persistent_workers=False"]
        flags = ["--data-root", str(tmp_path / "glyphs"), "--work-dir", str(tmp_path / "work")]
        args = [
            str(ROOT / "configs" / config),
            *flags,
            "--cfg-options",
            *quick,
            *options,
        ]
        cfg = launch.load_config(parser.parse_args(args))
        launch.set_max_iters(cfg, 2)
        runner = launch.build_runner(cfg)
        init_default_scope(cfg.default_scope)
        runner.train()
        logged = next((tmp_path / "work").rglob("scalars.json")).read_text()
        return [json.loads(line) for line in logged.splitlines()]

    return run


def test_detector(train):
    small = [
        "train_dataloader.dataset.pipeline.2.scale=(128,128)",
        "train_dataloader.dataset.pipeline.3.crop_size=(128,128)",
        "val_dataloader.dataset.pipeline.1.scale=(128,128)",
    ]
    small += ["model.backbone.arch=prunet_demo", "model.test_cfg.score_thr=0"]
    lines = train("detection/prunet_effdet_glyphs.py", *small)
    assert any("coco/bbox_mAP" in line for line in lines)


def test_classifier(train):
    lines = train("classification/prunet_glyphs.py", "model.arch=prunet_demo")
    assert any("accuracy/top1" in line and "accuracy/top5" in line for line in lines)


@pytest.mark.parametrize("name", ["gpunet", "efficientnet"])
def test_the_other_backbones_build(name):
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / "configs" / "detection" / f"{name}_effdet_glyphs.py")
    init_default_scope("mmdet")
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert model.bbox_head.num_classes == 90
    assert model.bbox_head.grid.strides == (8, 16, 32, 64, 128)
