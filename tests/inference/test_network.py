"""Networks in a runtime, with what stands around them: the same detections in every way."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector

import prunet_det
from prunet_det.detection.build import build_detector
from prunet_det.inference import network
from prunet_det.inference.load import find_training, select
from prunet_det.inference.network import AUTO, network_engine
from prunet_det.inference.whole import WholeModel
from prunet_det.runtime import RUNTIMES
from prunet_det.runtime.onnx import OnnxRuntime, open_session
from prunet_det.runtime.pytorch import Eager
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import InputError
from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "prunet_effdet.py"
OPTIONS = dict(device="cpu", precision="fp32", batch=1, threads=None)


PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="Letterbox", scale=(256, 256), pad_val=(104, 116, 124)),
    dict(type="PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor")),
]


def config(pipeline=PIPELINE):
    return read_config(CONFIG, {"test_dataloader.dataset.pipeline": list(pipeline)})


def load(runtime="eager", **options):
    options = {"device": "cpu", "score_thr": 0, "config": config(), **options}
    return prunet_det.load_detector(runtime=runtime, **options)


@pytest.fixture(scope="module")
def pictures(digits):
    """Images of three shapes, one of them taller than wide."""
    import cv2

    image = cv2.imread(str(digits / "val" / "000001.jpg"))
    return [image, cv2.resize(image, (400, 260)), np.ascontiguousarray(image[:, :100])]


@pytest.fixture(scope="module")
def eager():
    return load()


def assert_same(found, wanted):
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-3, atol=1e-5)
    assert (found.labels == wanted.labels).all()


def test_as_mmdetection_does(eager, pictures):
    trained = find_training("checkpoints/prunet_demo_digits.safetensors", config())
    model = build_detector(trained.config, trained.weights, classes=trained.classes)
    for picture in pictures:
        found, wanted = eager(picture), inference_detector(model, picture).pred_instances.numpy()
        assert len(found) == len(wanted.scores) == 100
        np.testing.assert_allclose(found.boxes, wanted.bboxes, rtol=1e-4, atol=2e-2)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-6)
        assert (found.labels == wanted.labels).all()
        height, width = picture.shape[:2]
        assert (found.boxes >= 0).all() and (found.boxes <= np.array([width, height] * 2)).all()


def test_a_batch_that_is_not_full(eager, pictures):
    """A detection does not depend on its neighbours, nor on what fills a batch up."""
    for found, wanted in zip(load(batch=2)(pictures), eager(pictures), strict=True):
        assert_same(found, wanted)


def test_channels_last_and_onnx_runtime(eager, pictures):
    detector = load("onnxruntime", batch=2)
    assert repr(detector) == "<Detector of 10 classes, onnxruntime on cpu, batch 2>"
    for found, wanted in zip(detector(pictures), eager(pictures), strict=True):
        assert_same(found, wanted)


def test_a_threshold_gives_the_best_of_all(eager, pictures):
    """It is applied before NMS, where it spares time and changes nothing."""
    everything = eager(pictures[0])
    few = load(score_thr=0.3)(pictures[0])
    assert 0 < len(few) < 20
    assert_same(few, everything[everything.scores >= 0.3])
    assert_same(load(max_per_img=3)(pictures[0]), everything[:3])
    assert len(load(max_per_img=150)(pictures[0])) == 150  # the config's is 100


def test_threads(eager, pictures):
    """Called from four threads, it finds in each image what it finds when called alone."""
    wanted = eager(pictures)
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(eager, [pictures, pictures[::-1]] * 4))
    for i, found in enumerate(several):
        for own, expected in zip(found[:: -1 if i % 2 else 1], wanted, strict=True):
            assert (own.boxes == expected.boxes).all() and (own.scores == expected.scores).all()


class Wrong(Eager):
    """A runtime whose network is another one."""

    runtime = "wrong"

    def prepare(self, network):
        return lambda images: tuple(2 * output for output in network(images))


class Broken(Eager):
    """A runtime that cannot run a network."""

    runtime = "broken"

    def build(self, module, example):
        raise RuntimeError("no kernel\nfor this operator")


class Unwilling(OnnxRuntime):
    """ONNX Runtime, which cannot read the file."""

    runtime = "unwilling"

    def build(self, module, example):
        self.session = open_session(b"no network")


class Absent(Eager):
    """A runtime that is not installed."""

    runtime = "absent"

    @classmethod
    def missing(cls, device):
        return "absent is not installed."


def test_auto_takes_the_first_that_computes_the_same(monkeypatch, caplog, pictures):
    for kind in (Wrong, Broken, Unwilling, Absent):
        monkeypatch.setitem(RUNTIMES, kind.runtime, kind)
    monkeypatch.setitem(AUTO, "cpu", ("absent", "broken", "unwilling", "wrong", "eager"))
    with caplog.at_level(logging.WARNING, "prunet_det.inference"):
        detector = load("auto")
    assert detector.runtime == "eager" and len(detector(pictures[0])) == 100
    first, second, third = (r.message for r in caplog.records)
    assert first == "not run by broken: no kernel for this operator"
    assert "not run by unwilling: ONNX Runtime cannot run the network" in second
    assert "wrong fp32 differs from eager FP32 by a relative L2 error of 1" in third
    with pytest.raises(InputError, match="wrong fp32 differs from eager"):
        load("wrong")
    with pytest.raises(ImportError, match="absent is not installed"):
        load("absent")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("runtime", ["auto", *(name for name in RUNTIMES if name != "compiled")])
def test_on_the_gpu(runtime, eager, pictures):
    """What is sure is the same; of what is hardly seen, rounding decides the order."""
    if runtime in RUNTIMES and (missing := RUNTIMES[runtime].missing("cuda")):
        pytest.skip(missing)
    detector = load(runtime, device="cuda", batch=2)
    for found, wanted in zip(detector(pictures), eager(pictures), strict=True):
        assert_same(found[found.scores >= 0.3], wanted[wanted.scores >= 0.3])


def test_every_runtime_that_auto_takes_is_known():
    for names in network.AUTO.values():
        assert set(names) <= RUNTIMES.keys() and names[-1] == "eager"


def test_what_runs_as_a_whole_only():
    two_stages = read_config(
        ROOT / "configs" / "prunet_faster_rcnn_coco.py",
        {
            "model.backbone": dict(type="PruNet", arch="prunet_demo", out_strides=[4, 8, 16, 32]),
            "model.neck.in_channels": [32, 48, 96, 160],
            "model.roi_head.bbox_head.fc_out_channels": 8,
            "test_dataloader.dataset.pipeline": PIPELINE,
        },
    )
    flip = dict(type="RandomFlip", prob=1.0)
    flipped = build_detector(config([*PIPELINE[:2], flip, PIPELINE[2]]))
    resize = dict(type="Resize", scale=(128, 64), keep_ratio=True)
    wide = build_detector(config([PIPELINE[0], resize, PIPELINE[2]]))
    for detector, sentence in (
        (build_detector(two_stages), "a FasterRCNN runs in eager PyTorch in fp32 alone"),
        (flipped, "the test pipeline has a RandomFlip, which no other runtime knows"),
        (wide, None),
    ):
        select(detector, 0.0, 5)
        assert network_engine(detector, "auto", **OPTIONS) is None
        assert network_engine(detector, "eager", **OPTIONS) is None
        if sentence is None:
            assert network_engine(detector, "channels_last", **OPTIONS).letterbox.size == 128
        else:
            with pytest.raises(InputError, match=sentence):
                network_engine(detector, "channels_last", **OPTIONS)
        engine = WholeModel(detector, "cpu")
        image = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8).numpy()
        (found,) = engine.run([engine.prepare(image)])
        assert len(found.scores) == len(found.labels) <= 5 and found.boxes.shape[1:] == (4,)


def test_a_whole_model_uses_the_threads_and_says_that_it_takes_no_batch(monkeypatch, caplog):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    flip = dict(type="RandomFlip", prob=1.0)
    with caplog.at_level(logging.WARNING, "prunet_det.inference"):
        detector = load("auto", config=config([*PIPELINE[:2], flip, PIPELINE[2]]), threads=1)
        assert not caplog.records and threads == [1] and detector.runtime == "eager"
        flipped = config([*PIPELINE[:2], flip, PIPELINE[2]])
        assert load("auto", config=flipped, batch=2).batch == 1
    assert "runs one image at a time, not 2" in caplog.text
