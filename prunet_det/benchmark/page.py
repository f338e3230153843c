"""One HTML page with everything in it: the plot to play with, the table, the networks drawn."""

from __future__ import annotations

import html
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from prunet_det.benchmark import published
from prunet_det.benchmark.blocks import KEY, blocks_of, blocks_svg
from prunet_det.benchmark.fronts import STYLES, axes, counted, pareto, points
from prunet_det.benchmark.judge import judge
from prunet_det.benchmark.records import METRICS, Record
from prunet_det.benchmark.tables import runs_by_point
from prunet_det.utils.extras import require
from prunet_det.utils.io import atomic_path


def write_page(records: Sequence[Record], title: str, path: str | os.PathLike[str]) -> None:
    """Writes the page; it loads nothing, plotly.js stands in it.

    Args:
        records: Of one suite.
        title: Of the page.
        path: The file.

    Raises:
        MissingPackageError: plotly is missing.
    """
    plotly = require("plotly.offline", "benchmark")
    text = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    # In a script, "<" of the data could end it.
    data = json.dumps(page_data(records)).replace("<", "\\u003c")
    parts = {"@TITLE@": html.escape(title), "@DATA@": data, "@PLOTLY@": plotly.get_plotlyjs()}
    for key, value in parts.items():
        text = text.replace(key, value)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_data(records: Sequence[Record]) -> dict[str, Any]:
    """What the page's script shows; fronts and verdicts are worked out here, not there."""
    groups = runs_by_point(records)
    ids = {key: i for i, key in enumerate(groups)}
    metrics = [
        m for m in METRICS if any(r.metrics[m] is not None for g in groups.values() for r in g)
    ]
    verdicts: dict[Any, dict[str, list[str]]] = {}
    for c in judge(records, metrics):
        verdicts.setdefault(c.axis, {}).setdefault(c.metric, []).append(c.sentence())
    shown = []
    for axis in axes(records):
        fronts: dict[str, dict[str, list[int]]] = {}
        latency = {}
        for metric in metrics:
            found = points(records, axis, metric)
            fronts[metric] = {
                family: [
                    ids[p.model, p.input_size]
                    for p in pareto([p for p in found if p.family == family])
                ]
                for family in STYLES
            }
            for p in found:
                at = {"ms": p.latency.ms, "low": p.latency.low, "high": p.latency.high}
                latency[ids[p.model, p.input_size]] = at
        shown.append(
            {
                "conditions": str(axis.conditions),
                "name": axis.name,
                "latency": latency,
                "fronts": fronts,
                "verdicts": verdicts.get(axis, {}),
            }
        )
    return {
        "about": about(records),
        "metrics": metrics,
        "families": {
            name: {"title": s.title, "colour": s.colour, "symbol": s.symbol, "line": s.line}
            for name, s in STYLES.items()
        },
        "axes": shown,
        "nets": [_net(runs, metrics) for runs in groups.values()],
        "key": KEY,
        "drawings": _drawings(records),
        "published": _published(),
    }


def about(records: Sequence[Record]) -> str:
    """Suite, runs, artifact, data and commits, and which networks are not published ones."""
    done = [r for r in records if r.status == "done"]
    failed = len(records) - len(done)
    first = done[0]
    seeds = [len(runs) for runs in runs_by_point(records).values()]
    text = (
        f"Suite {first.suite}: {counted('run', len(done))}, "
        f"{counted('seed', min(seeds), max(seeds))} a point; accuracy of {first.artifact}; "
        f"data {first.data_hash[:12]}, training revision {first.training_revision}."
    )
    if failed:
        text += f" {counted('run', failed)} failed."
    return text + _commits(done) + _origins(done)


def _commits(done: Sequence[Record]) -> str:
    """The commit that trained, or a warning where there are several."""
    names = list(dict.fromkeys(r.commit[:8] for r in done))
    if len(names) == 1:
        return f" Commit {names[0]}."
    return f" **Warning: trained at {len(names)} commits** ({', '.join(names)})."


def _origins(done: Sequence[Record]) -> str:
    """Which networks are not published ones, that no one takes a family's name for them."""
    kinds: dict[str, dict[str, None]] = {"hand-written": {}, "searched": {}}
    for r in done:
        kind = ((r.arch or {}).get("provenance") or {}).get("kind")
        if kind in kinds:
            kinds[kind][r.model] = None
    titles = {"hand-written": "Hand-written, no published networks", "searched": "Searched here"}
    return "".join(f" {titles[k]}: {', '.join(names)}." for k, names in kinds.items() if names)


def _net(runs: Sequence[Record], metrics: Sequence[str]) -> dict[str, Any]:
    first = runs[0]

    def summary(metric: str) -> dict[str, Any] | None:
        values = [v for r in runs if (v := r.metrics[metric]) is not None]
        if not values:
            return None
        return {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
            "values": values,
        }

    def mean(key: str) -> float | None:
        values = [v for r in runs if (v := getattr(r, key)) is not None]
        return statistics.fmean(values) if values else None

    return {
        "model": first.model,
        "family": first.family,
        "input_size": first.input_size,
        "seeds": len(runs),
        "metrics": {m: summary(m) for m in metrics},
        "parameters": first.parameters / 1e6,
        "macs": first.macs / 1e9,
        "kernels": first.kernels,
        "images_per_second": mean("images_per_second"),
        "peak_memory_mb": mean("peak_memory_mb"),
        "artifact": first.artifact,
        "commit": first.commit,
    }


def _drawings(records: Sequence[Record]) -> list[list[str | None]]:
    """(network, its blocks as SVG or None), each network once."""
    models = {r.model: r.arch for r in records if r.status == "done"}
    order = list(dict.fromkeys(model for model, _ in runs_by_point(records)))
    found = {model: blocks_of(model, models[model]) for model in order}
    top = max((max(b.out_chs, b.hidden) for f in found.values() if f for b in f), default=1)
    most = max((len(f) for f in found.values() if f), default=1)
    return [[m, blocks_svg(b, top, most) if b else None] for m, b in found.items()]


def _published() -> dict[str, Any]:
    return {
        "about": "Figures of the networks' publishers. They were measured on other data and other "
        "machines, and nothing here is mixed with them.",
        "x": f"published ms, {published.CONDITIONS}",
        "points": [asdict(c) for c in published.classifiers() if c.ms is not None],
        "tables": [t._asdict() for t in published.tables()],
    }
