"""report.md: what came out for every budget, and how the search got there, in plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunet_det.arch.spec import ArchSpec
from prunet_det.search.result import (
    METRICS,
    REPORT_FILE,
    FoundNetwork,
    SearchResult,
    network_folder,
)
from prunet_det.search.space import SearchSpace
from prunet_det.utils import plots
from prunet_det.utils.io import markdown_table, write_text
from prunet_det.utils.plots import COLOURS, DASHES, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Records = Sequence[Mapping[str, Any]]  # of the HistoryHook
Events = Sequence[tuple[int, float, str]]  # step, budget in ms or 0 for all, what happened


def write_report(
    result: SearchResult, space: SearchSpace, history: Records = (), events: Events = ()
) -> None:
    """Writes report.md into the result's folder and, where there is a history, its plots.

    Args:
        result: What came out.
        space: What could be chosen.
        history: Records of the HistoryHook.
        events: What the architectures decided.
    """
    folder, run = result.folder, result.run
    networks = list(result.networks.values())
    lines = [
        "# A search",
        "",
        f"    {run['command']}",
        "",
        *(f"    {n.line}" for n in networks),
        "",
    ]
    budget = networks[0].budget
    of = {"backbone": "the backbone alone", "detector": "backbone, neck and head"}
    scope = of.get(networks[0].scope, "the detector, end to end")
    sizes = " or ".join(dict.fromkeys(str(n.budget.input_size) for n in networks))
    lines += [
        f"Latency of {scope}, {networks[0].kind}: {budget.conditions}, {sizes} px.",
        "",
    ]
    seconds = {name: s for name, s in run["seconds"].items() if s}
    if seconds:
        rows = [[name, f"{s:.1f}"] for name, s in seconds.items()]
        lines += [markdown_table(["phase", "seconds"], rows)]
    metric = "mAP" if networks[0].config else "top1"
    if sum(metric in n.figures for n in networks) > 1:
        caption = (
            f"The networks' {METRICS[metric]} on the half of the data that their weights have not "
            "seen, but that they were chosen by; other images are less kind to them, and short "
            "trainings such as the last tier's are to large networks."
        )
        lines += _save(
            folder, "", [("curve.png", caption, _draw_curve(networks, metric))], result.lines
        )
    for network in networks:
        lines += _network_lines(folder, network, space, history, events)
    write_text(folder / REPORT_FILE, "\n".join(lines))


def _save(
    folder: Path, prefix: str, pictures: Sequence[tuple[str, str, Figure]], data: Any
) -> list[str]:
    lines = []
    for name, caption, figure in pictures:
        plots.save(figure, folder / prefix / name, [caption, data])
        lines += [f"![{caption}]({prefix}{name})", "", f"*{caption}*", ""]
    return lines


def _network_lines(
    folder: Path, network: FoundNetwork, space: SearchSpace, history: Records, events: Events
) -> list[str]:
    ms = network.budget.ms
    lines = [f"## {ms:g} ms: {network.spec.name}", "", f"    {network.line}", ""]
    figures = {k: v for k, v in network.figures.items() if isinstance(v, (int, float, str))}
    if figures:
        rows = [
            [name.replace("_", " "), f"{value:.5g}" if isinstance(value, float) else str(value)]
            for name, value in figures.items()
        ]
        lines += [markdown_table(["figure", "value"], rows)]
    lines.append(_blocks_table(network.spec))
    finalists = network.figures.get("finalists")
    if finalists:
        what = "mAP after a training" if network.config else "top-1 after a training from scratch"
        header = ["network of", "ms", "layers", f"{what} (steps)"]
        lines += ["### The last tier", "", markdown_table(header, _finalist_rows(finalists))]
    # Where sizes of images are chosen too, each has had its own preferences.
    names = {f"{ms:g}", f"{ms:g}@{network.budget.input_size}"}
    own = [r[name] for r in history for name in names & r.keys()]
    steps = np.array([r["step"] for r in history if names & r.keys()])
    if own:
        pictures = [
            (
                "tiers.png",
                "Probability of each candidate of each layer; a line ends where it leaves. Dotted: "
                "the probability that the stage ends before the layer; 1 is gone.",
                _draw_tiers(space, steps, own),
            ),
            (
                "widths.png",
                "Inner width of each layer over its input, of the network that is preferred at the "
                "time; that network lies on the budget, so fewer layers are wider ones.",
                _draw_widths(space, steps, own),
            ),
        ]
        prefix = f"{network_folder('', ms)}/"
        lines += ["### How the tiers went", "", *_save(folder, prefix, pictures, own)]
    happened = [f"* step {step}: {text}" for step, of, text in events if of in (0.0, ms)]
    if happened:
        lines += ["### What happened", "", *happened, ""]
    return lines


def _finalist_rows(finalists: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of `Finalist.to_dict`: how long each network was trained, and what came of it."""
    rows = []
    for finalist in finalists:
        scores = [f"{top1:.3f} ({steps})" for steps, (top1, _) in finalist["scores"].items()]
        layers = sum(operator >= 0 for operator in finalist["operators"])
        rows.append([finalist["name"], f"{finalist['ms']:.4f}", str(layers), ", ".join(scores)])
    return rows


def _blocks_table(spec: ArchSpec) -> str:
    header = ["stage", "block", "kernel", "stride", "channels", "inner width"]
    rows = [
        [f"{i}.{j}", *map(str, (b.kind, b.kernel, b.stride, b.out_chs, b.hidden or "-"))]
        for i, stage in enumerate(spec.stages)
        for j, b in enumerate(stage.blocks)
    ]
    return markdown_table(header, rows)


def _plain(label: str, x: str = "step") -> tuple[Figure, Axes]:
    figure, (axis,) = plots.figure(7.5, 3.2)
    axis.grid(alpha=0.25)
    axis.set(xlabel=x, ylabel=label)
    return figure, axis


def _draw_curve(networks: Sequence[FoundNetwork], metric: str) -> Figure:
    figure, axis = _plain(METRICS[metric], "latency, ms")
    shown = [n for n in networks if metric in n.figures]
    points = [(n.measured_ms or n.ms, n.figures[metric]) for n in shown]
    axis.plot(*zip(*points, strict=True), "o-", color=PALETTE["blue"])
    for network, point in zip(shown, points, strict=True):
        text = f"{network.budget.ms:g} ms"
        label = axis.annotate(text, point, (0, 7), textcoords="offset points", ha="center", size=8)
        label.set_bbox({"fc": "white", "ec": "none", "pad": 1.0})  # a falling line would cross it
    axis.margins(0.08, 0.15)
    return figure


def _style(place: int) -> dict[str, Any]:
    """Look of one of many lines."""
    round_, colour = divmod(place, len(COLOURS))
    return {"color": COLOURS[colour], "ls": DASHES[round_ % len(DASHES)], "lw": 1.2}


def _draw_tiers(space: SearchSpace, steps: np.ndarray, records: Records) -> Figure:
    """A panel a layer: its candidates, and its skip."""
    count, columns = len(space.layers), 4
    rows = -(-count // columns)
    figure, axes = plots.figure(9.0, 1.5 * rows + 0.6, rows, columns)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("probability", fontsize=9)
    every = list(dict.fromkeys(str(o) for layer in space.layers for o in layer.operators))
    names: dict[str, Line2D] = {}
    for axis in axes[count:]:
        axis.set_visible(False)
    for i, (axis, layer) in enumerate(zip(axes, space.layers, strict=False)):
        for j, operator in enumerate(layer.operators):
            values = np.array([r["probabilities"][i][j] for r in records])
            values[values == 0] = np.nan  # it has left
            style = _style(every.index(str(operator)))
            (names[str(operator)],) = axis.plot(steps, values, **style)
        if layer.skippable:
            skips = [r["skips"][i] for r in records]
            (names["skip"],) = axis.plot(steps, skips, color=plots.DARK, ls=":", lw=1.2)
        chs = f"{layer.in_chs}\u2192{layer.out_chs}"
        axis.set_title(f"layer {layer.name}  {chs}" + " /2" * (layer.stride == 2), fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set(xlim=(steps[0], max(steps[-1], steps[0] + 1)), ylim=(0, 1.03))
        axis.locator_params(nbins=4)
    lines = list(names.values())
    figure.legend(
        lines, list(names), loc="outside upper center", ncols=7, frameon=False, fontsize=8
    )
    return figure


def _draw_widths(space: SearchSpace, steps: np.ndarray, records: Records) -> Figure:
    """A line a layer."""
    figure, axis = _plain("inner width over input")
    pairs = np.array([r["pairs"] for r in records], float)  # (steps, layers, 2)
    widths = np.sqrt(pairs.prod(-1)) / [layer.in_chs for layer in space.layers]
    widths[widths == 0] = np.nan  # there is no such layer, or none with an inner width
    shown = np.flatnonzero(~np.isnan(widths).all(0))
    for place, i in enumerate(shown):
        axis.plot(steps, widths[:, i], **_style(place), label=space.layers[i].name)
    axis.set_ylim(0, None)
    if len(shown):
        figure.legend(frameon=False, title="layer", ncols=2, loc="outside right upper")
    return figure
