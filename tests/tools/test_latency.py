"""tools/latency.py: tables for people, JSON lines for machines."""

from __future__ import annotations

import json

import pytest

from prunet_det import load_spec
from prunet_det.latency import spec_kernels
from prunet_det.utils.env import device_title
from prunet_det.utils.io import read_csv
from tests.conftest import ROOT


@pytest.fixture
def latency(here):
    """Runs the tool in this process; returns what it prints."""

    def run(*args):
        done = here("latency", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

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
    kernels = spec_kernels(load_spec("prunet_p0"), 512)
    assert records[0]["kernels"] == len(kernels)
    assert records[0]["macs"] == sum(k.macs for k in kernels)
    assert records[0]["bytes"] == 2 * sum(k.reads + k.writes + k.weights for k in kernels)


def test_table_and_plots(latency, tmp_path):
    out = latency("predict", "--model", "prunet_p0", "--plots", tmp_path)
    assert "predicted for v100, tensorrt fp16, batch 1, scope backbone, in ms" in out
    assert "prunet_p0" in out and "512" in out and "depthwise" in out
    for what in ("time", "roofline"):
        picture = tmp_path / f"prunet_p0_v100_512_{what}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_whole_detector_is_predicted(latency):
    config = ROOT / "configs" / "prunet_effdet.py"
    flags = ("--model", config, "--input-size", 512, "--json")
    detector = json.loads(latency("predict", *flags, "--scope", "detector"))
    backbone = json.loads(latency("predict", "--model", "prunet_demo", "--json"))
    assert (detector["scope"], detector["model"]) == ("detector", "prunet_effdet")
    assert detector["latency_ms"] > 2 * backbone["latency_ms"]


QUICK = ("--runtime", "channels_last", "--threads", 1, "--seconds", 0.05)


def test_measure(latency, tmp_path):
    """Whole detectors from the pixels on, in lines for machines, in CSV and in a table."""
    models = ("--model", ROOT / "configs" / "prunet_effdet.py", "--scope", "e2e")
    models += ("--checkpoint", ROOT / "checkpoints" / "prunet_demo_digits.safetensors")
    models += ("--batch", 2, "--input-size", 128, *QUICK)
    line = latency("measure", *models, "--json", "--out", tmp_path / "m.csv")
    record = json.loads(line)
    wanted = ("prunet_effdet", "measured", "e2e", "channels_last", "fp32", 2)
    keys = ("model", "kind", "scope", "runtime", "precision", "batch")
    assert tuple(record[key] for key in keys) == wanted
    assert (record["device"], record["threads"]) == (device_title("cpu"), 1)
    assert record["low_ms"] <= record["latency_ms"] <= record["high_ms"]
    assert record["images_per_s"] == pytest.approx(2e3 / record["latency_ms"])
    comments, (row,) = read_csv(tmp_path / "m.csv")
    assert {"command", "versions"} <= comments.keys()
    assert float(row["latency_ms"]) == record["latency_ms"]


def test_compare(latency):
    models = ("--model", "prunet_p0", "--model", "prunet_demo")
    lines = latency("compare", *models, "--no-measure", "--json").splitlines()
    records = [json.loads(line) for line in lines]
    found = [(r["model"], r["kind"]) for r in records]
    published, predicted = "published", "predicted"
    assert found == [("prunet_p0", published), ("prunet_p0", predicted), ("prunet_demo", predicted)]
    assert records[0]["latency_ms"] == 0.63
    assert records[1]["latency_ms"] == pytest.approx(0.63, rel=0.05)
    assert records[0]["input_size"] == records[1]["input_size"]
    out = latency("compare", "--model", "prunet_demo", *QUICK)
    assert "published" in out and "measured here: " in out and "channels_last fp32" in out


@pytest.mark.slow
def test_a_table_is_made_resumed_and_checked(latency, refused, tmp_path):
    """What one does to have one's own device, on a network small enough for a test."""
    out, device = tmp_path / "table.json", tmp_path / "device.json"
    quick = ("--runtime", "eager", "--threads", 1, "--seconds", 0.02)
    flags = ("--model", write_tiny(tmp_path), "--input-size", 64, "--out", out, *quick)
    assert "5 blocks, measured" in latency("table", *flags)
    before = out.read_text()
    assert "5 blocks" in latency("table", *flags) and out.read_text() == before
    assert "45 blocks" in latency("table", *flags, "--variants", 5)
    assert "45 blocks" in latency("calibrate", "--from", out, "--out", device)
    printed = latency(
        *("check", out, "--networks", 3, "--seconds", 0.05, "--fitted", device),
        *("--out", tmp_path / "check.csv"),
    )
    assert "table: mean error" in printed and "fitted model: mean error" in printed
    assert "random_2" in (tmp_path / "check.csv").read_text()
    record = json.loads(latency("predict", "--model", "prunet_demo", "--device", device, "--json"))
    assert (record["runtime"], record["precision"]) == ("eager", "fp32")
    assert "other conditions" in refused("latency", "table", *flags, "--batch", 2)
    data = json.loads(before)
    data["conditions"]["device"] = "another machine"
    out.write_text(json.dumps(data))
    assert "was measured on another machine; this machine has" in refused("latency", "check", out)


def write_tiny(tmp_path):
    """The first stages of prunet_demo, as a file."""
    data = load_spec("prunet_demo").to_dict()
    data["stages"] = data["stages"][:3]
    (tmp_path / "arch.json").write_text(json.dumps(data))
    return tmp_path / "arch.json"


def test_a_predicted_table(latency, tmp_path):
    out = tmp_path / "table.json"
    printed = latency("table", "--model", "prunet_p0", "--device", "v100", "--out", out)
    record = json.loads(latency("predict", "--model", "prunet_p0", "--json"))
    assert f"scope backbone: {record['latency_ms']:.3f} ms" in printed


def test_calibrate_prints_the_errors(latency):
    before = (ROOT / "prunet_det" / "latency" / "devices" / "v100.json").read_bytes()
    out = latency("calibrate", "--device", "v100")
    assert "errors of 35 published points" in out and "left out" in out
    assert (ROOT / "prunet_det" / "latency" / "devices" / "v100.json").read_bytes() == before
