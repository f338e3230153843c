"""report.md: what came out, and how the search got there, in plots."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunet_det.arch.spec import ArchSpec, BlockSpec
from prunet_det.search.old_architecture import Architecture
from prunet_det.search.old_loop import SearchLoop
from prunet_det.search.results import Request, SearchResult
from prunet_det.utils import plots
from prunet_det.utils.io import write_text
from prunet_det.utils.plots import COLOURS, DASHES, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

History = Sequence[Mapping[str, Any]]  # what the loop notes of its steps
_WIDE = (7.5, 3.2)  # inches


def write_report(
    out: str | os.PathLike[str],
    result: SearchResult,
    request: Request,
    loop: SearchLoop | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes report.md and, of a search, its plots.

    Args:
        out: Folder.
        result: What came out.
        request: What was asked for.
        loop: Of a search, to draw how it went; None leaves the plots out.
        extra: Further lines of run.json.
    """
    out = Path(out)
    lines = [f"# {result.spec.name}: {result.budget.ms:g} ms", "", f"    {request.command}", ""]
    lines += ["    " + line for line in result.lines()] + [""]
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
    lines += ["## The network", "", *_network_table(result.spec), ""]
    if loop is not None and loop.history:
        lines += ["## How it was found", ""]
        for name, caption in draw(out, loop.history, loop.architecture, result.budget.ms).items():
            lines += [f"![{caption}]({name})", "", f"*{caption}*", ""]
        lines += ["## What was pruned", ""]
        lines += [f"* step {at}: {event}" for at, event in loop.events] + [""]
    write_text(out / "report.md", "\n".join(lines))


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
    out: Path, history: History, architecture: Architecture, budget_ms: float
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
    searched = [r for r in history if r["weight"] or r["progress"] > 0] or list(history)
    steps = np.array([r["iter"] for r in searched])
    figures = {
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
    for name, (caption, function) in figures.items():
        records = history if name == "cost.png" else searched
        figure = function(steps, records, architecture, budget_ms)
        plots.save(figure, out / name, [caption, records, budget_ms])
        captions[name] = caption
    return captions


def _twin(
    axis: Axes, steps: Sequence[int] | np.ndarray, values: Sequence[float], label: str
) -> Axes:
    """A dashed line on an axis of its own, on the right."""
    twin = axis.twinx()
    twin.spines["top"].set_visible(False)
    twin.plot(steps, values, color=PALETTE["vermilion"], lw=1.0, ls="--")
    twin.set_ylabel(f"{label} (dashed)", color=PALETTE["vermilion"])
    return twin


def _draw_budget(steps: np.ndarray, records: History, _: Architecture, budget_ms: float) -> Figure:
    figure, (axis,) = plots.figure(*_WIDE)
    axis.grid(alpha=0.25)
    green, blue = PALETTE["green"], PALETTE["blue"]
    axis.axhspan(0.97 * budget_ms, budget_ms, color=green, alpha=0.25, label="accepted")
    axis.plot(steps, [r["expected_ms"] for r in records], color=blue, label="expected")
    axis.set(xlabel="step", ylabel="expected latency, ms")
    _twin(axis, steps, [r["weight"] for r in records], "weight of the latency")
    axis.legend(frameon=False)
    return figure


def _grid(architecture: Architecture, label: str) -> tuple[Figure, list[Axes]]:
    count = len(architecture.space.layers)
    columns = 4
    rows = -(-count // columns)
    figure, axes = plots.figure(9.0, 1.7 * rows + 0.6, rows, columns)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel(label, fontsize=9)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis, layer in zip(axes, architecture.space.layers, strict=False):
        axis.grid(alpha=0.25)
        chs = f"{layer.in_chs}\u2192{layer.out_chs}"
        axis.set_title(f"layer {layer.name}  {chs}" + " /2" * (layer.stride == 2), fontsize=8)
        axis.tick_params(labelsize=7)
    return figure, list(axes[:count])


def _draw_widths(
    steps: np.ndarray, records: History, architecture: Architecture, _: float
) -> Figure:
    figure, axes = _grid(architecture, "inner width, channels")
    last = records[-1]
    for i, (axis, layer) in enumerate(zip(axes, architecture.space.layers, strict=True)):
        own = np.flatnonzero(architecture.layer_of == i)
        best = int(own[int(np.argmax(np.array(last["probabilities"])[own]))])
        operator = architecture.operators[best]
        if operator is None or not operator.has_hidden:
            axis.text(0.5, 0.5, "no inner width", ha="center", transform=axis.transAxes, size=8)
            axis.set(xticks=[], yticks=[])
            continue
        widths = np.array(layer.widths_of(operator))
        here = [r for r in records if r["skips"][i] < 1]
        at = steps[: len(here)]
        small, large = (widths[[r["pairs"][side][best] for r in here]] for side in (0, 1))
        blue = PALETTE["blue"]
        axis.fill_between(at, small, large, color=blue, alpha=0.3, lw=0, step="post")
        axis.plot(at, small, at, large, color=blue, lw=0.8, drawstyle="steps-post")
        axis.set_ylim(0, widths[-1] * 1.02)
        axis.set_xlim(steps[0], steps[-1])
        axis.set_title(f"{axis.get_title()}  {operator}", fontsize=8)
    return figure


def _draw_candidates(
    steps: np.ndarray, records: History, architecture: Architecture, _: float
) -> Figure:
    figure, axes = _grid(architecture, "probability")
    names: dict[str, Line2D] = {}
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
                color=COLOURS[place % len(COLOURS)],
                ls=DASHES[place // len(COLOURS) % len(DASHES)],
                lw=1.2,
            )
            names[name] = line
        axis.set(xlim=(steps[0], steps[-1]), ylim=(0, 1.03))
    figure.legend(
        list(names.values()), list(names), loc="outside upper center", ncols=6, frameon=False
    )
    return figure


def _draw_layers(
    steps: np.ndarray, records: History, architecture: Architecture, _: float
) -> Figure:
    figure, (axis,) = plots.figure(*_WIDE)
    axis.grid(alpha=0.25)
    place = 0
    for i, layer in enumerate(architecture.space.layers):
        if not layer.skippable:
            continue
        values = [r["skips"][i] for r in records]
        dash = DASHES[place // len(COLOURS) % len(DASHES)]
        axis.plot(steps, values, dash, color=COLOURS[place % len(COLOURS)], label=layer.name)
        place += 1
    axis.set(xlabel="step", ylabel="probability of the skip", ylim=(-0.02, 1.02))
    if place:
        figure.legend(frameon=False, title="layer", ncols=2, loc="outside right upper")
    return figure


def _draw_cost(_: np.ndarray, records: History, __: Architecture, ___: float) -> Figure:
    figure, (axis,) = plots.figure(*_WIDE)
    axis.grid(alpha=0.25)
    steps = [r["iter"] for r in records]
    axis.plot(steps, [1e3 * r["seconds"] for r in records], color=PALETTE["blue"], lw=0.9)
    axis.set(xlabel="step", ylabel="ms a step", ylim=(0, None))
    memory = "memory_mb" in records[-1]
    values = [r["memory_mb"] if memory else r["parameters"] / 1e6 for r in records]
    what = "peak memory, MiB" if memory else "parameters, millions"
    _twin(axis, steps, values, what).set_ylim(0, None)
    return figure
