"""tools/latency.py: tables for people, JSON lines for machines, refusals in a sentence."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess

import pytest

from prunet_det import create, load_spec
from prunet_det.latency import spec_kernels
from prunet_det.utils.env import device_title
from prunet_det.zoo.weights import save_safetensors
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


def test_a_timm_network_is_traced_and_warned_about(latency):
    out = latency("predict", "--model", "efficientnet_b0", "--scope", "classifier")
    assert "efficientnet_b0" in out and "224" in out


def test_a_whole_detector_is_predicted(latency):
    config = ROOT / "configs" / "detection" / "prunet_effdet.py"
    flags = ("--model", config, "--input-size", 512, "--json")
    detector = json.loads(latency("predict", *flags, "--scope", "detector"))
    backbone = json.loads(latency("predict", "--model", "prunet_demo", "--json"))
    assert (detector["scope"], detector["model"]) == ("detector", "prunet_effdet")
    assert detector["latency_ms"] > 2 * backbone["latency_ms"]


QUICK = ("--runtime", "channels_last", "--threads", 1, "--seconds", 0.05)


def test_measure(latency, tmp_path):
    models = ("--model", "prunet_demo", "--model", "resnet10t", "--input-size", 64, *QUICK)
    lines = latency("measure", *models, "--json", "--out", tmp_path / "m.csv").splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["model"] for r in records] == ["prunet_demo", "resnet10t"]
    for r in records:
        assert (r["kind"], r["scope"], r["runtime"]) == ("measured", "backbone", "channels_last")
        assert (r["device"], r["threads"], r["precision"]) == (device_title("cpu"), 1, "fp32")
        assert r["low_ms"] <= r["latency_ms"] <= r["high_ms"] <= r["p99_ms"] * (1 + 1e-9)
        assert r["images_per_s"] == pytest.approx(1e3 / r["latency_ms"])
        assert r["difference"] < 1e-3 and r["rounds"] >= 11
    text = (tmp_path / "m.csv").read_text().splitlines()
    head, rows = [t for t in text if t.startswith("#")], list(csv.DictReader(text[len(text) - 3 :]))
    assert any(t.startswith("# command: ") for t in head) and any("# versions" in t for t in head)
    assert float(rows[1]["latency_ms"]) == records[1]["latency_ms"]
    assert "measured on" in latency("measure", *models)


@pytest.mark.parametrize("scope", ["detector", "e2e"])
def test_measure_a_detector(latency, scope):
    flags = (
        "--model",
        ROOT / "configs" / "detection" / "prunet_effdet.py",
        "--input-size",
        128,
        "--json",
    )
    flags += ("--checkpoint", ROOT / "checkpoints" / "prunet_demo_digits.safetensors")
    record = json.loads(latency("measure", *flags, *QUICK, "--batch", 2, "--scope", scope))
    assert (record["scope"], record["batch"]) == (scope, 2)


def test_compare(latency):
    models = ("--model", "prunet_p0", "--model", "prunet_demo")
    lines = latency("compare", *models, *QUICK, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    found = [(r["model"], r["kind"]) for r in records]
    kinds = ("published", "predicted", "measured")
    assert found == [*(("prunet_p0", k) for k in kinds), *(("prunet_demo", k) for k in kinds[1:])]
    assert records[0]["latency_ms"] == 0.63
    assert records[1]["latency_ms"] == pytest.approx(0.63, rel=0.05)
    assert len({r["input_size"] for r in records[:3]}) == 1
    out = latency("compare", "--no-measure")
    assert "published" in out and "0.63" in out and "efficientnet_b3" in out


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


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--model", "prunet_p0", "--device", "tpu"), "no device 'tpu'; the known ones are a100"),
        (("--model", "prunet_p7"), "there is no network 'prunet_p7'"),
        (("--model", "prunet_p0", "--batch", 0), "batch must be a positive integer"),
        (("--model", "prunet_p0", "--input-size", -3), "input size must be a positive integer"),
        (("--model", "gone/arch.json"), "there is no spec file gone/arch.json"),
        (("--model", "prunet_p0", "--scope", "detector"), "must be classifier or backbone"),
        (("--model", "resnet1"), "there is no network 'resnet1'"),
        (("--model", "gone.py", "--scope", "detector"), "there is no config file gone.py"),
    ],
)
def test_refusals(refused, args, sentence):
    assert sentence in refused("latency", "predict", *args)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--device", "v100"), "no device 'v100' to measure on"),
        (("--batch", 0), "batch must be a positive integer"),
        (("--threads", 0), "number of threads must be a positive integer"),
        (("--seconds", 0), "seconds > 0"),
        (("--runtime", "cuda_graph"), "cuda_graph runs on cuda, not on cpu"),
        (("--checkpoint", "gone.safetensors"), "there is no checkpoint gone.safetensors"),
        (("--scope", "e2e"), "scope e2e needs a detector's config"),
    ],
)
def test_measurements_that_are_refused(refused, args, sentence):
    model = ("--model", "prunet_demo", "--input-size", 64)
    assert sentence in refused("latency", "measure", *model, *args)


def test_weights_that_give_nan(refused, tmp_path):
    state = create("prunet_demo").state_dict()
    state["stem.0.conv.weight"].fill_(float("nan"))
    save_safetensors(state, tmp_path / "w.safetensors")
    model = ("--model", "prunet_demo", "--checkpoint", tmp_path / "w.safetensors")
    assert "is not finite" in refused("latency", "measure", *model, "--input-size", 64, *QUICK)


def test_tables_that_are_refused(refused, tmp_path):
    assert "there is no latency table gone.json" in refused("latency", "check", "gone.json")
    table = ("table", "--model", "prunet_demo")
    assert "no device 'tpu' to measure on" in refused(
        "latency", *table, "--device", "tpu", "--out", tmp_path / "t.json"
    )
    assert "there is no CUDA device cuda:9 here" in refused(
        "latency", *table, "--device", "cuda:9", "--out", tmp_path / "t.json"
    )
    assert "--variants must be 0 or more" in refused(
        "latency", *table, "--variants", -1, "--out", tmp_path / "t.json"
    )
    assert "--out FILE.json" in refused("latency", "calibrate", "--from", "gone.json")


def test_nothing_published(refused):
    assert "no published times of 'h200'" in refused("latency", "calibrate", "--device", "h200")


def test_the_script_for_a_gpu_says_what_the_tool_understands(tmp_path):
    """Rehearsed with a Python that only notes what it is asked."""
    log, stub = tmp_path / "log", tmp_path / "python"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\n')
    stub.chmod(0o755)
    subprocess.run(
        ["bash", str(ROOT / "tools" / "gpu_latency.sh"), str(tmp_path / "out")],
        env={**os.environ, "PYTHON": str(stub)},
        check=True,
        capture_output=True,
    )
    parser = runpy.run_path(str(ROOT / "tools" / "latency.py"))["build_parser"]()
    asked = [parser.parse_args(line.split()[1:]) for line in log.read_text().splitlines()]
    verbs = [args.run.__name__ for args in asked]
    assert verbs[:4] == ["run_measure"] * 4 and verbs[-4:] == ["run_measure"] * 4
    assert verbs[4:-4] == ["run_table", "run_calibrate", "run_check"]
    found = {(a.scope, a.batch, a.input_size, len(a.model)) for a in asked[:4]}
    sizes = (("backbone", 512), ("classifier", None))
    assert found == {(scope, batch, size, 12) for scope, size in sizes for batch in (1, 8)}
    assert all((a.runtime, a.precision) == ("cuda_graph", "fp16") for a in asked[:5])
    assert {a.scope for a in asked[-4:]} == {"detector", "e2e"}
