"""The plots: accuracy against latency with the families' fronts, and published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunet_det.benchmark.fronts import (
    PUBLISHED_STYLES,
    STYLES,
    Axis,
    FrontPoint,
    counted,
    family_fronts,
    pareto,
)
from prunet_det.utils import plots
from prunet_det.utils.extras import require
from prunet_det.utils.plots import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

_SIZE, _LARGE = (7.6, 5.0), (9.6, 6.6)  # inches; the latter for some hundred points
_ALL_LABELLED = 10  # points; of more, those on fronts are labelled
# Where a label may stand: quadrants and sides, nearest first; x and y in points from the marker.
_PLACES = [
    (x * d, y * d)
    for d in (8, 14, 22, 32, 44, 58)
    for x, y in ((1, -0.7), (-1, 0.7), (1, 0.7), (-1, -0.7), (0, 1.2), (0, -1.2), (1, 0), (-1, 0))
]
_SIDES = {1: ("left", "bottom"), -1: ("right", "top"), 0: ("center", "center")}
_LEADER = 15  # points; a label further away is tied to its marker by a line
_BEADS = 60  # boxes along a front's line, between two of its networks, that labels keep off


def draw_pareto(found: Sequence[FrontPoint], axis: Axis, metric: str, title: str) -> Figure:
    """A figure of points, seeds as error bars, and the fronts as the judge reads them.

    Args:
        found: The points.
        axis, metric: What they are of.
        title: What ran on which data.
    """
    figure, axes = _figure(_SIZE, found)
    for family, front in family_fronts(found).items():
        style, own = STYLES[family], [p for p in found if p.family == family]
        seeds = [len(p.values) for p in own]
        look: dict[str, Any] = dict(color=style.colour, marker=style.marker, markersize=7)
        axes.errorbar(
            *_xy(own),
            xerr=np.transpose(
                [(p.latency.ms - p.latency.low, p.latency.high - p.latency.ms) for p in own]
            ),
            # A mean of equal values may be off them by rounding.
            yerr=np.transpose([(p.mean - min(p.values), max(p.values) - p.mean) for p in own]).clip(
                0
            ),
            **look,
            linestyle="",
            markerfacecolor="white",
            elinewidth=0.9,
            capsize=2.5,
            zorder=3,
        )
        label = f"{style.title} ({counted('seed', min(seeds), max(seeds))} a point)"
        axes.plot(*_xy(front), style.dash, **look, linewidth=1.4, zorder=4, label=label)
    axes.set_xlabel(f"latency, ms (log): {axis.name}\n{axis.conditions}")
    axes.set_ylabel(f"{metric}, mean over seeds (bars: least and greatest)")
    axes.set_title(title, fontsize=10, loc="left")
    legend = axes.legend(frameon=False, loc="lower right")
    _set_labels(figure, legend, {p: f"{p.model} {p.input_size}" for p in found})
    return figure


def draw_published(
    found: Sequence[FrontPoint], latency: str, title: str, beside: Sequence[FrontPoint] = ()
) -> Figure:
    """A figure of published top-1 against latency, with the families' fronts and all networks'.

    Args:
        found: The points.
        latency: What the milliseconds are, and hold for.
        title: Whose accuracies they are.
        beside: Points that no front may have, shown hollow.
    """
    found, beside = map(_without_bars, (found, beside))
    many = len(found) > _ALL_LABELLED
    every = [*found, *beside]
    figure, axes = _figure(_LARGE if many else _SIZE, every)
    for family, best in family_fronts(found).items():
        style = PUBLISHED_STYLES[family]
        rest = [p for p in found if p.family == family and p not in best]
        look: dict[str, Any] = dict(color=style.colour, marker=style.marker)
        axes.plot(*_xy(rest), linestyle="", **look, markersize=2.5, alpha=0.6, zorder=2)
        axes.plot(
            *_xy(best),
            style.dash,
            **look,
            linewidth=1.2,
            markersize=5.5,
            zorder=3,
            label=style.title,
        )
    if beside:
        look = dict(color=GREY, marker="o", markerfacecolor="white", linestyle="", markersize=3)
        axes.plot(*_xy(beside), **look, zorder=1, label="trained on extra data")
    axes.set_xlabel(f"latency, ms (log), {latency}", fontsize=9)
    axes.set_ylabel("published ImageNet top-1, %")
    # Far below the front nothing needs a place; without a front everything does.
    low = min(p.mean for p in pareto(found) or every) - 2
    below = sum(p.mean < low for p in every)
    axes.set_ylim(bottom=max(low, axes.get_ylim()[0]))
    note = f"; {below} below {low:.0f} % are not shown" if below else ""
    axes.set_title(f"{title}{note}", fontsize=10, loc="left")
    legend = axes.legend(frameon=False, loc="lower right", fontsize=8)
    everyone = {p: f"{p.model} {p.input_size}" for p in found}
    _set_labels(figure, legend, _front_labels(found) if many else everyone)
    return figure


def _figure(size: tuple[float, float], found: Sequence[FrontPoint]) -> tuple[Figure, Axes]:
    """Empty axes with room for points, their bars and labels."""
    figure, (axes,) = plots.figure(*size)
    low, high = min(p.latency.low for p in found), max(p.latency.high for p in found)
    room = 1.05 * (high / low) ** 0.14
    narrow = high < 10 * low
    plots.log_scale(axes, "x", (1, 1.5, *range(2, 10)) if narrow else (1, 2, 3, 5, 7))
    axes.set_xlim(low / room, high * room)
    if high < 2 * low:
        axes.xaxis.set_major_locator(require("matplotlib.ticker", "det").AutoLocator())
    axes.margins(y=0.14)
    axes.grid(color="#EEEEEE", zorder=0, which="both", linewidth=0.8)
    return figure, axes


def _without_bars(found: Sequence[FrontPoint]) -> list[FrontPoint]:
    at = [(p, p.latency.ms) for p in found]
    return [replace(p, latency=replace(p.latency, low=ms, high=ms)) for p, ms in at]


def _xy(found: Sequence[FrontPoint]) -> tuple[list[float], list[float]]:
    return [p.latency.ms for p in found], [p.mean for p in found]


def _front_labels(found: Sequence[FrontPoint]) -> dict[FrontPoint, str]:
    """Labels of networks on the front of all, or on that of their named family.

    A network that is there at several resolutions is named once, at its most accurate one.
    """
    named = [p for family, own in family_fronts(found).items() if family in STYLES for p in own]
    on = dict.fromkeys([*pareto(found), *named])
    groups: dict[str, list[FrontPoint]] = {}
    for p in sorted(on, key=lambda p: p.mean):
        groups.setdefault(p.model.partition(".")[0], []).append(p)
    sizes = {name: [p.input_size for p in own] for name, own in groups.items()}
    ends = {name: dict.fromkeys((min(own), max(own))) for name, own in sizes.items()}
    return {own[-1]: f"{name} {' to '.join(map(str, ends[name]))}" for name, own in groups.items()}


def _set_labels(figure: Figure, legend: Legend, labels: Mapping[FrontPoint, str]) -> None:
    """Sets labels where they cover no marker, error bar, front or other label.

    Each takes the first free place of `_PLACES`; where none is free, that which covers least.
    """
    figure.draw_without_rendering()  # the layout settles here, before anything is placed
    (axes,), scale = figure.axes, figure.dpi / 72
    inside, box = (np.array(part.get_window_extent().extents) for part in (axes, legend))
    taken = [box, *_boxes(axes, labels, scale)]
    places = np.array(_PLACES)
    for p, text in sorted(labels.items(), key=lambda item: (item[0].latency.ms, item[0].mean)):
        at, colour = (p.latency.ms, p.mean), PUBLISHED_STYLES[p.family].colour
        look: dict[str, Any] = dict(textcoords="offset points", zorder=5)
        note = axes.annotate(text, at, (0, 0), **look, fontsize=7.5, color=colour)
        size = np.array(note.get_window_extent().size) + 2
        corners = axes.transData.transform(at) + places * scale - (1 - np.sign(places)) / 2 * size
        boxes = np.hstack([corners, corners + size])
        covered = _overlap(boxes, taken) + size.prod() - _overlap(boxes, [inside])
        best = int(np.argmin(covered.round(2)))  # what is free but for rounding is free
        taken.append(boxes[best])
        x, y = map(int, np.sign(places[best]))
        note.set(position=_PLACES[best], ha=_SIDES[x][0], va=_SIDES[y][1])
        if math.hypot(*_PLACES[best]) > _LEADER:
            line = dict(arrowstyle="-", color=colour, lw=0.6, shrinkA=0, shrinkB=3)
            axes.annotate("", at, _PLACES[best], **look, arrowprops=line)


def _boxes(axes: Axes, labels: Iterable[FrontPoint], scale: float) -> Iterator[np.ndarray]:
    """What labels keep off, in pixels: markers, fronts and error bars; `scale` is a point's."""
    for line in axes.lines:
        centres, radius = axes.transData.transform(line.get_xydata()), 2 * scale
        if line.get_linestyle() != "None":
            dense = np.linspace(centres[:-1], centres[1:], _BEADS).reshape(-1, 2)
            centres, radius = np.concatenate([centres, dense]), 1.5 * scale
        yield from np.hstack([centres - radius, centres + radius])
    for p in labels:
        corners = [(p.latency.ms, p.mean)] * 2
        yield _grown(axes, corners, 6 * scale)
        yield _grown(axes, [(p.latency.low, p.mean), (p.latency.high, p.mean)], 2)
        yield _grown(axes, [(p.latency.ms, min(p.values)), (p.latency.ms, max(p.values))], 2)


def _grown(axes: Axes, corners: Sequence[tuple[float, float]], margin: float) -> np.ndarray:
    low, high = axes.transData.transform(corners)
    return np.concatenate([low - margin, high + margin])


def _overlap(boxes: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Area of each box, (boxes, 4), that others cover."""
    own, other = boxes[:, None], np.asarray(others)
    low, high = np.maximum(own[..., :2], other[:, :2]), np.minimum(own[..., 2:], other[:, 2:])
    return (high - low).clip(0).prod(-1).sum(1)
