"""What tools/report.py writes of the benchmark: parts of pages, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunet_det.benchmark import imagenet_report, published, tables
from prunet_det.benchmark.fronts import points
from prunet_det.benchmark.imagenet import Entry, read_entries
from prunet_det.benchmark.page import about
from prunet_det.benchmark.plot import draw_pareto, draw_published
from prunet_det.benchmark.records import RECORDS, Record, load_records
from prunet_det.benchmark.report_cli import markdown, plot_names, plot_title

_NONE_YET = "No records yet.\n"
PICTURES = "docs/benchmark"  # links of generated parts are relative to the root


def suites(results: Path) -> dict[str, list[Record]]:
    """Name of each folder under `results` that holds a run that is done, to its records."""
    found = {
        folder.name: load_records(folder)
        for folder in sorted(results.glob("*"))
        if any((folder / RECORDS).glob("[!.]*.json"))
    }
    return {name: r for name, r in found.items() if any(run.status == "done" for run in r)}


def full(results: Path) -> str:
    """docs/benchmark.md's part: all of every suite."""
    parts = []
    for name, records in suites(results).items():
        pictures = {a: f"{PICTURES}/{name}_{stem}.svg" for a, stem in plot_names(records).items()}
        parts += [f"### {name}\n", markdown(records, pictures, results / name)]
        parts.append(f"As [CSV]({PICTURES}/{name}_points.csv), a row a point and latency.\n")
    return "\n".join(parts) or _NONE_YET


def quoted(_: Path) -> str:
    """Published figures, in tables of their own."""
    return published.markdown()


def csv_files(results: Path) -> dict[str, str]:
    """Name to content of the CSV files of docs/benchmark."""
    return {
        f"{name}_points.csv": tables.points_csv(records, {"suite": name, "about": about(records)})
        for name, records in suites(results).items()
    }


def figures(results: Path) -> dict[str, tuple[Any, ...]]:
    """Name of each figure of docs/benchmark to a function that draws it, and its arguments."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, records in suites(results).items():
        for axis, stem in plot_names(records).items():
            data = (points(records, axis), axis, "mAP", plot_title(records))
            found[f"{name}_{stem}.svg"] = (draw_pareto, *data)
    title = f"Published, not measured here: {published.GPUNET_SOURCE}"
    latency = f"published, {published.CONDITIONS}"
    found["published.svg"] = (draw_published, published.points(), latency, title)
    for name, entries in imagenet_records(results).items():
        found[f"imagenet_{name}.svg"] = (draw_published, *imagenet_report.figure_data(entries))
    return found


def imagenet_paths(results: Path) -> dict[str, Path]:
    """Name of each record of published accuracies beside latencies, to its file."""
    paths = {path.stem: path for path in sorted((results / "imagenet").glob("*.csv"))}
    from_gpus = sorted(results.parent.glob("gpu/*/imagenet.csv"))  # of `make gpu`
    return {**paths, **{path.parent.name: path for path in from_gpus}}


def imagenet_records(results: Path) -> dict[str, list[Entry]]:
    """Name of each record of published accuracies beside latencies, to its entries."""
    return {name: read_entries(path)[1] for name, path in imagenet_paths(results).items()}


def imagenet(results: Path) -> str:
    """docs/benchmark.md's part: all of every record."""
    parts = []
    paths = imagenet_paths(results)
    for name, entries in imagenet_records(results).items():
        title = f"Published top-1 against latency {imagenet_report.conditions(entries)}"
        link = paths[name].relative_to(results.parents[2]).as_posix()
        parts += [
            f"### {name}\n",
            f"{imagenet_report.verdict(entries)}\n",
            f"![{title}]({PICTURES}/imagenet_{name}.svg)\n",
            imagenet_report.markdown(entries),
            f"All of them, each with its source: [{name}.csv]({link}).\n",
        ]
    return "\n".join(parts) or _NONE_YET
