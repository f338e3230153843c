"""An exported file of the shipped detector finds what Python and tools/test.py find."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import prunet_det
from prunet_det.detection.metric import CocoFolderMetric
from prunet_det.inference.exported import ExportedFile
from prunet_det.utils.io import write_json
from tests.conftest import NO_WORKERS, ROOT

CONFIG = ROOT / "configs" / "prunet_effdet.py"
WEIGHTS = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"
SHAPES = ((256, 256), (256, 128), (128, 256), (200, 150), (90, 240), (512, 256))
# Imports nothing of these, as an environment without them.
WITHOUT = ("torch", "torchvision", "mmdet", "mmcv", "mmengine", "cv2", "prunet_det", "onnx")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(here, tmp_path_factory):
    """The shipped detector, as the tool writes it for any batch."""
    path = tmp_path_factory.mktemp("exported") / "d.onnx"
    flags = ("--scope", "e2e", "--batch", "dynamic", "--out", path)
    done = here("export", CONFIG, WEIGHTS, *flags)
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout and f"trtexec --onnx={path}" in done.stdout
    return path


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """Sixty images of six shapes, cut out of two of the digits' side by side, in COCO's format."""
    root = tmp_path_factory.mktemp("six")
    coco = json.loads((digits / "annotations" / "val.json").read_text())
    random = np.random.default_rng(0)
    (root / "val").mkdir()
    images, annotations = [], []
    for i in range(60):
        width, height = SHAPES[i % len(SHAPES)]
        pair = coco["images"][2 * i : 2 * i + 2]
        wide = np.hstack([cv2.imread(str(digits / "val" / p["file_name"])) for p in pair])
        corner = random.integers(0, (512 - width + 1, 256 - height + 1))
        x, y = map(int, corner)
        cv2.imwrite(str(root / "val" / f"{i}.png"), wide[y : y + height, x : x + width])
        images.append(dict(id=i, file_name=f"{i}.png", width=width, height=height))
        for k, picture in enumerate(pair):
            for a in coco["annotations"]:
                if a["image_id"] != picture["id"]:
                    continue
                start = np.add(a["bbox"][:2], (256 * k, 0)) - corner
                first = start.clip(0, (width, height))
                sides = (start + a["bbox"][2:]).clip(0, (width, height)) - first
                if (sides > np.array(a["bbox"][2:]) / 2).all():
                    box = [float(v) for v in (*first, *sides)]
                    annotations.append({**a, "id": len(annotations), "image_id": i, "bbox": box})
    content = dict(images=images, annotations=annotations, categories=coco["categories"])
    write_json(root / "annotations" / "val.json", content)
    return root


def evaluate(folder, predictions):
    """The mAP of boxes in pixels, scores and labels of each image, by the config's own metric."""
    truth = folder / "annotations" / "val.json"
    coco = json.loads(truth.read_text())
    metric = CocoFolderMetric(ann_file=truth, metric="bbox")
    metric.dataset_meta = {"classes": [c["name"] for c in coco["categories"]]}
    for image, (boxes, scores, labels) in zip(coco["images"], predictions, strict=True):
        shape = (image["height"], image["width"])
        values = map(torch.as_tensor, (boxes, scores, labels))
        found = dict(zip(("bboxes", "scores", "labels"), values, strict=True))
        sample = dict(img_id=image["id"], ori_shape=shape, pred_instances=found)
        metric.process({}, [sample])
    return metric.evaluate(len(coco["images"]))["coco/bbox_mAP"]


def run(path, images, batch):
    """What a file finds in images in BGR, `batch` at a time."""
    engine = ExportedFile(path, batch=batch)
    for start in range(0, len(images), batch):
        yield from engine.run([engine.prepare(image) for image in images[start : start + batch]])


def test_the_same_map_everywhere(exported, folder, here, tmp_path):
    paths = [folder / "val" / f"{i}.png" for i in range(60)]
    images = [cv2.imread(str(path)) for path in paths]
    detector = prunet_det.load_detector(WEIGHTS, "eager", score_thr=0)
    found = {
        "Python": evaluate(folder, [(d.boxes, d.scores, d.labels) for d in detector(paths)]),
        "batch 1": evaluate(folder, run(exported, images, 1)),
        "batch 3": evaluate(folder, run(exported, images, 3)),
    }
    truth = "annotations/val.json"
    dataset = dict(type="CocoFolder", data_root=f"{folder}/", ann_file=truth, test_mode=True)
    config, record = tmp_path / "six.py", tmp_path / "record.json"
    config.write_text(
        f"_base_ = [{str(CONFIG)!r}]\n"
        f"dataset = dict(_delete_=True, data_prefix=dict(img='val/'), **{dataset!r})\n"
        "test_dataloader = dict(dataset={**dataset, 'pipeline': _base_.test_pipeline})\n"
        f"test_evaluator = dict(ann_file={str(folder / truth)!r})\n"
    )
    done = here("test", config, WEIGHTS, "--out", record, "--cfg-options", *NO_WORKERS)
    assert done.returncode == 0, done.stderr
    found["test.py"] = json.loads(record.read_text())["metrics"]["bbox_mAP"]
    assert min(found.values()) > 0.3
    # MMDetection's metric rounds to three digits.
    assert round(max(found.values()) - min(found.values()), 6) <= 1e-3, found


def test_the_example_without_pytorch(exported, folder):
    paths = [folder / "val" / f"{i}.png" for i in range(6)]  # of six shapes
    script = ROOT / "examples" / "onnx_only.py"
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({WITHOUT}))\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, exported, *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    detector = prunet_det.load_detector(WEIGHTS, "eager", score_thr=0.25)
    count = 0
    for path in paths:
        found = detector(path)
        own = [line.split() for line in lines if line.startswith(f"{path} ")]
        for _, name, score, *box in own:  # the example rounds pixels in another way: one grey level
            near = np.abs(found.boxes - np.array(box, float)).max(axis=1) < 1.5
            near &= np.abs(found.scores - float(score)) < 0.05
            assert any(near & (np.array(found.names) == name)), (path, name, score, box)
        assert len(own) >= sum(found.scores > 0.35)
        count += len(own)
    assert count > 10
