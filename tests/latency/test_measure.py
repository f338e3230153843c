"""Networks measured on this machine: what a record says, and what is no latency."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from prunet_det.latency.measure import default_runtime, local_conditions, measure
from prunet_det.latency.record import Latency
from prunet_det.runtime.subject import load_subject
from prunet_det.utils.env import device_title
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import read_csv, write_csv


def eager(**settings):
    return local_conditions("cpu", **{"runtime": "eager", **settings})


@pytest.fixture(scope="module")
def subject():
    return load_subject("prunet_demo", input_size=64)


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


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_outputs_that_are_not_finite_are_no_latency(subject, runtime):
    module = torch.nn.Conv2d(3, 4, 3)
    torch.nn.init.constant_(module.weight, float("nan"))
    broken = replace(subject, name="broken", module=module)
    with pytest.raises(ValueError, match=r"is not finite: its latency would mean nothing"):
        measure([broken], local_conditions("cpu", runtime))


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
    detector = SimpleNamespace(
        data_preprocessor=lambda data, _: {"inputs": torch.stack(data["inputs"]) / 255}
    )
    seen = replace(subject, picture=picture, detector=detector)
    assert torch.equal(seen.pixels(2), torch.stack([picture, picture]))
    assert torch.equal(seen.images(2), torch.stack([picture, picture]) / 255)


def test_elsewhere_nothing_is_measured(subject):
    conditions = replace(eager(), device="NVIDIA Jetson Orin", threads=0)
    with pytest.raises(InputError, match="Jetson Orin is not here"):
        measure([subject], conditions)


def test_what_deployments_use():
    assert default_runtime("cpu") == ("onnxruntime", "fp32")
    assert default_runtime("cuda:1") == ("cuda_graph", "fp16")
