"""report.md: what came out, and how the search got there, in plots."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.arch.spec import ArchSpec, BlockSpec
from prunet_det.search.architecture import Architecture
from prunet_det.search.loop import SearchLoop
from prunet_det.search.results import Outcome, Request
from prunet_det.utils.io import atomic_path

_WIDE = (7.5, 3.2)  # inches
# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def write_report(
    out: str | os.PathLike[str],
    outcome: Outcome,
    request: Request,
    loop: SearchLoop | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes report.md and, of a search, its plots.

    Args:
        out: Folder.
        outcome, request: What came out, and what was asked for.
        loop: Of a search, to draw how it went; None leaves the plots out.
        extra: Further lines of run.json.
    """
    out = Path(out)
    lines = [f"# {outcome.spec.name}: {outcome.budget.ms:g} ms", "", f"    {request.command}", ""]
    lines += ["    " + line for line in outcome.lines()] + [""]
    conditions = ", ".join(f"{k} {v}" for k, v in request.conditions.items() if v)
    lines += [f"Latency: {conditions}, {request.budget.input_size} px, scope backbone.", ""]
    if extra:
        names = {
            "iterations": "iterations",
            "search_seconds": "seconds of search",
            "inherited_top1": "top-1 of the inherited weights on the architecture's half",
        }
        lines += [f"* {text}: {extra[key]:.5g}" for key, text in names.items() if key in extra]
        lines.append("")
    lines += ["## The network", "", *_network_table(outcome.spec), ""]
    if loop is not None and loop.history:
        lines += ["## How it was found", ""]
        for name, caption in draw(out, loop.history, loop.architecture, outcome.budget.ms).items():
            lines += [f"![{caption}]({name})", "", f"*{caption}*", ""]
        lines += ["## What was pruned", ""]
        lines += [f"* step {at}: {event}" for at, event in loop.events] + [""]
    with atomic_path(out / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _network_table(spec: ArchSpec) -> list[str]:
    rows = ["| stage | block | kernel | stride | channels | inner width |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")

    def row(place: str, b: BlockSpec) -> str:
        inner = str(b.hidden or "-")
        return f"| {place} | {b.kind} | {b.kernel} | {b.stride} | {b.out_chs} | {inner} |"

    for i, stage in enumerate(spec.stages):
        rows += [row(f"{i}.{j}", block) for j, block in enumerate(stage.blocks)]
    return rows


def draw(
    out: Path, history: Sequence[Mapping[str, Any]], architecture: Architecture, budget_ms: float
) -> dict[str, str]:
    """Draws the plots of a search.

    Args:
        out: Folder.
        history: The loop's records.
        architecture: Names and widths of the candidates.
        budget_ms: Target.

    Returns:
        File name to caption.
    """
    import matplotlib

    matplotlib.use("Agg")
    searched = [r for r in history if r["weight"] or r["progress"] > 0] or list(history)
    steps = np.array([r["iter"] for r in searched])
    plots = {
        "budget.png": ("Expected latency against the budget.", _draw_budget),
        "widths.png": (
            "The two widths of the likeliest candidate's Prunode in each layer, closing in.",
            _draw_widths,
        ),
        "candidates.png": (
            "Probability of each candidate of each layer; a line ends where it leaves.",
            _draw_candidates,
        ),
        "layers.png": ("Probability that a layer is skipped; 1 is gone.", _draw_layers),
        "cost.png": ("Time of a step, and parameters of the supernet.", _draw_cost),
    }
    captions = {}
    for name, (caption, function) in plots.items():
        records = history if name == "cost.png" else searched
        figure = function(steps, records, architecture, budget_ms)
        with atomic_path(out / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        captions[name] = caption
        figure.clear()
    return captions


def _axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = _WIDE) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def _draw_budget(steps: np.ndarray, records: Any, _: Architecture, budget_ms: float) -> Any:
    figure, axes = _axes()
    axis = axes[0, 0]
    axis.axhspan(0.97 * budget_ms, budget_ms, color=_COLOURS[2], alpha=0.25, label="accepted")
    axis.plot(steps, [r["expected_ms"] for r in records], color=_COLOURS[0], label="expected")
    axis.set(xlabel="step", ylabel="ms")
    twin = axis.twinx()
    twin.spines[["top"]].set_visible(False)
    twin.plot(steps, [r["weight"] for r in records], color=_COLOURS[1], lw=0.8, ls="--")
    twin.set_ylabel("weight of the latency (dashed)", color=_COLOURS[1])
    axis.legend(frameon=False)
    return figure


def _grid(architecture: Architecture) -> tuple[Any, list[Any]]:
    count = len(architecture.space.layers)
    columns = 4
    rows = -(-count // columns)
    figure, axes = _axes(rows, columns, (9.0, 1.7 * rows + 0.4))
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for axis, layer in zip(axes.flat, architecture.space.layers, strict=False):
        chs = f"{layer.in_chs}\u2192{layer.out_chs}"
        axis.set_title(f"layer {layer.name}  {chs}" + " /2" * (layer.stride == 2), fontsize=8)
        axis.tick_params(labelsize=7)
    return figure, list(axes.flat[:count])


def _draw_widths(steps: np.ndarray, records: Any, architecture: Architecture, _: float) -> Any:
    figure, axes = _grid(architecture)
    last = records[-1]
    for i, (axis, layer) in enumerate(zip(axes, architecture.space.layers, strict=True)):
        own = np.flatnonzero(architecture.layer_of == i)
        best = int(own[int(np.argmax(np.array(last["probabilities"])[own]))])
        operator = architecture.operators[best]
        if operator is None or not operator.has_hidden:
            axis.text(0.5, 0.5, "no inner width", ha="center", transform=axis.transAxes, size=8)
            continue
        widths = np.array(layer.widths_of(operator))
        here = [r for r in records if r["skips"][i] < 1]
        at = steps[: len(here)]
        small, large = (widths[[r["pairs"][side][best] for r in here]] for side in (0, 1))
        axis.fill_between(at, small, large, color=_COLOURS[0], alpha=0.3, lw=0, step="post")
        axis.plot(at, small, color=_COLOURS[0], lw=0.8, drawstyle="steps-post")
        axis.plot(at, large, color=_COLOURS[0], lw=0.8, drawstyle="steps-post")
        axis.set_ylim(0, widths[-1] * 1.02)
        axis.set_xlim(steps[0], steps[-1])
        axis.set_title(f"{axis.get_title()}  {operator}", fontsize=8)
    return figure


def _draw_candidates(steps: np.ndarray, records: Any, architecture: Architecture, _: float) -> Any:
    figure, axes = _grid(architecture)
    names: dict[str, Any] = {}
    every = list(dict.fromkeys(str(o) if o else "skip" for o in architecture.operators))
    for i, axis in enumerate(axes):
        for m in np.flatnonzero(architecture.layer_of == i):
            operator = architecture.operators[m]
            name = str(operator) if operator else "skip"
            values = np.array([r["probabilities"][m] for r in records])
            values = np.where(values > 0, values, np.nan)
            place = every.index(name)
            (line,) = axis.plot(
                steps,
                values,
                color=_COLOURS[place % len(_COLOURS)],
                ls=("-", "--", ":")[place // len(_COLOURS) % 3],
                lw=1.2,
            )
            names[name] = line
        axis.set_ylim(0, 1.03)
    figure.legend(
        list(names.values()), list(names), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def _draw_layers(steps: np.ndarray, records: Any, architecture: Architecture, _: float) -> Any:
    figure, axes = _axes()
    axis, place = axes[0, 0], 0
    for i, layer in enumerate(architecture.space.layers):
        if not layer.skippable:
            continue
        values = [r["skips"][i] for r in records]
        style = dict(color=_COLOURS[place % len(_COLOURS)], ls=("-", "--")[place // 8 % 2])
        axis.plot(steps, values, label=layer.name, **style)
        place += 1
    axis.set(xlabel="step", ylabel="skip", ylim=(-0.02, 1.02))
    if place:
        figure.legend(frameon=False, title="layer", ncols=2, loc="outside right upper")
    return figure


def _draw_cost(_: np.ndarray, records: Any, __: Architecture, ___: float) -> Any:
    figure, axes = _axes()
    axis = axes[0, 0]
    steps = [r["iter"] for r in records]
    axis.plot(steps, [1e3 * r["seconds"] for r in records], color=_COLOURS[0], lw=0.9)
    axis.set(xlabel="step", ylabel="ms a step", ylim=(0, None))
    twin = axis.twinx()
    twin.spines[["top"]].set_visible(False)
    memory = "memory_mb" in records[-1]
    values = [r["memory_mb"] if memory else r["parameters"] / 1e6 for r in records]
    twin.plot(steps, values, color=_COLOURS[1], ls="--")
    what = "peak memory, MiB" if memory else "parameters, millions"
    twin.set_ylabel(f"{what} (dashed)", color=_COLOURS[1])
    twin.set_ylim(0, None)
    return figure
