"""What `make gpu` has measured comes into the docs, and decides how trainings are timed."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from prunet_det.benchmark import report as parts
from prunet_det.benchmark.gpu.scale import Scale
from prunet_det.benchmark.gpu.search import judge_figures, search_figures
from prunet_det.benchmark.gpu.summary import Row, Summary
from prunet_det.benchmark.gpu.tables import runs, throughput
from prunet_det.benchmark.gpu.training import best_speed_up, training_figures
from prunet_det.utils.errors import UserError
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results"
MACHINE = {"device": "NVIDIA H100", "date": "2026-12-01", "commit": "0123456789abcdef"}


def speed_up(kind, images_per_s, difference=0.0, reason=""):
    return {
        "model": "prunet_s",
        "speed_up": kind,
        "images_per_s": images_per_s,
        "difference": difference,
        "reason": reason,
    }


PLAIN = [speed_up("none", 100), speed_up("none", 101, 1e-3)]
TRAINING = {
    "speed_ups": [*PLAIN, speed_up("graph", 300, 2e-3)],
    "throughput": [
        {
            "model": "prunet_s",
            "input_size": 512,
            "batch": 16,
            "workers": 14,
            "speed_up": "graph",
            "disk_images_per_s": 310.0,
            "memory_images_per_s": 350.0,
        }
    ],
}


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([speed_up("graph", 300, 2e-3)], "graph"),
        ([speed_up("graph", 300, 0.2)], "none"),  # other losses
        ([speed_up("graph", 90)], "none"),  # no gain
        ([speed_up("graph", 0, reason="there is no CUDA device.")], "none"),
    ],
)
def test_the_fastest_with_equal_losses(others, best):
    assert best_speed_up([*PLAIN, *others]) == best


def test_figures_of_a_training():
    figures = training_figures(Told(TRAINING))
    assert figures["prunet_s recorded"].startswith("3.00 times as fast, losses differ by 2.0e-03")
    assert figures["prunet_s"] == "310 images/s from disk, 350 from memory (graph)"


class Told:
    """A place of which every part has left the same record."""

    def __init__(self, record):
        self.record = record

    def read(self, part):
        return self.record


def test_figures_of_a_search():
    found = {"0.5": {"ms": 0.499, "chooser": "tiers"}, "1.8": {"ms": 1.79, "chooser": "evolution"}}
    record = {
        "whole_seconds": 201.6,
        "peak_mb": 2048,
        "run": {"seconds": {"warm-up": 10.2, "paths": 99.0}},
        "networks": found,
    }
    assert search_figures(Told(record)) == {
        "whole": "202 s (warm-up 10 s, paths 99 s)",
        "memory": "2.0 GiB",
        "found": "0.499 ms by tiers, 1.790 ms by evolution",
    }
    assert search_figures(Told({"run": {}})) == {}  # it did not come to its end


def test_figures_of_a_judge():
    study = {
        "means": {"random 0": 0.5, "random 1": 0.7, "searched 0": 0.8},
        "groups": {"random 0": "random", "random 1": "random", "searched 0": "searched"},
        "training_seconds": [4.0, 6.0],
        "seconds": 7.0,
        "spread_over_noise": 3.1,
    }
    assert judge_figures(Told({"study": study})) == {
        "trainings": "2 in 7 s, 5.0 s each",
        "spread over noise": "3.1",
        "random": "0.600",
        "searched": "0.800",
    }
    assert judge_figures(Told({})) == {}


def test_a_scale_takes_other_values():
    changed = Scale().changed({"models": "prunet_s", "batches": [1, 8], "jobs": 3})
    assert (changed.models, changed.batches, changed.jobs) == (("prunet_s",), (1, 8), 3)
    with pytest.raises(UserError, match="unknown key 'modles'.*models"):
        Scale().changed({"modles": "prunet_s"})


def test_without_records(tmp_path):
    assert runs(tmp_path) == throughput(tmp_path) == "No records of a GPU yet.\n"


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The latencies' part of tools/report.py, with the folder of one machine."""
    spec = importlib.util.spec_from_file_location("report", ROOT / "tools" / "_latency_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "docs" / "results" / "gpu" / "h100"
    rows = {"training": Row(state="done", seconds=99, record=TRAINING, figures={"rate": "310"})}
    Summary(machine=MACHINE, command="make gpu", rows=rows).save(folder)
    text = (RESULTS / "latency" / "cpu_backbone_1.csv").read_text()
    (folder / "latency.csv").write_text(text.replace("AMD EPYC, 2 cores", "NVIDIA H100"))
    shutil.copy(RESULTS / "latency" / "cpu_check.csv", folder / "check.csv")
    shutil.copy(RESULTS / "latency" / "cpu_device.json", folder / "device.json")
    (imagenet,) = (RESULTS / "benchmark" / "imagenet").glob("v100.csv")
    shutil.copy(imagenet, folder / "imagenet.csv")
    monkeypatch.setattr(module, "GPU", folder.parent)
    return module


def test_records_come_into_the_docs(report):
    assert "| training | done | 99 | rate: 310 |" in runs(report.GPU)
    line = "| NVIDIA H100 | `prunet_s` | 512 | 16 | 14 | graph | 310 | 350 | 0.89 |"
    assert line in throughput(report.GPU)
    assert "NVIDIA H100, onnxruntime fp32, batch 1" in report.measured()
    assert report.checks().count("against 20 networks measured whole") == 4
    assert {"check_cpu.svg", "check_h100.svg"} <= set(report.figures())
    benchmark = report.GPU.parent / "benchmark"
    assert list(parts.imagenet_records(benchmark)) == ["h100"]
    assert "(docs/results/gpu/h100/imagenet.csv)" in parts.imagenet(benchmark)
