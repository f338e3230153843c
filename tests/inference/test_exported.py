"""Exported files as detectors, and without MMDetection."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import prunet_det
from prunet_det.detection.build import build_detector
from prunet_det.detection.end_to_end import Selection
from prunet_det.detection.export import FileOptions, export_end_to_end
from prunet_det.detection.letterbox import Letterbox
from prunet_det.inference.load import find_training
from prunet_det.runtime.onnx import onnx_bytes
from prunet_det.utils.errors import InputError
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # a whole export
SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped detector, for any batch."""
    trained = find_training(SHIPPED)
    detector = build_detector(trained.config, trained.weights)
    path = tmp_path_factory.mktemp("exported") / "digits.onnx"
    letterbox = Letterbox.from_config(detector.cfg)
    selection = Selection.of_head(detector.bbox_head)
    options = FileOptions(batch=None)
    about = {"classes": trained.classes}
    export_end_to_end(detector, path, letterbox, selection, options, about)
    return path


@pytest.mark.parametrize("batch", [1, 2])
def test_as_the_python_detector_does(exported, digits, batch):
    import cv2

    image = cv2.imread(str(digits / "val" / "000001.jpg"))
    pictures = [image, cv2.resize(image, (400, 260)), np.ascontiguousarray(image[:, :100])]
    options = dict(device="cpu", score_thr=0.05)
    python = prunet_det.load_detector(SHIPPED, "eager", **options)(pictures)
    detector = prunet_det.load_detector(exported, batch=batch, **options)
    assert detector.classes == tuple("0123456789") and detector.runtime == "onnxruntime"
    for found, wanted in zip(detector(pictures), python, strict=True):
        assert len(found) == len(wanted) > 0
        np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=1e-3, atol=5e-2)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-3, atol=1e-4)
        assert (found.labels == wanted.labels).all()


def test_refusals(exported, tmp_path):
    with pytest.raises(InputError, match="runs in ONNX Runtime, in the precision"):
        prunet_det.load_detector(exported, "channels_last", device="cpu")
    with pytest.raises(InputError, match="10 classes, but 1 names"):
        prunet_det.load_detector(exported, classes=["a"], device="cpu")
    other = tmp_path / "network.onnx"
    other.write_bytes(onnx_bytes(torch.nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)))
    with pytest.raises(InputError, match="does not go from pixels to boxes; write it with"):
        prunet_det.load_detector(other, device="cpu")
    other.write_text("no network")
    with pytest.raises(InputError, match="cannot be used: ONNX Runtime cannot run"):
        prunet_det.load_detector(other, device="cpu")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        prunet_det.load_detector(tmp_path / "gone.onnx", device="cpu")


def test_a_gpu_that_onnx_runtime_cannot_use(exported, monkeypatch, caplog):
    """It is not said to be used: the CPU is, with a warning, unless somebody asked for the GPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with caplog.at_level(logging.WARNING, "prunet_det.inference"):
        for runtime in ("auto", "onnxruntime"):
            assert prunet_det.load_detector(exported, runtime).device == "cpu"
    assert "digits.onnx runs on cpu: this onnxruntime has no CUDA" in caplog.text
    with pytest.raises(ImportError, match="this onnxruntime has no CUDA"):
        prunet_det.load_detector(exported, device="cuda")


def test_it_needs_no_mmdetection(exported, digits):
    code = f"""
import sys
for name in ("mmengine", "mmcv", "mmdet", "pycocotools", "onnx", "onnxscript", "scipy"):
    sys.modules[name] = None
import prunet_det
detector = prunet_det.load_detector({str(exported)!r}, device="cpu")
print(len(detector({str(digits / "val" / "000001.jpg")!r})) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr
