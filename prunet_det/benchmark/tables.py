"""Records as tables: Markdown for people, CSV for programs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from prunet_det.benchmark.analysis import hypervolume
from prunet_det.benchmark.fronts import (
    REFERENCE_MARGIN,
    STYLES,
    Axis,
    axes,
    family_fronts,
    points,
    reference_ms,
)
from prunet_det.benchmark.judge import LatencyRatio
from prunet_det.benchmark.records import METRICS, Record
from prunet_det.utils.io import csv_text, markdown_table


def runs_by_point(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """(model, input size) to its runs by seed; families together, small ones first."""
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    families = list(STYLES)
    order = sorted(
        records,
        key=lambda r: (families.index(r.family), r.macs, r.model, r.input_size, r.seed),
    )
    for r in order:
        groups[r.model, r.input_size].append(r)
    return dict(groups)


def _spread(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    sd = f" \u00b1 {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.3f}{sd}"


def _mean(values: Iterable[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{statistics.fmean(known):,.0f}" if known else ""


# Header and rows.
Rows = tuple[list[str], list[list[str]]]


def accuracy_rows(records: Sequence[Record]) -> Rows:
    """A row a network and input size: accuracies, mean and deviation over seeds, and costs."""
    rows = []
    for (model, size), runs in runs_by_point(records).items():
        m = runs[0]
        rows.append(
            [
                f"`{model}`",
                STYLES[m.family].title,
                str(size),
                str(len(runs)),
                *(_spread([r.metrics[k] for r in runs]) for k in METRICS),
                f"{m.parameters / 1e6:.2f}",
                f"{m.macs / 1e9:.3f}",
                str(m.kernels),
                _mean(r.images_per_second for r in runs),
                _mean(r.peak_memory_mb for r in runs),
            ]
        )
    header = ["backbone", "family", "px", "seeds", *METRICS, "parameters (M)", "GMACs", "kernels"]
    return [*header, "training, images/s", "peak MiB"], rows


def _cells(records: Sequence[Record], axis: Axis) -> dict[tuple[str, int], str]:
    """(model, input size) to the latency on an axis, bold on its family's front."""
    found = points(records, axis)
    best = {p for front in family_fronts(found).values() for p in front}
    return {
        (p.model, p.input_size): f"**{p.latency}**" if p in best else str(p.latency) for p in found
    }


def latency_tables(records: Sequence[Record]) -> str:
    """A table for each set of conditions, a column a scope; bold is on its family's front."""
    what = {"measured": "median (10th to 90th percentile)", "predicted": "value (error band)"}
    marks = {"measured": "unstable", "predicted": "extrapolated"}
    parts = []
    for (kind, conditions), group in groupby(axes(records), lambda a: (a.kind, a.conditions)):
        columns = {f"{axis.scope.label}, ms": _cells(records, axis) for axis in group}
        rows = [
            [f"`{key[0]}`", str(key[1]), *(cells.get(key, "") for cells in columns.values())]
            for key in runs_by_point(records)
        ]
        noted = any("~" in cell for row in rows for cell in row[2:])
        mark = f"; ~ is {marks.get(kind, 'noted in its file')}" if noted else ""
        parts.append(
            f"{kind.capitalize()}: {conditions}. {what.get(kind, 'Value').capitalize()}{mark}; "
            "bold is on its family's front by mAP.\n\n"
            + markdown_table(["backbone", "px", *columns], rows)
        )
    return "\n".join(parts)


def front_table(records: Sequence[Record], metric: str = "mAP") -> str:
    """A row an axis and family: the front's members and its hypervolume."""
    rows = []
    for axis in axes(records):
        found = points(records, axis, metric)
        for family, front in family_fronts(found).items():
            limit = reference_ms(found)
            members = ", ".join(f"`{p.model}` {p.input_size}" for p in front)
            area = hypervolume([p.latency.ms for p in front], [p.mean for p in front], limit)
            rows.append(
                [axis.title, STYLES[family].title, members, f"{area:.3f}", f"{limit:.4g} ms"]
            )
    return markdown_table(["latency", "family", "front", "hypervolume", "up to"], rows)


FRONT_NOTE = (
    "Hypervolume: area between a front and the reference point (mAP 0; "
    f"{REFERENCE_MARGIN:g} times the slowest point of any family), as a share of that rectangle."
)


def verdict_rows(comparisons: Sequence[LatencyRatio]) -> Rows:
    """A row a comparison."""
    rows = []
    for c in comparisons:
        row = [c.axis.title, STYLES[c.other].title, c.metric]
        if c.estimate is None:
            row += ["", "", "", ""]
        else:
            r = c.estimate
            bounds = f"{c.interval[0]:.2f} to {c.interval[1]:.2f}" if c.interval else "none"
            row += [f"{r.value:.2f}", bounds, f"{r.least:.2f} to {r.most:.2f}"]
            row += [f"{r.low:.3f} to {r.high:.3f}"]
        meaning = {"faster": "PruNet is faster", "slower": "PruNet is slower"}
        reason = f": {c.reason}" if c.reason else ""
        rows.append([*row, f"{meaning.get(c.verdict, c.verdict)}{reason}"])
    header = ["latency", "PruNet against", "at equal", "ratio", "95 % interval"]
    return [*header, "within the range", "range", "verdict"], rows


def points_csv(records: Sequence[Record], comments: dict[str, str]) -> str:
    """CSV, a row for each point on each axis, so that a latency stands beside its conditions.

    A point that has not been timed has one row without latency.

    Args:
        records: Records of one suite.
        comments: First lines, as `read_csv` of `prunet_det.utils.io` reads them.
    """
    groups = runs_by_point(records)
    fields = ["suite", "model", "family", "input_size", "seeds", "artifact"]
    fields += [f"{m}{s}" for m in METRICS for s in ("", "_sd")]
    fields += ["parameters", "macs", "kernels", "images_per_second", "peak_memory_mb"]
    fields += ["kind", "scope", "device", "runtime", "precision", "batch", "threads"]
    fields += ["latency_ms", "low_ms", "high_ms", "on_front"]
    plain = {key: _point_row(runs, fields) for key, runs in groups.items()}
    rows, timed = [], set()
    for axis in axes(records):
        found = points(records, axis)
        best = {p for front in family_fronts(found).values() for p in front}
        for p in found:
            row = dict(plain[p.model, p.input_size])
            figures = p.latency.to_dict()
            row |= {k: v for k, v in figures.items() if k in fields}
            row |= {k: f"{figures[k]:.6g}" for k in ("latency_ms", "low_ms", "high_ms")}
            row["on_front"] = p in best
            rows.append(row)
            timed.add((p.model, p.input_size))
    rows += [row for key, row in plain.items() if key not in timed]
    return csv_text([{key: row.get(key, "") for key in fields} for row in rows], comments)


def _point_row(runs: Sequence[Record], fields: Sequence[str]) -> dict[str, Any]:
    """Everything of a point but its latencies."""
    row: dict[str, Any] = {k: getattr(runs[0], k) for k in fields if hasattr(runs[0], k)}
    for k in ("images_per_second", "peak_memory_mb"):
        row[k] = _mean(getattr(r, k) for r in runs).replace(",", "")
    for m in METRICS:
        known = [v for r in runs if (v := r.metrics[m]) is not None]
        row[m] = f"{statistics.fmean(known):.6g}" if known else ""
        row[f"{m}_sd"] = f"{statistics.stdev(known):.6g}" if len(known) > 1 else ""
    row["seeds"] = len(runs)
    return row
