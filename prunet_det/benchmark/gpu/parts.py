"""The parts of `make gpu`, in their order, and how much of everything they measure."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from prunet_det.benchmark.gpu import latency, search, training
from prunet_det.benchmark.gpu.latency import BLOCKS, CHECK, DEVICE, IMAGENET, LATENCY
from prunet_det.benchmark.gpu.run import Part, Place, Plan, SkippedError
from prunet_det.benchmark.gpu.scale import Scale
from prunet_det.utils.errors import UserError


def probe(place: Place) -> None:
    """Uses the device, and says which one it is."""
    import torch

    from prunet_det.utils.env import check_device, device_title, driver, environment

    device = check_device(place.scale.device)
    torch.ones(1, device=device).sum().item()
    about = {"device": device_title(device), "driver": driver(device), **environment()}
    place.write("machine", about)


def prepare(what: str, place: Place) -> None:
    """Makes data sets.

    Args:
        what: Attribute of the scale that names them: `dataset`, or `crops` and `ablated_crops`,
            which are cut too.
        place: Where they come.
    """
    from prunet_det.datasets import ensure, ensure_crops
    from prunet_det.utils.env import usable_cores

    workers = max(1, usable_cores() - 2)  # the parts that run meanwhile need a core or two
    if what == "dataset":
        ensure(place.scale.dataset, place.data / place.scale.dataset, workers)
        return
    for name in getattr(place.scale, what):
        ensure_crops(name, place.data / name, workers)


class _Outcomes:
    """Writes down what becomes of each test as soon as it is known, for pytest."""

    def __init__(self, place: Place) -> None:
        self.place, self.start = place, time.monotonic()
        self.found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.note(report.outcome, report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.note("failed", report.nodeid)

    def note(self, outcome: str, test: str) -> None:
        self.found[outcome].append(test)
        seconds = round(time.monotonic() - self.start, 1)
        self.place.write("tests", {**self.found, "seconds": seconds})


def run_tests(place: Place) -> None:
    """Runs the tests that are marked `gpu`, of the files that have any.

    Raises:
        SkippedError: If there is no pytest here, or no tests.
        UserError: If a test fails.
    """
    try:
        import pytest
    except ImportError as e:
        raise SkippedError("pytest is not installed here.") from e
    paths = sorted(Path("tests").rglob("test_*.py"))
    files = [str(path) for path in paths if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    if not files:
        raise SkippedError("the tests lie in a checkout, and this is no folder of one.")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and one may be broken
    outcomes = _Outcomes(place)
    flags = ["-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts=-q --durations=10"]
    flags += ["-k", " and ".join(f"not {word}" for word in place.scale.without_tests)]
    code = pytest.main([*flags, *files], plugins=[outcomes])
    if code:
        raise UserError(f"failed: {', '.join(outcomes.found['failed']) or code}")


def tests_figures(place: Place) -> dict[str, str]:
    """How many tests passed, failed and were skipped."""
    record = place.read("tests")
    return {k: str(len(record[k])) for k in ("passed", "failed", "skipped") if record[k]}


PARTS = (
    Part(name="tests", run=run_tests, figures=tests_figures, seconds=45),
    Part(
        name="latency",
        run=latency.run_latency,
        figures=latency.latency_figures,
        seconds=70,
        files=(LATENCY,),
    ),
    Part(
        name="blocks",
        run=latency.run_blocks,
        figures=latency.blocks_figures,
        seconds=65,
        files=(BLOCKS,),
        open_ended=True,
    ),
    Part(
        name="device",
        run=latency.run_device,
        figures=latency.device_figures,
        seconds=30,
        files=(DEVICE, CHECK),
    ),
    Part(
        name="search",
        run=search.run_search,
        figures=search.search_figures,
        seconds=200,
        data="crops",
        open_ended=True,
    ),
    Part(
        name="judge",
        run=search.run_judge,
        figures=search.judge_figures,
        seconds=60,
        data="crops",
    ),
    Part(
        name="detectors",
        run=latency.run_detectors,
        figures=latency.detectors_figures,
        seconds=35,
        files=(LATENCY,),
        data="dataset",
    ),
    Part(
        name="training",
        run=training.run_training,
        figures=training.training_figures,
        seconds=60,
        data="dataset",
    ),
    Part(
        name="imagenet",
        run=latency.run_imagenet,
        figures=latency.imagenet_figures,
        seconds=40,
        files=(IMAGENET,),
        open_ended=True,
    ),
    # What follows takes the time that is left, and goes on in the next call.
    Part(
        name="ablations",
        run=search.run_ablations,
        figures=search.ablations_figures,
        seconds=10,
        data="ablated_crops",
        open_ended=True,
    ),
    Part(
        name="ablations_judge",
        run=search.run_ablations_judge,
        figures=search.ablations_judge_figures,
        seconds=10,
        data="ablated_crops",
        open_ended=True,
    ),
    Part(
        name="compiled_latency",
        run=latency.run_compiled,
        figures=latency.compiled_figures,
        seconds=10,
        open_ended=True,
    ),
    Part(
        name="compiled_training",
        run=training.run_compiled,
        figures=training.compiled_figures,
        seconds=10,
        data="dataset",
        open_ended=True,
    ),
    Part(
        name="suite",
        run=training.run_suite,
        figures=training.suite_figures,
        seconds=10,
        data="dataset",
        open_ended=True,
    ),
)
# What nearly every part imports: once is enough. None of it may touch the GPU.
PRELOAD = (
    "prunet_det.benchmark.training_speed",
    "prunet_det.benchmark.gpu.parts",
    "prunet_det.latency.check",
    "prunet_det.latency.calibrate",
    "prunet_det.benchmark.imagenet",
    "prunet_det.benchmark.run",
    "prunet_det.benchmark.search_compare",
    "mmdet.apis",
)


def plan_of(scale: Scale) -> Plan:
    """Returns all parts, to be run on the scale's device."""
    return Plan(parts=PARTS, probe=probe, prepare=prepare, preload=PRELOAD, device=scale.device)
