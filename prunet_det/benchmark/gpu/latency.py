"""The parts of `make gpu` that measure latencies: networks, blocks, detectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunet_det.benchmark.gpu.run import Place, SkippedError
from prunet_det.benchmark.gpu.scale import Scale
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import read_csv, write_csv

LATENCY, BLOCKS, DEVICE, CHECK = "latency.csv", "blocks.json", "device.json", "check.csv"
IMAGENET = "imagenet.csv"


class _Rows:
    """The rows of a CSV file that is added to, and which networks it has."""

    def __init__(self, place: Place, name: str) -> None:
        self.path, self.command = place.out / name, place.command
        self.rows: list[Mapping[str, Any]] = []
        if self.path.exists():
            self.rows += read_csv(self.path)[1]

    def has(self, *wanted: Any) -> bool:
        """Whether there is a row of this model, scope, batch and runtime."""
        keys = ("model", "scope", "batch", "runtime")
        return any([str(row[k]) for k in keys] == [*map(str, wanted)] for row in self.rows)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows, and writes the file; rows of a version with other columns are dropped."""
        self.rows = [row for row in self.rows if not rows or row.keys() == rows[0].keys()]
        self.rows += rows
        if self.rows:
            write_csv(self.path, self.rows, self.command)


def _measure(
    place: Place, names: Sequence[str], scopes: Sequence[str], batch: int, runtime: str
) -> list[str]:
    """Measures what has no row yet, interleaved; returns why networks have none now.

    Args:
        place: Where the rows are.
        names: Networks, or configs of detectors.
        scopes: Scopes of one network: detectors have two.
        batch: Images at once.
        runtime: How they are run.
    """
    from prunet_det.latency.measure import failure, local_conditions, measure
    from prunet_det.latency.record import Failure
    from prunet_det.latency.subject import load_named
    from prunet_det.runtime.subject import Scope, Subject

    scale, rows = place.scale, _Rows(place, LATENCY)
    size = None if "classifier" in scopes else scale.input_size
    conditions = local_conditions(scale.device, runtime, scale.precision, batch, scale.threads)
    subjects: list[Subject | Failure] = []
    for name in names:
        model = Path(name).stem if name.endswith(".py") else name
        todo = [scope for scope in scopes if not rows.has(model, scope, batch, runtime)]
        try:
            loaded = load_named(name, todo[0], size) if todo else None
            subjects += [replace(loaded, scope=Scope(scope)) for scope in todo if loaded]
        except UserError as e:
            subjects.append(failure(e, model, conditions, todo[0], size))
    found = measure(
        subjects,
        conditions,
        device=scale.device,
        seconds=scale.seconds,
        beside_mmdet=True,
    )
    rows.add([m.to_dict() for m in found if not isinstance(m, Failure)])
    failures = [m for m in found if isinstance(m, Failure)]
    return [f"{m.model} {m.conditions.runtime}: {m.reason}" for m in failures]


def run_latency(place: Place) -> None:
    """Measures all networks, as classifiers at their own resolution and as backbones.

    Raises:
        UserError: If some could not be measured.
    """
    scale = place.scale
    failed: list[str] = []
    for batch in scale.batches:
        for scope in scale.scopes:
            failed += _measure(place, scale.models, [scope], batch, scale.runtime)
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
        failed += _measure(place, [name], ["backbone"], place.scale.batches[0], "compiled")
    _refuse(failed)


def run_detectors(place: Place) -> None:
    """Measures detectors up to their raw outputs, end to end, and as MMDetection runs them.

    Raises:
        UserError: If some could not be measured.
    """
    scale = place.scale
    _refuse(_measure(place, scale.detectors, ["detector", "e2e"], 1, scale.runtime))


def _refuse(failed: Sequence[str]) -> None:
    if failed:
        raise UserError(f"not measured: {' '.join(failed)}")


def _latencies(
    place: Place, chosen: Callable[[Mapping[str, Any]], bool], shown: Sequence[str]
) -> dict[str, str]:
    """How many rows of the latencies are chosen, how many are unstable, and backbones of some."""
    rows = [row for row in read_csv(place.out / LATENCY)[1] if chosen(row)]
    unstable = sum(bool(row["note"]) for row in rows)
    found = {"latencies": f"{len(rows)}" + (f" ({unstable} unstable)" if unstable else "")}
    for row in rows:
        if (row["scope"], row["batch"]) == ("backbone", "1") and row["model"] in shown:
            found[row["model"]] = f"{float(row['latency_ms']):.3f} ms"
    return found


def latency_figures(place: Place) -> dict[str, str]:
    """Three backbones at batch 1; the rest is in the file."""
    scopes = ("backbone", "classifier")

    def chosen(row: Mapping[str, Any]) -> bool:
        return row["runtime"] == place.scale.runtime and row["scope"] in scopes

    return _latencies(place, chosen, Scale().compiled)


def compiled_figures(place: Place) -> dict[str, str]:
    """All that were compiled."""
    return _latencies(place, lambda row: row["runtime"] == "compiled", place.scale.compiled)


def detectors_figures(place: Place) -> dict[str, str]:
    """Milliseconds end to end, and how often MMDetection takes them."""
    rows = [row for row in read_csv(place.out / LATENCY)[1] if row["scope"] == "e2e"]
    ms = {(row["model"], row["runtime"]): float(row["latency_ms"]) for row in rows}
    found = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        own, usual = (ms.get((model, runtime)) for runtime in (place.scale.runtime, "mmdet"))
        if own and usual:
            found[f"{model} end to end"] = (
                f"{own:.3f} ms, inference_detector {usual:.3f} ms ({usual / own:.1f} times)"
            )
    return found


# The table of blocks.


def run_blocks(place: Place) -> None:
    """Measures the table of the blocks of the searches' spaces."""
    from prunet_det.latency.block_timer import BlockTimer, measure_table
    from prunet_det.latency.measure import local_conditions
    from prunet_det.search.costs import space_keys
    from prunet_det.search.space import SearchSpace
    from prunet_det.utils.config import read_config

    scale = place.scale
    spaces = [SearchSpace.from_config(read_config(path).space) for path in scale.spaces]
    keys = [key for space in spaces for key in space_keys(space, scale.input_size, scale.widths)]
    conditions = local_conditions(
        scale.device, scale.runtime, scale.precision, threads=scale.threads
    )
    timer = BlockTimer(conditions, scale.device, scale.block_seconds)
    earlier = {"measured": 0, "seconds": 0.0, **place.read("blocks")}
    start, before = time.monotonic(), len(_table_entries(place))
    try:
        measure_table(keys, place.out / BLOCKS, timer)
    finally:  # what there is when the time is over counts
        measured = len(_table_entries(place)) - before + earlier["measured"]
        seconds = round(time.monotonic() - start + earlier["seconds"], 2)
        place.write("blocks", {"of": len(set(keys)), "measured": measured, "seconds": seconds})


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
    from prunet_det.latency.calibrate import calibrate_to_table
    from prunet_det.latency.check import check_table, random_networks
    from prunet_det.latency.peaks import measure_peaks
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
    rows = [c.to_dict() for c in checks]
    write_csv(place.out / CHECK, rows, place.command)


def device_figures(place: Place) -> dict[str, str]:
    """How well the fit and the table tell the time of whole networks."""
    from prunet_det.latency.errors import Errors

    rows = [row for row in read_csv(place.out / CHECK)[1] if not row["failed"]]
    whole = [float(row["latency_ms"]) for row in rows]
    found = {}
    for title, key in (("table", "table_ms"), ("fitted model", "model_ms")):
        e = Errors.of(whole, [float(row[key]) for row in rows])
        found[title] = f"mean error {e.mean:.1%}, tau {e.kendall_tau:.2f}"
    return found


def run_imagenet(place: Place) -> None:
    """Measures networks with a published accuracy, those of our families first."""
    from prunet_det.benchmark.imagenet import choose, collect, measured
    from prunet_det.latency.measure import local_conditions

    scale = place.scale
    conditions = local_conditions(
        scale.device, scale.runtime, scale.precision, threads=scale.threads
    )
    source = replace(measured(conditions, scale.device, scale.seconds), name=Path(IMAGENET).stem)
    chosen = sorted(choose(scale.published), key=lambda c: c.family == "other")
    collect(chosen, place.out, source, place.command)


def imagenet_figures(place: Place) -> dict[str, str]:
    """How many networks, and which of them are on the front."""
    from prunet_det.benchmark.imagenet import read_entries
    from prunet_det.benchmark.imagenet_report import verdict

    entries = read_entries(place.out / IMAGENET)[1]
    timed = [entry for entry in entries if entry.latency]
    found = {"networks": f"{len(timed)} of {len(entries)}"}
    if timed:
        found["front"] = verdict(timed)[0].removesuffix(".")
    return found
