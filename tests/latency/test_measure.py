"""Networks measured on this machine: what a record says, and what is no latency."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunet_det.latency.measure import default_runtime, measure
from prunet_det.runtime.subject import load_subject
from prunet_det.utils.env import device_title
from prunet_det.utils.io import read_csv, write_csv


@pytest.fixture(scope="module")
def subject():
    return load_subject("prunet_demo", input_size=64)


def test_a_record_knows_what_it_is_of(subject, tmp_path):
    (found,) = measure([subject], "eager", batch=2, threads=1, seconds=0.05)
    latency = found.latency
    assert (latency.kind, latency.scope, latency.device) == (
        "measured",
        "backbone",
        device_title("cpu"),
    )
    assert (latency.batch, latency.threads, latency.input_size) == (2, 1, 64)
    assert bool(latency.note) == bool(found.timing.unstable)
    write_csv(tmp_path / "x.csv", [found.to_dict()], "python x.py")
    header, (record,) = read_csv(tmp_path / "x.csv")
    assert {"command", "commit", "date", "machine", "versions"} <= header.keys()
    assert header["command"] == "python x.py"
    assert float(record["latency_ms"]) == latency.latency_ms and record["batch"] == "2"
    (tmp_path / "empty.csv").write_text("# command: x\nmodel\n")
    with pytest.raises(ValueError, match=r"empty\.csv holds no records"):
        read_csv(tmp_path / "empty.csv")


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_outputs_that_are_not_finite_are_no_latency(subject, runtime):
    module = torch.nn.Conv2d(3, 4, 3)
    torch.nn.init.constant_(module.weight, float("nan"))
    broken = replace(subject, name="broken", module=module)
    with pytest.raises(ValueError, match=r"is not finite: its latency would mean nothing"):
        measure([broken], runtime)


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
        measure([subject], **{"runtime": "eager", **wrong})


def test_what_deployments_use():
    assert default_runtime("cpu") == ("onnxruntime", "fp32")
    assert default_runtime("cuda:1") == ("cuda_graph", "fp16")
