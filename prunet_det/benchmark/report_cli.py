"""What the records of a folder say, for people and programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prunet_det.benchmark import extras, published, tables
from prunet_det.benchmark.fronts import Axis, axes, points
from prunet_det.benchmark.judge import judge
from prunet_det.benchmark.page import about, write_page
from prunet_det.benchmark.plot import draw_pareto
from prunet_det.benchmark.records import Record, load_records
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import make_folder, write_text


def reportable(folder: str | os.PathLike[str]) -> list[Record]:
    """A folder's records.

    Raises:
        UserError: It has none that is done.
    """
    records = load_records(folder)
    if not any(r.status == "done" for r in records):
        raise UserError(
            f"no run in {os.fspath(folder)} has succeeded; mend what the records' `error` says."
        )
    return records


def write_report(
    records: Sequence[Record], out: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> None:
    """Writes report.md, points.csv, a plot an axis and index.html.

    Args:
        records: Of one suite, one of them done at least.
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
        records: Of one suite.
        pictures: Axis to its plot's file, as links have it.
        folder: Where the records are from.
    """
    parts = [about(records) + "\n", verdicts(records)]
    parts += [f"![mAP against latency, {a.title}]({file})\n" for a, file in pictures.items()]
    if axes(records):
        parts += ["Latency for equal accuracy:\n", tables.verdict_table(judge(records))]
    parts += [
        "Accuracy is the mean over seeds and its standard deviation; parameters, MACs and kernels "
        "are the whole detector's.\n",
        tables.accuracy_table(records),
    ]
    if axes(records):
        parts += [
            tables.latency_tables(records),
            tables.FRONT_NOTE + "\n",
            tables.front_table(records),
        ]
    parts += [extras.markdown(folder, records), tables.failure_lines(records)]
    return "\n".join(part for part in parts if part)
