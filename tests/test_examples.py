"""The scripts of examples/ run, at a tiny size."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from prunet_det import ArchSpec, load_detector
from tests.conftest import ROOT


@pytest.fixture
def example(here, digits, tmp_path, monkeypatch):
    """Runs an example by its name, in an empty folder that has the digits."""
    monkeypatch.setenv("QUICK", "1")
    (tmp_path / "data").symlink_to(digits.parent)

    def run(name):
        return here(str(ROOT / "examples" / f"{name}.py"), cwd=tmp_path).stdout

    return run


def test_backbone(example, tmp_path):
    assert "stride 64: 704 channels, (2, 704, 1, 1)" in example("backbone")
    assert ArchSpec.load(tmp_path / "narrow_p0.json").name == "narrow_p0"


def test_detector(example, tmp_path):
    assert "Average Precision" in example("detector")
    assert (tmp_path / "found.jpg").is_file()
    assert {r["image_id"] for r in json.loads((tmp_path / "detections.json").read_text())} == {0, 1}


def test_latency(example):
    lines = example("latency").splitlines()
    assert "v100, tensorrt fp16, batch 1" in lines
    assert lines[-1].startswith("prunet_demo: ")


@pytest.mark.slow
def test_own_data(example, tmp_path):
    assert "0.jpg <" in example("own_data")
    record = json.loads((tmp_path / "work_dirs" / "mine" / "train.json").read_text())
    assert record["classes"] == ["circle", "square", "triangle"]
    assert (tmp_path / "found" / "1.jpg").is_file()


@pytest.mark.slow
def test_search(example, tmp_path):
    assert "% of the budget" in example("search").splitlines()[-1]
    folder = tmp_path / "work_dirs" / "example_search" / "0.5ms"
    network = ArchSpec.load(folder / "arch.json").build(num_classes=2)
    network.load_state_dict(load_file(folder / "weights.safetensors"))


@pytest.mark.slow
def test_own_detector(example, tmp_path):
    lines = example("own_detector").splitlines()
    assert any(line.startswith("detectors of ") for line in lines)
    assert "asked for" in lines[-1]
    (folder,) = (tmp_path / "work_dirs" / "own_search").glob("*ms")
    assert (folder / "config.py").is_file()
    record = json.loads((tmp_path / "work_dirs" / "own_detector" / "train.json").read_text())
    assert len(record["classes"]) == 10
    assert len(load_detector(tmp_path / "own_detector.onnx").classes) == 10
