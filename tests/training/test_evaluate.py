"""Evaluation on data whose categories are in another order than the classes of the weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from prunet_det.detection.build import build_detector
from prunet_det.training.evaluate import read_classes, release
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import InputError
from tests.conftest import ROOT, forget_runs

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture
def weights(tmp_path):
    """The digits' own, beside the record of a training."""
    path = tmp_path / "weights.safetensors"
    shutil.copy(ROOT / "checkpoints" / "prunet_demo_digits.safetensors", path)
    (tmp_path / "train.json").write_text(json.dumps({"classes": NAMES}))
    return path


@pytest.fixture
def reordered(digits, tmp_path):
    """A config that tests on four images, in whose file the categories are turned round."""
    coco = json.loads((digits / "annotations" / "val.json").read_text())
    assert [category["name"] for category in coco["categories"]] == NAMES
    ids = [image["id"] for image in coco["images"][:4]]
    coco["images"] = coco["images"][:4]
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    coco["categories"] = coco["categories"][::-1]
    (tmp_path / "val.json").write_text(json.dumps(coco))
    data = dict(data_root=str(digits), ann_file=str(tmp_path / "val.json"))
    loader = dict(dataset=data, num_workers=0, persistent_workers=False)
    path = tmp_path / "own.py"
    path.write_text(
        f"_base_ = {str(ROOT / 'configs' / 'prunet_effdet.py')!r}\n"
        f"test_dataloader = {loader}\n"
        f"test_evaluator = dict(ann_file={data['ann_file']!r})\n"
    )
    return path


def test_released_weights_keep_their_labels(weights, reordered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forget_runs()
    card = release(str(reordered), weights, tmp_path / "out.safetensors")
    assert card["classes"] == NAMES == read_classes(tmp_path / "out.safetensors")
    assert card["metrics"]["bbox_mAP"] > 0.3


def test_a_benchmark_keeps_the_labels(weights, reordered):
    from prunet_det.benchmark.evaluate import evaluate

    cfg = read_config(reordered)
    detector = build_detector(cfg, weights)

    def predict(batch):
        with torch.inference_mode():
            return [sample.to_dict() for sample in detector.test_step(batch)]

    assert evaluate(cfg, predict, NAMES)["mAP"] > 0.3
    with pytest.raises(InputError, match="different classes, or in another order"):
        evaluate(cfg, predict, NAMES[::-1])  # than the config says by now
