"""tools/latency.py: tables for people, JSON lines for machines."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import ClassVar

import pytest
import timm
import torch

from prunet_det import load_spec
from prunet_det.latency import spec_kernels
from prunet_det.latency.measure import local_conditions
from prunet_det.latency.record import read_latencies
from prunet_det.utils.env import device_title
from prunet_det.utils.io import read_csv, write_csv
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


@pytest.fixture
def broken():
    """A network of timm's with an operator that ONNX does not have, by its name."""

    class Bessel(torch.nn.Sequential):
        pretrained_cfg: ClassVar = {"input_size": (3, 64, 64)}

        def forward(self, x):
            return torch.special.bessel_j0(super().forward(x))

    def resnet_bessel(pretrained=False, **kwargs):
        return Bessel(torch.nn.Conv2d(3, 4, 3))

    timm.models.register_model(resnet_bessel)
    yield "resnet_bessel"
    timm.models._registry._model_entrypoints.pop("resnet_bessel")


def test_one_of_five_networks_fails(here, broken, tmp_path, refused):
    names = ("prunet_demo", "resnet10t", broken, "resnet18", "efficientnet_lite0")
    models = [flag for name in names for flag in ("--model", name)]
    flags = (*models, "--scope", "classifier", "--input-size", 64, "--threads", 1)
    flags += ("--runtime", "onnxruntime", "--seconds", 0.02)
    done = here("latency", "measure", *flags, "--json", "--out", tmp_path / "m.csv")
    assert done.returncode == 1, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["model"] for r in records] == list(names)
    assert [r["latency_ms"] is None for r in records] == [name == broken for name in names]
    assert "bessel_j0" in records[2]["failed"] and not any(r["failed"] for r in records[3:])
    rows = read_csv(tmp_path / "m.csv")[1]
    assert [r["model"] for r in rows] == list(names) and rows[2]["latency_ms"] == ""
    assert "bessel_j0" in rows[2]["failed"] and len(read_latencies(rows)) == 4

    few = ("--model", "prunet_demo", "--model", broken, *flags[-6:])
    done = here("latency", "measure", *few, "--input-size", 64)
    assert done.returncode == 1, done.stderr
    assert "failed: " in done.stdout and "prunet_demo" in done.stdout
    done = here("latency", "compare", *few)
    assert done.returncode == 1 and "bessel_j0" in done.stdout
    assert "prunet_demo" in done.stdout and "measured here" in done.stdout
    assert "no network 'resnet19'" in refused("latency", "measure", *flags, "--model", "resnet19")
    assert "no network 'resnet19'" in refused("latency", "compare", *few, "--model", "resnet19")


def test_beside_mmdetection_is_for_whole_detectors(refused):
    sentence = refused("latency", "measure", "--model", "prunet_demo", "--beside-mmdet")
    assert "give --scope e2e" in sentence


def test_a_table_without_a_block_that_fails(here, monkeypatch, tmp_path):
    """The others are measured; the file goes on where one of them was missing."""
    import prunet_det.latency.block_timer as timer

    make = timer.make_program

    def make_but_one(module, *args):
        if isinstance(module, timer.Repeated) and module.blocks[0].spec.out_chs == 48:
            raise RuntimeError("the device is out of memory\nat a line")
        return make(module, *args)

    flags = ("table", "--model", write_tiny(tmp_path), "--input-size", 64)
    flags += ("--out", tmp_path / "table.json", "--runtime", "eager", "--threads", 1)
    with monkeypatch.context() as patch:
        patch.setattr(timer, "make_program", make_but_one)
        done = here("latency", *flags, "--seconds", 0.02)
    assert done.returncode == 1
    assert "RuntimeError: the device is out of memory\n" in done.stdout
    assert "scope backbone: 2 blocks failed" in done.stdout
    done = here("latency", *flags, "--seconds", 0.02)
    assert done.returncode == 0 and "5 blocks, measured" in done.stdout


def test_a_table_needs_scipy_before_it_measures(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    flags = ("--model", "prunet_demo", "--out", tmp_path / "table.json")
    assert "prunet_det[det]" in refused("latency", "table", *flags)
    assert not list(tmp_path.iterdir())


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


def test_calibrate_prints_the_errors(latency, monkeypatch):
    from prunet_det.latency import calibrate

    def leave_out(device, points, groups):  # without the ten fits, which have a test of their own
        return [calibrate.errors(device, [p for p in points if p.network in g]) for g in groups]

    monkeypatch.setattr(calibrate, "leave_out", leave_out)
    before = (ROOT / "prunet_det" / "latency" / "devices" / "v100.json").read_bytes()
    out = latency("calibrate", "--device", "v100")
    assert "errors of 49 published points" in out and "left out" in out
    assert (ROOT / "prunet_det" / "latency" / "devices" / "v100.json").read_bytes() == before


def test_a_check_is_of_the_tables_own_device(refused, monkeypatch, tmp_path):
    """What is measured is never filed under another device's name."""
    from prunet_det.latency import table as tables
    from prunet_det.utils import env

    out = tmp_path / "table.json"
    keys = tables.network_blocks(load_spec("prunet_demo"), 64)
    table = tables.predict_table(keys)
    table.save(out)
    assert "a check needs a measured table" in refused("latency", "check", out, "--force")
    titles = {"cpu": "a CPU", "cuda:0": "a GPU"}
    monkeypatch.setattr(tables, "local_devices", lambda: titles)
    monkeypatch.setattr(env, "device_title", titles.get)
    conditions = local_conditions("cpu", "eager", threads=1)
    tables.Table(replace(conditions, device="a GPU"), "measured", table.entries).save(out)
    sentence = refused("latency", "check", out, "--device", "cpu")
    assert "was measured on a GPU, cpu is a CPU" in sentence


def test_predict_goes_on_where_one_network_fails(here):
    """The others' rows are printed, and the exit code says that one is missing."""
    flags = ("predict", "--model", "prunet_demo", "--model", "vit_tiny_patch16_224")
    done = here("latency", *flags)
    assert done.returncode == 1, done.stderr
    assert "failed: " in done.stdout and "prunet_demo" in done.stdout
    done = here("latency", *flags, "--json")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1 and first["latency_ms"] > 0
    assert second["latency_ms"] is None and second["failed"]


def test_calibrating_without_a_network_that_failed(latency, tmp_path):
    results = ROOT / "docs" / "results" / "latency"
    lines = (results / "h100_backbone.csv").read_text().splitlines()
    header = next(line for line in lines if not line.startswith("#")).split(",")
    records = read_csv(results / "h100_backbone.csv")[1]
    for key in ("latency_ms", "low_ms", "high_ms"):
        records[0][key] = ""
    records[0]["failed"] = "no memory"
    names = [*header, *({"failed"} - set(header))]
    write_csv(tmp_path / "m.csv", [{k: r.get(k, "") for k in names} for r in records], "measure")
    flags = (
        "--device",
        "h100",
        "--from",
        results / "h100_blocks.json",
        "--out",
        tmp_path / "d.json",
    )
    assert "9 networks" in latency("calibrate", *flags, "--networks", tmp_path / "m.csv")


def test_a_named_device_is_judged_and_not_written(latency):
    """As docs/latency.md has it."""
    results = ROOT / "docs" / "results" / "latency"
    files = ("--from", results / "h100_blocks.json", "--networks", results / "h100_backbone.csv")
    out = latency("calibrate", "--device", "h100", *files)
    assert "10 networks measured whole" in out and "written" not in out
