"""Predictions: what they are made of, how sure they are, and that they come many at once."""

from __future__ import annotations

import json

import pytest
import torch

import prunet_det
from prunet_det.latency import (
    Latency,
    device_names,
    load_device,
    predict,
    predict_module,
    spec_kernels,
)
from prunet_det.latency.device import KernelArrays, total_ms

NAMES = prunet_det.model_names()


@pytest.mark.parametrize("device", device_names())
@pytest.mark.parametrize("name", NAMES)
def test_components_sum_to_the_latency(name, device):
    for batch in (1, 16):
        p = predict(name, device, batch)
        assert sum(p.breakdown.values()) == pytest.approx(p.latency.ms, rel=1e-9)
        assert p.latency.low < p.latency.ms < p.latency.high
        assert min(p.breakdown.values()) >= 0


def test_more_work_takes_longer():
    sizes = [predict("prunet_p0", input_size=s).latency.ms for s in (224, 320, 512, 640)]
    batches = [predict("prunet_p0", batch=b).latency.ms for b in (1, 2, 8, 64)]
    assert sizes == sorted(sizes) and batches == sorted(batches)
    assert batches[-1] < 64 * batches[0]


def test_a_traced_network_costs_the_same():
    with torch.device("meta"):
        net = prunet_det.create("prunet_p0", features_only=True, padding="same")
    traced = predict_module(net, "prunet_p0").latency.ms
    assert traced == pytest.approx(predict("prunet_p0").latency.ms, rel=1e-6)


def test_scopes_have_their_own_default_size():
    assert predict("gpunet_0", scope="classifier").latency.input_size == 320
    assert predict("gpunet_0").latency.input_size == 512


def test_far_from_the_calibrated_networks_is_said():
    near, far = predict("prunet_p0"), predict("prunet_demo", input_size=64)
    assert near.warnings == ()
    assert "outside of what v100 was calibrated on" in far.warnings[0]
    assert far.latency.note == far.warnings[0]
    spread = [p.latency.high / p.latency.ms for p in (near, far)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (torch.nn.Conv2d(3, 6, 3, groups=3), "grouped convolutions"),
        (torch.nn.Conv2d(3, 3, 9, groups=3), "convolutions above 7x7"),
    ],
)
def test_kernels_that_no_device_was_calibrated_on_are_said(layer, what):
    assert what in predict_module(layer, "odd", input_size=32).warnings[0]


def test_unknown_operators_warn():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1)

    assert "left out: cumsum (1)" in predict_module(Odd(), "odd").warnings[-1]


def test_many_networks_are_priced_by_one_call():
    """As a search prices them: no loop over networks, and the same milliseconds."""
    device = load_device("v100")
    networks = [spec_kernels(prunet_det.load_spec(name), 512) for name in NAMES]
    found = total_ms(KernelArrays(networks), device, 1)
    assert found.shape == (len(NAMES),)
    expected = [predict(name, device).latency.ms for name in NAMES]
    assert found == pytest.approx(expected, rel=1e-9)


def test_records():
    record = predict("prunet_p0").latency
    assert Latency.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    for change, sentence in (
        ({"kind": "guessed"}, "kind is one of"),
        ({"scope": "half"}, "no scope 'half'"),
        ({"latency_ms": float("nan")}, "0 < low <= value <= high"),
        ({"low_ms": 0.0}, "0 < low <= value <= high"),
        ({"gpu": 1}, "unknown key 'gpu'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Latency.from_dict({**record.to_dict(), **change})
    with pytest.raises(ValueError, match="'device' is missing"):
        Latency.from_dict({k: v for k, v in record.to_dict().items() if k != "device"})


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"batch": 0}, "batch must be a positive integer"),
        ({"batch": 1.5}, "batch must be a positive integer"),
        ({"input_size": 0}, "input size must be a positive integer"),
        ({"device": "h900"}, "no device 'h900'; the known ones are a100, h100, v100"),
        ({"scope": "e2e"}, "scope must be classifier or backbone"),
    ],
)
def test_refusals(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        predict("prunet_p0", **kwargs)


def test_a_damaged_device_file(tmp_path):
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="is no device file"):
        predict("prunet_p0", str(tmp_path / "x.json"))
