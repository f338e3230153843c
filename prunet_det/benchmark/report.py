"""What the records of a folder say: a report for people and programs, and parts of docs/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunet_det.benchmark import extras, imagenet_report, published, tables
from prunet_det.benchmark.fronts import Axis, axes, points
from prunet_det.benchmark.imagenet import Entry, read_entries
from prunet_det.benchmark.judge import judge
from prunet_det.benchmark.page import about, write_page
from prunet_det.benchmark.plot import draw_pareto, draw_published
from prunet_det.benchmark.records import Record, load_records
from prunet_det.utils import plots
from prunet_det.utils.io import make_folder, markdown_table, write_text

_NONE_YET = "No records yet.\n"
PICTURES, RESULTS = "docs/benchmark", "docs/results"  # links are relative to the root


def write_report(
    records: Sequence[Record], out: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> None:
    """Writes report.md, points.csv, a plot an axis and index.html.

    Args:
        records: Records of one suite.
        out: Folder to write to.
        folder: Where the records are from.
    """
    out = Path(out)
    suite, names = records[0].suite, plot_names(records)
    pictures = {axis: f"{stem}.svg" for axis, stem in names.items()}
    # All texts before the first file: what a damaged record or file raises leaves none behind.
    csv = tables.points_csv(records, {"suite": suite, "about": about(records)})
    text = f"# Benchmark: {suite}\n\n{markdown(records, pictures, folder)}\n{published.markdown()}"
    make_folder(out)
    for axis, stem in names.items():
        found = points(records, axis)
        data = (found, axis, "mAP", plot_title(records))
        figure = draw_pareto(*data)
        for kind in ("png", "svg"):
            plots.save(figure, out / f"{stem}.{kind}", data)
    write_text(out / "points.csv", csv)
    write_text(out / "report.md", text)
    write_page(records, f"Benchmark: {suite}", out / "index.html")


def plot_names(records: Sequence[Record]) -> dict[Axis, str]:
    """Axis to the stem of its plot's file; the first is what a user pays."""
    names: dict[Axis, str] = {}
    for axis in axes(records):
        stem = f"pareto_{axis.kind}_{axis.scope}" if names else "pareto"
        same = sum(name == stem or name.startswith(f"{stem}_") for name in names.values())
        names[axis] = f"{stem}_{same + 1}" if same else stem
    return names


def plot_title(records: Sequence[Record]) -> str:
    """What ran, and how points are labelled."""
    return f"Suite {records[0].suite}: detectors by backbone and input size in pixels"


def verdicts(records: Sequence[Record]) -> str:
    """The sentences of the first axis, by mAP; they are all that is said about who wins."""
    first = axes(records)[:1]
    lines = [f"* {c.sentence()}\n" for c in judge(records, only=first)]
    if not lines:
        return "Nothing to compare: there is no latency yet, or one family only.\n"
    return f"Latency {first[0].title}.\n\n" + "".join(lines)


def markdown(
    records: Sequence[Record], pictures: dict[Axis, str], folder: str | os.PathLike[str]
) -> str:
    """Everything that was measured, as a page without its heading.

    Args:
        records: Records of one suite.
        pictures: Axis to its plot's file, as links have it.
        folder: Where the records are from.
    """
    parts = [about(records) + "\n", verdicts(records)]
    parts += [f"![mAP against latency, {a.title}]({file})\n" for a, file in pictures.items()]
    if axes(records):
        parts += [
            "Latency for equal accuracy:\n",
            markdown_table(*tables.verdict_rows(judge(records))),
        ]
    parts += [
        "Accuracy is the mean over seeds and its standard deviation; parameters, MACs and kernels "
        "are the whole detector's.\n",
        markdown_table(*tables.accuracy_rows(records)),
    ]
    if axes(records):
        parts += [
            tables.latency_tables(records),
            tables.FRONT_NOTE + "\n",
            tables.front_table(records),
        ]
    parts += [extras.markdown(folder, records)]
    return "\n".join(part for part in parts if part)


def suites(results: Path) -> dict[str, list[Record]]:
    """Name of each folder under `results` that holds runs, to its records."""
    folders = {p.parent for p in results.glob("*/*.jsonl")}
    return {folder.name: load_records(folder) for folder in sorted(folders)}


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
    for name, (_, entries) in imagenet_records(results).items():
        found[f"imagenet_{name}.svg"] = (draw_published, *imagenet_report.figure_data(entries))
    return found


def imagenet_records(results: Path) -> dict[str, tuple[Path, list[Entry]]]:
    """Name of each record of published accuracies beside latencies, to its file and entries."""
    paths = {path.stem: path for path in sorted((results / "imagenet").glob("*.csv"))}
    from_gpus = sorted(results.parent.glob("gpu/*/imagenet.csv"))  # of `make gpu`
    paths |= {path.parent.name: path for path in from_gpus}
    return {name: (path, read_entries(path)[1]) for name, path in paths.items()}


def imagenet(results: Path) -> str:
    """docs/benchmark.md's part: all of every record."""
    parts = []
    for name, (path, entries) in imagenet_records(results).items():
        title = f"Published top-1 against latency {imagenet_report.conditions(entries)}"
        link = f"{RESULTS}/{path.relative_to(results.parent).as_posix()}"
        parts += [
            f"### {name}\n",
            "".join(f"* {sentence}\n" for sentence in imagenet_report.verdict(entries)),
            f"![{title}]({PICTURES}/imagenet_{name}.svg)\n",
            imagenet_report.markdown(entries),
            f"All of them, each with its source: [{name}.csv]({link}).\n",
        ]
    return "\n".join(parts) or _NONE_YET
