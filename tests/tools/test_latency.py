"""tools/latency.py: tables for people, JSON lines for machines, refusals in a sentence."""

from __future__ import annotations

import json
import runpy
import sys

import pytest

from prunet_det import load_spec
from tests.conftest import ROOT


@pytest.fixture
def latency(monkeypatch, capfd):
    """Runs the tool in this process; returns what it prints."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["latency", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "tools" / "latency.py"), run_name="__main__")
        out, err = capfd.readouterr()
        assert stop.value.code == 0, err
        return out

    return run


def test_json_lines(latency, tmp_path):
    load_spec("prunet_demo").save(tmp_path / "arch.json")
    names = ("prunet_p0", "gpunet_p1", tmp_path / "arch.json")
    flags = [flag for name in names for flag in ("--model", name)]
    lines = latency("predict", *flags, "--device", "a100", "--batch", 4, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["model"] for r in records] == ["prunet_p0", "prunet_p1", "prunet_demo"]
    for r in records:
        assert (r["device"], r["runtime"], r["precision"]) == ("a100", "tensorrt", "fp16")
        assert (r["batch"], r["input_size"], r["scope"], r["kind"]) == (
            4,
            512,
            "backbone",
            "predicted",
        )
        assert r["low_ms"] < r["latency_ms"] < r["high_ms"]
        assert sum(r["breakdown"].values()) == pytest.approx(r["latency_ms"])


def test_table_and_plots(latency, tmp_path):
    out = latency("predict", "--model", "prunet_p0", "--plots", tmp_path)
    assert "predicted for v100, tensorrt fp16, batch 1, scope backbone, in ms" in out
    assert "prunet_p0" in out and "512" in out and "depthwise" in out
    for what in ("time", "roofline"):
        picture = tmp_path / f"prunet_p0_v100_512_{what}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_timm_network_is_traced_and_warned_about(latency):
    out = latency("predict", "--model", "efficientnet_b0", "--scope", "classifier")
    assert "efficientnet_b0" in out and "224" in out


def test_compare(latency):
    models = ["--model", "gpunet_0", "--model", "prunet_p1"]
    records = [json.loads(r) for r in latency("compare", *models, "--json").splitlines()]
    assert [r["published_ms"] for r in records] == [0.63, None]
    assert records[0]["latency_ms"] == pytest.approx(0.63, rel=0.05)
    out = latency("compare", *models)
    assert "published" in out and "0.63" in out


def test_calibrate_prints_the_errors(latency):
    before = (ROOT / "prunet_det" / "latency" / "devices" / "v100.json").read_bytes()
    out = latency("calibrate", "--device", "v100")
    assert "errors of 35 published points" in out and "left out" in out
    assert (ROOT / "prunet_det" / "latency" / "devices" / "v100.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--model", "prunet_p0", "--device", "tpu"), "no device 'tpu'; the known ones are a100"),
        (("--model", "prunet_p7"), "there is no network 'prunet_p7'"),
        (("--model", "prunet_p0", "--batch", 0), "batch must be a positive integer"),
        (("--model", "prunet_p0", "--input-size", -3), "input size must be a positive integer"),
        (("--model", "gone/arch.json"), "there is no spec file gone/arch.json"),
    ],
)
def test_refusals(refused, args, sentence):
    assert sentence in refused("latency", "predict", *args)


def test_nothing_published(refused):
    assert "no published times of 'h200'" in refused("latency", "calibrate", "--device", "h200")
