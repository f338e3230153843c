"""Networks measured on this machine: what a record says, and what is no latency."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor

from prunet_det.latency.measure import _Preparing, default_runtime, local_conditions, measure
from prunet_det.latency.record import Failure, Latency, read_latencies
from prunet_det.latency.subject import load_named
from prunet_det.runtime.subject import Scope
from prunet_det.utils.env import device_title
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import read_csv, write_csv
from tests.conftest import ROOT


def eager(**settings):
    return local_conditions("cpu", **{"runtime": "eager", **settings})


@pytest.fixture(scope="module")
def subject():
    return load_named("prunet_demo", input_size=64)


def test_a_record_knows_what_it_is_of(subject, tmp_path):
    (found,) = measure([subject], eager(batch=2, threads=1), seconds=0.05)
    latency = found.latency
    assert (latency.kind, latency.scope, latency.input_size) == ("measured", "backbone", 64)
    assert str(latency.conditions) == f"{device_title('cpu')}, eager fp32, batch 2, 1 thread"
    assert Latency.from_row(found.to_dict()) == latency
    assert bool(latency.note) == bool(found.timing.unstable)
    write_csv(tmp_path / "x.csv", [found.to_dict()], "python x.py")
    header, (record,) = read_csv(tmp_path / "x.csv")
    assert {"command", "commit", "date", "machine", "versions"} <= header.keys()
    assert header["command"] == "python x.py"
    assert float(record["latency_ms"]) == latency.ms and record["batch"] == "2"
    (tmp_path / "empty.csv").write_text("# command: x\nmodel\n")
    with pytest.raises(ValueError, match=r"empty\.csv holds no records"):
        read_csv(tmp_path / "empty.csv")


class Raises(torch.nn.Module):
    """A network with a bug of its own."""

    def forward(self, x):
        raise KeyError("stage9")


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_network_that_fails_is_a_row_and_the_others_are_timed(subject, runtime):
    not_finite = torch.nn.Conv2d(3, 4, 3)
    torch.nn.init.constant_(not_finite.weight, float("nan"))
    broken = replace(subject, name="broken", module=not_finite)
    buggy = replace(subject, name="buggy", module=Raises())
    found = measure([broken, subject, buggy], local_conditions("cpu", runtime), seconds=0.05)
    first, good, last = found
    assert isinstance(first, Failure) and "is not finite: its latency would" in first.reason
    assert isinstance(last, Failure) and "stage9" in last.reason
    assert good.latency.model == "prunet_demo" and good.difference < 1e-4
    assert read_latencies(f.to_dict() for f in found) == [good.latency]
    row = first.to_dict()
    assert (
        row["latency_ms"] is None and row["failed"] == first.reason and not good.to_dict()["failed"]
    )
    assert row.keys() < good.to_dict().keys()
    (alone,) = measure([broken], local_conditions("cpu", runtime), seconds=0.05)
    assert isinstance(alone, Failure)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch": 0}, "batch must be a positive integer, got 0"),
        ({"threads": 0}, "number of threads must be a positive integer, got 0"),
        ({"seconds": 0}, "seconds > 0"),
        ({"runtime": "tflite"}, "no runtime 'tflite'; the known ones are eager"),
    ],
)
def test_impossible_numbers(subject, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        seconds = wrong.pop("seconds", 2.0)
        measure([subject], eager(**wrong), seconds=seconds)


def test_a_picture_is_what_runs(subject):
    """Pixels end to end and the network's input are of one picture, in the detector's scale."""
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    preprocessor = DetDataPreprocessor(mean=[1] * 3, std=[2] * 3, pad_size_divisor=128)
    seen = replace(
        subject, picture=picture, detector=SimpleNamespace(data_preprocessor=preprocessor)
    )
    assert torch.equal(seen.pixels(2), torch.stack([picture, picture]))
    assert torch.equal(seen.images(2), (torch.stack([picture, picture]) - 1.0) / 2)  # not padded


def test_elsewhere_nothing_is_measured(subject):
    conditions = replace(eager(), device="NVIDIA Jetson Orin", threads=0)
    with pytest.raises(InputError, match="Jetson Orin is not here"):
        measure([subject], conditions)


def test_what_deployments_use():
    assert default_runtime("cpu") == ("onnxruntime", "fp32")
    assert default_runtime("cuda:1") == ("cuda_graph", "fp16")


@pytest.fixture(scope="module")
def detector():
    return load_named(
        ROOT / "configs" / "prunet_effdet.py",
        "e2e",
        128,
        ROOT / "checkpoints" / "prunet_demo_digits.safetensors",
    )


def test_end_to_end_beside_mmdetection(detector):
    subject = replace(detector, picture=picture())
    found = measure([subject], eager(threads=1), seconds=0.05, beside_mmdet=True)
    ours, theirs = (m.latency for m in found)
    assert (ours.conditions.runtime, theirs.conditions.runtime) == ("eager", "mmdet")
    assert theirs.conditions.precision == "fp32" and theirs.scope is ours.scope is Scope.E2E
    assert found[1].difference == 0 and theirs.ms > 0
    assert len(measure([subject], eager(threads=1), seconds=0.05)) == 1


def picture():
    """Digits that the detector finds, (3, 128, 128) uint8."""
    image = np.full((128, 128, 3), 40, np.uint8)
    for i, text in enumerate("357"):
        where = (8 + 38 * i, 50 + 25 * i)
        cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, 1.6, (230, 220, 200), 4)
    return torch.from_numpy(image).permute(2, 0, 1)


def test_both_ways_find_the_same_boxes(detector):
    """What is compared does the same work: pictures in memory to boxes, scores and labels."""
    subject = replace(detector, picture=picture())
    preparing = _Preparing(eager(threads=1), "cpu")
    ours, _ = preparing.program(subject)
    theirs, _ = preparing.mmdet(subject)
    (found,), (wanted,) = ours.run(), theirs.run()
    wanted = wanted.pred_instances.numpy()
    assert len(found) == len(wanted.scores) > 0
    np.testing.assert_allclose(found.boxes, wanted.bboxes, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    assert (found.labels == wanted.labels).all()


def test_timing_end_to_end_leaves_the_detector_where_it_is(detector):
    """Its copy goes to the device: other programs are made of the network that was given."""
    preparing = _Preparing(eager(), "meta")
    moved = preparing._detector(detector)
    assert next(moved.parameters()).is_meta and preparing._detector(detector) is moved
    assert not any(p.is_meta for p in detector.detector.parameters())
    assert detector.module.backbone is detector.detector.backbone
