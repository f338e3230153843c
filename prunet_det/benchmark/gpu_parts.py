"""The parts of `make gpu`, in their order, and how much of everything they measure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prunet_det.benchmark.gpu import Part, Place, Plan, SkippedError
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import read_csv, write_csv

LATENCY, BLOCKS, DEVICE, CHECK = "latency.csv", "blocks.json", "device.json", "check.csv"
ZOO = (
    *(f"prunet_{size}" for size in ("s", "n", "t", "m", "l", "p0", "p1", "demo")),
    *(f"gpunet_{size}" for size in ("0", "1", "2", "d1", "d2")),
)
EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(4))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is measured, and how much of it.

    Attributes:
        device: Torch device.
        runtime, precision: Of all latencies but those of `compiled`.
        models: Networks whose latencies are measured.
        compiled: Those that are also measured as torch.compile makes them.
        batches: Images at once.
        input_size: Side of the images of backbones, blocks and detectors, in pixels.
        seconds: Time to spend on each network.
        blocks_of: Network whose blocks make the table.
        variants: Inner widths of every kind and kernel of a block.
        block_seconds: Time to spend on each of a block's two networks.
        checks: Random networks of the table's blocks that are measured whole.
        detectors: Configs of detectors.
        suite: Suite of the benchmark.
        suite_options: What replaces values of the suite's recipe, by dotted key.
        max_iters: Length of the suite's trainings; None for its own.
        trained: Networks of the suite, MODEL@PIXELS, whose training is timed.
        iterations: Of a training that is timed.
        dataset: Embedded set that the suite and the search use.
        search: Config of the search.
        search_options: What replaces values of it, by dotted key.
    """

    device: str = "cuda"
    runtime: str = "cuda_graph"
    precision: str = "fp16"
    models: tuple[str, ...] = (*ZOO, *EFFICIENTNETS)
    compiled: tuple[str, ...] = ("prunet_s", "gpunet_0", "efficientnet_b0")
    batches: tuple[int, ...] = (1, 8)
    input_size: int = 512
    seconds: float = 0.3
    blocks_of: str = "prunet_p0"
    variants: int = 7
    block_seconds: float = 0.05
    checks: int = 20
    detectors: tuple[str, ...] = ("prunet_effdet_coco.py", "efficientnet_effdet_coco.py")
    suite: str = "glyphs"
    suite_options: Mapping[str, Any] = field(default_factory=dict)
    max_iters: int | None = None
    trained: tuple[str, ...] = ("prunet_s@512", "gpunet_0@512", "efficientnet_b0@512")
    iterations: int = 20
    dataset: str = "glyphs"
    search: str = "search/prunet.py"
    search_options: Mapping[str, Any] = field(
        default_factory=lambda: {
            "search.warmup": 60,
            "search.steps": 240,
            "search.checkpoint_interval": 50,
        }
    )


def probe(place: Place) -> None:
    """Uses the device, and says which one it is."""
    import torch

    from prunet_det.utils.env import check_device, device_title, driver, environment

    device = check_device(place.scale.device)
    torch.ones(1, device=device).sum().item()
    about = {"device": device_title(device), "driver": driver(device), **environment()}
    place.write("machine", about)


def prepare(place: Place) -> None:
    """Makes the data set with its crops."""
    from prunet_det.datasets import ensure, ensure_crops
    from prunet_det.utils.jobs import available_cores

    workers = max(1, available_cores() - 2)  # the parts that run meanwhile need a core or two
    root = ensure(place.scale.dataset, place.data / place.scale.dataset, workers)
    ensure_crops(place.scale.dataset, root, workers)


# Tests.


class _Outcomes:
    """Counts what becomes of the tests, for pytest."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[report.outcome].append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.found["failed"].append(report.nodeid)


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
    files = [str(path) for path in paths if "mark.gpu" in path.read_text(encoding="utf-8")]
    if not files:
        raise SkippedError("the tests lie in a checkout, and this is no folder of one.")
    outcomes = _Outcomes()
    start = time.monotonic()
    flags = ["-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts=-q --durations=10"]
    code = pytest.main([*flags, *files], plugins=[outcomes])
    place.write("tests", {**outcomes.found, "seconds": round(time.monotonic() - start, 1)})
    if code:
        raise UserError(f"failed: {', '.join(outcomes.found['failed']) or code}")


def tests_figures(place: Place) -> dict[str, str]:
    """How many tests passed, failed and were skipped."""
    record = place.read("tests")
    return {k: str(len(record[k])) for k in ("passed", "failed", "skipped") if record[k]}


# Latencies.


class _Rows:
    """The rows of a CSV file that is added to, and which networks it has."""

    def __init__(self, place: Place, name: str) -> None:
        self.path, self.command = place.out / name, place.command
        self.rows: list[Mapping[str, Any]] = []
        if self.path.exists():
            self.rows += read_csv(self.path)[1]

    def missing(self, names: Sequence[str], *about: Any) -> list[str]:
        """Those of the names that have no row of such conditions."""
        found = {(str(row["model"]), *_about(row)) for row in self.rows}
        return [name for name in names if (name, *map(str, about)) not in found]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows, and writes the file; rows of a version with other columns are dropped."""
        self.rows = [row for row in self.rows if not rows or row.keys() == rows[0].keys()]
        self.rows += rows
        if self.rows:
            write_csv(self.path, self.rows, self.command)


def _about(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("scope", "batch", "runtime"))


def _measure(place: Place, names: Sequence[str], scope: str, batch: int, runtime: str) -> list[str]:
    """Measures what has no row yet, interleaved; returns why networks have none now."""
    from prunet_det.latency.measure import local_conditions, measure
    from prunet_det.runtime.subject import load_subject

    scale, rows = place.scale, _Rows(place, LATENCY)
    stems = {Path(name).stem if name.endswith(".py") else name: name for name in names}
    todo = rows.missing(list(stems), scope, batch, runtime)
    if not todo:
        return []
    failed: dict[str, str] = {}
    size = None if scope == "classifier" else scale.input_size
    subjects = []
    for name in todo:
        try:
            subjects.append(load_subject(stems[name], scope, size))
        except UserError as e:
            failed[name] = str(e)
    conditions = local_conditions(scale.device, runtime, scale.precision, batch)
    found = measure(subjects, conditions, device=scale.device, seconds=scale.seconds, failed=failed)
    rows.add([m.to_dict() for m in found])
    return [f"{name}: {reason}" for name, reason in failed.items()]


def run_latency(place: Place) -> None:
    """Measures all networks, as classifiers at their own resolution and as backbones.

    Raises:
        UserError: If some could not be measured.
    """
    scale = place.scale
    failed: list[str] = []
    for batch in scale.batches:
        for scope in ("backbone", "classifier"):
            failed += _measure(place, scale.models, scope, batch, scale.runtime)
    _refuse(failed)


def run_compiled(place: Place) -> None:
    """Measures some networks as torch.compile makes them, one after the other: it takes a while.

    Raises:
        UserError: If some could not be measured.
        SkippedError: If there are none.
    """
    if not place.scale.compiled:
        raise SkippedError("no network is to be compiled.")
    failed: list[str] = []
    for name in place.scale.compiled:
        failed += _measure(place, [name], "backbone", place.scale.batches[0], "compiled")
    _refuse(failed)


def run_detectors(place: Place) -> None:
    """Measures detectors up to their raw outputs and end to end.

    Raises:
        UserError: If some could not be measured.
    """
    scale = place.scale
    failed: list[str] = []
    for scope in ("detector", "e2e"):
        failed += _measure(place, scale.detectors, scope, 1, scale.runtime)
    _refuse(failed)


def _refuse(failed: Sequence[str]) -> None:
    if failed:
        raise UserError(f"not measured: {' '.join(failed)}")


def _latencies(
    place: Place, chosen: Callable[[Mapping[str, Any]], bool], shown: Sequence[str] = ()
) -> dict[str, str]:
    """How many rows of the latencies are chosen, how many are unstable, and some of them."""
    rows = [row for row in read_csv(place.out / LATENCY)[1] if chosen(row)]
    unstable = sum(bool(row["note"]) for row in rows)
    found = {"latencies": f"{len(rows)}" + (f" ({unstable} unstable)" if unstable else "")}
    for row in rows:
        if (row["model"] in shown or not shown) and row["batch"] == "1":
            found[f"{row['model']} {row['scope']}"] = f"{float(row['latency_ms']):.3f} ms"
    return found


def latency_figures(place: Place) -> dict[str, str]:
    """Backbones of the smallest networks; the rest is in the file."""
    scale, shown = place.scale, ("prunet_s", "gpunet_0", "efficientnet_b0")

    def chosen(row: Mapping[str, Any]) -> bool:
        return row["runtime"] == scale.runtime and row["scope"] in ("backbone", "classifier")

    found = _latencies(place, chosen, shown)
    return {k: v for k, v in found.items() if not k.endswith("classifier")}


def compiled_figures(place: Place) -> dict[str, str]:
    """All that were compiled."""
    return _latencies(place, lambda row: row["runtime"] != place.scale.runtime)


def detectors_figures(place: Place) -> dict[str, str]:
    """All detectors."""
    return _latencies(place, lambda row: row["scope"] in ("detector", "e2e"))


# The table of blocks.


def run_blocks(place: Place) -> None:
    """Measures the table of blocks."""
    from prunet_det.latency.measure import BlockTimer, local_conditions, measure_table
    from prunet_det.latency.table import network_blocks, variants
    from prunet_det.zoo.models import resolve_spec

    scale = place.scale
    keys = network_blocks(resolve_spec(scale.blocks_of), scale.input_size)
    if scale.variants:
        keys = variants(keys, scale.variants)
    conditions = local_conditions(scale.device, scale.runtime, scale.precision)
    timer = BlockTimer(conditions, scale.device, scale.block_seconds)
    start, before = time.monotonic(), len(_table_entries(place))
    table = measure_table(keys, place.out / BLOCKS, timer)
    seconds, earlier = time.monotonic() - start, place.read("blocks")
    place.write(
        "blocks",
        {
            "measured": len(table.entries) - before + earlier.get("measured", 0),
            "seconds": round(seconds + earlier.get("seconds", 0.0), 2),
        },
    )


def _table_entries(place: Place) -> Mapping[Any, Any]:
    from prunet_det.latency.table import Table

    return Table.load(place.out / BLOCKS).entries if (place.out / BLOCKS).exists() else {}


def blocks_figures(place: Place) -> dict[str, str]:
    """How many blocks, and seconds each."""
    found = {"blocks": str(len(_table_entries(place)))}
    record = place.read("blocks")
    if record.get("measured"):
        found["seconds each"] = f"{record['seconds'] / record['measured']:.3f}"
    return found


def run_device(place: Place) -> None:
    """Fits the device file to the table, and checks both on whole networks.

    Raises:
        UserError: If there is no table.
    """
    from prunet_det.latency.calibrate import calibrate_to_table, measure_peaks
    from prunet_det.latency.check import check_table, random_networks
    from prunet_det.latency.table import Table
    from prunet_det.utils.io import write_text

    scale = place.scale
    if not (place.out / BLOCKS).exists():
        raise UserError("there is no table of blocks.")
    table = Table.load(place.out / BLOCKS)
    device = calibrate_to_table(measure_peaks(table.conditions, scale.device), table, BLOCKS)
    write_text(place.out / DEVICE, device.to_json())
    checks = check_table(
        table,
        random_networks(table, scale.checks),
        device=scale.device,
        fitted=device,
        seconds=scale.seconds,
    )
    rows = [
        {
            **c.measured.latency.to_dict(),
            "blocks": len(c.spec.blocks),
            "table_ms": c.table_ms,
            "model_ms": c.model_ms,
        }
        for c in checks
    ]
    write_csv(place.out / CHECK, rows, place.command)


def device_figures(place: Place) -> dict[str, str]:
    """How well the fit and the table tell the time of whole networks."""
    from prunet_det.latency.check import summarize

    rows = read_csv(place.out / CHECK)[1]
    whole = [float(row["latency_ms"]) for row in rows]
    found = {}
    for title, key in (("table", "table_ms"), ("fitted model", "model_ms")):
        s = summarize(whole, [float(row[key]) for row in rows])
        found[title] = f"mean error {s['mean_error']:.1%}, tau {s['kendall_tau']:.2f}"
    return found


# Training, search and benchmark.


def _suite(place: Place) -> Any:
    """The suite with the data of this place."""
    from prunet_det.benchmark.suite import load_suite

    scale = place.scale
    suite = load_suite(scale.suite)
    return replace(
        suite,
        data_root=str(place.data / scale.dataset),
        max_iters=scale.max_iters or suite.max_iters,
        options={**suite.options, **scale.suite_options},
    )


def run_training(place: Place) -> None:
    """Times trainings with batches from disk and with batches that are in memory."""
    from prunet_det.benchmark.run import work_folder
    from prunet_det.benchmark.throughput import Trainer, disk_against_memory

    scale = place.scale
    suite = _suite(place).choose(scale.trained)
    record = {"throughput": [], **place.read("training")}
    done = {(r["model"], r["input_size"]) for r in record["throughput"]}
    for candidate in suite.candidates:
        if (candidate.model, candidate.input_size) in done:
            continue
        cfg = suite.build(candidate, 0, work_folder(place.work, f"training_{candidate.model}"))
        trainer = Trainer.of(cfg)
        batches = trainer.batches()
        held = [next(batches) for _ in range(4)]
        disk, memory = disk_against_memory(trainer, held, scale.iterations)
        record["throughput"].append(
            {
                "model": candidate.model,
                "input_size": candidate.input_size,
                "batch": cfg.train_dataloader.batch_size,
                "workers": cfg.train_dataloader.num_workers,
                "disk_images_per_s": round(disk, 2),
                "memory_images_per_s": round(memory, 2),
            }
        )
        place.write("training", record)


def training_figures(place: Place) -> dict[str, str]:
    """Images a second of each network."""
    return {
        r["model"]: f"{r['disk_images_per_s']:.0f} images/s from disk, "
        f"{r['memory_images_per_s']:.0f} from memory"
        for r in place.read("training").get("throughput", ())
    }


def run_search(place: Place) -> None:
    """Searches the full space; what it has when its time is over is a result too."""
    from prunet_det.search.results import ARCH_FILE, RUN_FILE
    from prunet_det.search.session import SearchOptions
    from prunet_det.search.session import run_search as search

    scale, folder = place.scale, place.work / "search"
    data = {"search_dataloader.dataset.data_root": str(place.data / scale.dataset)}
    options = SearchOptions(
        config=scale.search,
        budget_ms=0.83,
        out=str(folder),
        resume=True,
        no_finals=True,
        amp=scale.device != "cpu",
        quiet=True,
        cfg_options={**scale.search_options, **data},
    )
    start = time.monotonic()
    try:
        search(options, place.command)
    finally:
        found = {
            key: json.loads((folder / name).read_text(encoding="utf-8"))
            for key, name in (("run", RUN_FILE), ("arch", ARCH_FILE))
            if (folder / name).exists()
        }
        place.write("search", {**found, "seconds": round(time.monotonic() - start, 1)})


def search_figures(place: Place) -> dict[str, str]:
    """How far it came, how fast, and to which latency."""
    run = place.read("search").get("run")
    if not run:
        return {}
    steps, seconds = run["iterations"], run["search_seconds"]
    return {
        "steps": f"{steps} of {run['of_iterations']}",
        "seconds each": f"{seconds / steps:.3f}",
        "found": f"{run['after_repair_ms']:.3f} ms for {run['budget_ms']:g} ms "
        f"({run['conditions']['device']})",
    }


def run_suite(place: Place) -> None:
    """Runs the benchmark's suite, from where it stands.

    Raises:
        UserError: If a training failed.
    """
    from prunet_det.benchmark import campaign
    from prunet_det.benchmark.records import RECORDS
    from prunet_det.utils.io import write_json

    scale, folder, suite = place.scale, place.work / "suite", _suite(place)
    for name, record in place.read("suite").get("records", {}).items():
        if not (folder / RECORDS / name).exists():
            write_json(folder / RECORDS / name, record)
    flags = ["--suite", suite.path, "--data-root", str(suite.data_root)]
    if scale.max_iters:
        flags += ["--max-iters", str(scale.max_iters)]
    if scale.suite_options:
        flags += ["--options", *(f"{k}={v}" for k, v in scale.suite_options.items())]
    plan = campaign.Plan(
        suite=suite,
        seeds=suite.seeds,
        out=folder,
        flags=tuple(flags),
        max_minutes=place.seconds / 60,
    )
    left: list[str] = []
    try:
        left, failed = campaign.run_suite(plan)
    finally:
        paths = sorted((folder / RECORDS).glob("[!.]*.json"))
        records = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in paths}
        total = suite.seeds * len(suite.candidates)
        place.write("suite", {"records": records, "total": total, "left": left})
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def suite_figures(place: Place) -> dict[str, str]:
    """How many trainings are done, and the accuracies."""
    record = place.read("suite")
    done = {k: r for k, r in record["records"].items() if r["status"] == "done"}
    shown = {r["model"]: f"mAP {r['metrics']['mAP'] or 0:.3f}" for r in done.values()}
    return {"trainings": f"{len(done)} of {record['total']}", **shown}


PARTS = (
    Part(name="tests", run=run_tests, figures=tests_figures, seconds=60),
    Part(name="latency", run=run_latency, figures=latency_figures, seconds=80, files=(LATENCY,)),
    Part(name="compiled", run=run_compiled, figures=compiled_figures, seconds=40, open_ended=True),
    Part(name="blocks", run=run_blocks, figures=blocks_figures, seconds=55, files=(BLOCKS,)),
    Part(name="device", run=run_device, figures=device_figures, seconds=30, files=(DEVICE, CHECK)),
    Part(
        name="detectors",
        run=run_detectors,
        figures=detectors_figures,
        seconds=40,
        files=(LATENCY,),
        wants_data=True,
    ),
    Part(name="training", run=run_training, figures=training_figures, seconds=100, wants_data=True),
    Part(
        name="search",
        run=run_search,
        figures=search_figures,
        seconds=75,
        wants_data=True,
        open_ended=True,
    ),
    Part(
        name="suite",
        run=run_suite,
        figures=suite_figures,
        seconds=30,
        wants_data=True,
        open_ended=True,
    ),
)
# What nearly every part imports: once is enough. None of it may touch the GPU.
PRELOAD = (
    "prunet_det.benchmark.throughput",
    "prunet_det.benchmark.gpu_parts",
    "prunet_det.latency.check",
    "prunet_det.latency.calibrate",
    "prunet_det.search.session",
    "mmdet.apis",
)


def plan_of(scale: Scale) -> Plan:
    """Returns all parts, to be run on the scale's device."""
    return Plan(parts=PARTS, probe=probe, prepare=prepare, preload=PRELOAD, device=scale.device)


# Everything once, on a CPU, in a minute.
REHEARSAL = Scale(
    device="cpu",
    runtime="channels_last",
    precision="fp32",
    models=("prunet_demo", "resnet10t"),
    compiled=(),
    batches=(1, 2),
    input_size=64,
    seconds=0.02,
    blocks_of="prunet_demo",
    variants=2,
    block_seconds=0.005,
    checks=2,
    detectors=("prunet_effdet.py",),
    suite="digits",
    suite_options={
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "test_dataloader.num_workers": 0,
        "test_dataloader.persistent_workers": False,
        "test_dataloader.dataset.indices": 4,
    },
    max_iters=2,
    trained=("prunet_n_w625@112",),
    iterations=2,
    dataset="digits",
    search="search/quick.py",
    search_options={
        "search.warmup": 1,
        "search.steps": 3,
        "search_dataloader.batch_size": 4,
        "search_dataloader.num_workers": 0,
    },
)
