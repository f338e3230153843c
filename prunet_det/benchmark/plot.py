"""The plots: accuracy against latency with the families' fronts, and published figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prunet_det.benchmark.fronts import (
    PUBLISHED_STYLES,
    STYLES,
    Axis,
    Family,
    FrontPoint,
    counted,
    pareto,
)
from prunet_det.utils import plots
from prunet_det.utils.plots import GREY

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox, BboxBase

_SIZE = (7.6, 5.0)  # inches
_LARGE = (9.6, 6.6)  # for some hundred points
_ALL_LABELLED = 10  # points; of more, those on fronts are labelled
_LABEL = 7.5  # points
# Where a label may stand: quadrants and sides, nearest first; x and y in points from the marker.
_PLACES = [
    (x * d, y * d)
    for d in (8, 14, 22, 32, 44, 58)
    for x, y in ((1, -0.7), (-1, 0.7), (1, 0.7), (-1, -0.7), (0, 1.2), (0, -1.2), (1, 0), (-1, 0))
]
_SIDES = {1: ("left", "bottom"), -1: ("right", "top"), 0: ("center", "center")}
_LEADER = 15  # points; a label further away is tied to its marker by a line


def draw_pareto(found: Sequence[FrontPoint], axis: Axis, metric: str, title: str) -> Figure:
    """A figure of points, seeds as error bars, and the fronts as the judge reads them.

    Args:
        found: The points.
        axis, metric: What they are of.
        title: What ran on which data.
    """
    figure, axes = _figure()
    axes.set_xscale("log")
    boxes = []
    for family, style in STYLES.items():
        own = [p for p in found if p.family == family]
        if not own:
            continue
        front = pareto(own)
        axes.plot(
            [p.latency.ms for p in front],
            [p.mean for p in front],
            style.dash,
            color=style.colour,
            linewidth=1.4,
            zorder=2,
        )
        for p in own:
            axes.errorbar(
                p.latency.ms,
                p.mean,
                yerr=_range(p),
                xerr=[[p.latency.ms - p.latency.low], [p.latency.high - p.latency.ms]],
                fmt=style.marker,
                color=style.colour,
                markersize=7,
                markerfacecolor=style.colour if p in front else "white",
                elinewidth=0.9,
                capsize=2.5,
                zorder=3,
            )
        boxes.append(_handle(style, f"{style.title} ({_seeds(own)})"))
    axes.set_xlabel(f"latency, ms (log): {axis.name}\n{axis.conditions}")
    axes.set_ylabel(f"{metric}, mean over seeds (bars: least and greatest)")
    axes.set_title(title, fontsize=10, loc="left")
    _margins(axes, found)
    legend = axes.legend(handles=boxes, frameon=False, loc="lower right")
    labels = [(f"{p.model} {p.input_size}", p.latency.ms, p.mean, p.family) for p in found]
    spans = [(p.latency.low, p.latency.high, min(p.values), max(p.values)) for p in found]
    _place_labels(figure, axes, labels, legend, spans)
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
    many = len(found) > _ALL_LABELLED
    figure, axes = _figure(_LARGE if many else _SIZE)
    axes.set_xscale("log")
    boxes: list[Line2D] = []
    for family, style in PUBLISHED_STYLES.items():
        own = [p for p in found if p.family == family]
        if not own:
            continue
        best = pareto(own)
        rest = [p for p in own if p not in best]
        look: dict[str, Any] = dict(color=style.colour, marker=style.marker)
        axes.plot(*_xy(best), style.dash, **look, linewidth=1.2, markersize=5.5, zorder=3)
        axes.plot(*_xy(rest), linestyle="", **look, markersize=2.5, alpha=0.6, zorder=2)
        boxes.append(_line(**look, linestyle=style.dash, label=style.title))
    if beside:
        look = dict(color=GREY, marker="o", markerfacecolor="white", linestyle="")
        axes.plot(*_xy(beside), **look, markersize=3, zorder=1)
        boxes.append(_line(**look, label="trained on extra data"))
    axes.set_xlabel(f"latency, ms (log), {latency}", fontsize=9)
    axes.set_ylabel("published ImageNet top-1, %")
    every = [*found, *beside]
    _margins(axes, every)
    # Far below the front nothing needs a place; without a front everything does.
    low = min(p.mean for p in pareto(found) or every) - 2
    below = sum(p.mean < low for p in every)
    axes.set_ylim(bottom=max(low, axes.get_ylim()[0]))
    note = f"; {below} below {low:.0f} % are not shown" if below else ""
    axes.set_title(f"{title}{note}", fontsize=10, loc="left")
    legend = axes.legend(handles=boxes, frameon=False, loc="lower right", fontsize=8)
    named = _front_labels(found) if many else {p: f"{p.model} {p.input_size}" for p in found}
    labels = [(text, p.latency.ms, p.mean, p.family) for p, text in named.items()]
    spans = [(p.latency.ms, p.latency.ms, p.mean, p.mean) for p in named]
    _place_labels(figure, axes, labels, legend, spans)
    return figure


def _xy(found: Sequence[FrontPoint]) -> tuple[list[float], list[float]]:
    return [p.latency.ms for p in found], [p.mean for p in found]


def _front_labels(found: Sequence[FrontPoint]) -> dict[FrontPoint, str]:
    """Labels of networks on the front of all, or on that of their named family.

    A network that is there at several resolutions is named once, at its most accurate one.
    """
    on = dict.fromkeys(pareto(found))
    for family in STYLES:
        on |= dict.fromkeys(pareto([p for p in found if p.family == family]))
    groups: dict[str, list[FrontPoint]] = {}
    for p in sorted(on, key=lambda p: p.mean):
        groups.setdefault(p.model.partition(".")[0], []).append(p)
    return {
        own[-1]: f"{name} {_range_of([p.input_size for p in own])}" for name, own in groups.items()
    }


def _range_of(values: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({min(values), max(values)})))


def _seeds(own: Sequence[FrontPoint]) -> str:
    least, most = (f(len(p.values) for p in own) for f in (min, max))
    return f"{counted('seed', least, most)} a point"


def _range(p: FrontPoint) -> list[list[float]]:
    # A mean of equal values may be off them by rounding.
    return [[max(0.0, p.mean - min(p.values))], [max(0.0, max(p.values) - p.mean)]]


def _handle(style: Family, label: str) -> Line2D:
    return _line(color=style.colour, marker=style.marker, linestyle=style.dash, label=label)


def _line(**look: Any) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure, (axes,) = plots.figure(*size)
    axes.grid(color="#EEEEEE", zorder=0, which="both", linewidth=0.8)
    return figure, axes


def _margins(axes: Axes, found: Sequence[FrontPoint]) -> None:
    """Room for labels and bars, and ticks that one can read on less than two decades."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

    ms = [p.latency.ms for p in found]
    room = (max(ms) / min(ms)) ** 0.14 * 1.05
    left = min(min(ms) / room, *(p.latency.low / 1.02 for p in found))
    right = max(max(ms) * room, *(p.latency.high * 1.02 for p in found))
    axes.set_xlim(left, right)
    axes.margins(y=0.14)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(left, right)))
    formatter = ScalarFormatter()
    formatter.set_scientific(False)
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(left: float, right: float) -> list[float]:
    """Round numbers in a range, the coarsest of which there are three."""
    halves = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    for steps in ((1, 3), (1, 1.5, 2, 3, 5, 7), halves, [1 + i / 10 for i in range(90)]):
        found = [m * 10.0**e for e in range(-4, 6) for m in steps]
        inside = [t for t in found if left <= t <= right]
        if len(inside) >= (3 if len(steps) > 2 else 4):
            break
    return inside[:: 1 + len(inside) // 8]


def _place_labels(
    figure: Figure,
    axes: Axes,
    labels: Sequence[tuple[str, float, float, str]],
    legend: Legend,
    spans: Sequence[tuple[float, float, float, float]],
) -> None:
    """Sets labels, (text, x, y, family), where they cover no marker, error bar, front or label.

    Each takes the first free place of `_PLACES`; where none is free, that which covers least.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # the layout settles here, before anything is placed
    scale = figure.dpi / 72
    inside = axes.get_window_extent()
    taken = [legend.get_window_extent().padded(2)]
    for (_, x, y, _), (low, high, least, most) in zip(labels, spans, strict=True):
        (cx, cy), corner, other = axes.transData.transform([(x, y), (low, least), (high, most)])
        r = 6 * scale
        taken.append(Bbox([[cx - r, cy - r], [cx + r, cy + r]]))
        taken.append(Bbox([[corner[0], cy - 2], [other[0], cy + 2]]))
        taken.append(Bbox([[cx - 2, corner[1]], [cx + 2, other[1]]]))
    for line in axes.lines:
        corners = axes.transData.transform(line.get_xydata())
        if line.get_linestyle() == "None":
            r = 2 * scale
            taken += [Bbox([[x - r, y - r], [x + r, y + r]]) for x, y in corners]
        elif len(corners) > 1:
            taken += _beads(corners, 3 * scale)
    for text, x, y, family in sorted(labels, key=lambda label: (label[1], label[2])):
        colour = PUBLISHED_STYLES[family].colour
        note = axes.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=_LABEL,
            color=colour,
            zorder=5,
        )
        size = note.get_window_extent()
        here = axes.transData.transform((x, y))
        best, least = _PLACES[0], float("inf")
        for place in _PLACES:
            box = _box(here, place, size, scale)
            cover = sum(_overlap(box, other) for other in taken)
            cover += box.width * box.height - _overlap(box, inside)
            if cover < least:
                best, least = place, cover
            if cover == 0:
                break
        note.set_position(best)
        note.set(ha=_SIDES[_sign(best[0])][0], va=_SIDES[_sign(best[1])][1])
        taken.append(_box(here, best, size, scale))
        if math.hypot(*best) > _LEADER:
            axes.annotate(
                "",
                (x, y),
                xytext=best,
                textcoords="offset points",
                arrowprops=dict(
                    arrowstyle="-",
                    color=PUBLISHED_STYLES[family].colour,
                    lw=0.6,
                    shrinkA=0,
                    shrinkB=3,
                ),
            )


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _box(here: np.ndarray, place: tuple[float, float], size: BboxBase, scale: float) -> Bbox:
    """What a label covers at a place, with a pixel round it."""
    from matplotlib.transforms import Bbox

    x, y = (here[i] + place[i] * scale for i in (0, 1))
    left = x - size.width * (1 - _sign(place[0])) / 2
    low = y - size.height * (1 - _sign(place[1])) / 2
    return Bbox([[left - 1, low - 1], [left + size.width + 1, low + size.height + 1]])


def _overlap(a: BboxBase, b: BboxBase) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _beads(corners: np.ndarray, size: float) -> list[Bbox]:
    """Small boxes along a line, so that labels keep off it."""
    import numpy as np
    from matplotlib.transforms import Bbox

    beads = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        count = max(2, int(np.hypot(x1 - x0, y1 - y0) / size))
        for x, y in zip(np.linspace(x0, x1, count), np.linspace(y0, y1, count), strict=True):
            beads.append(Bbox([[x - size / 2, y - size / 2], [x + size / 2, y + size / 2]]))
    return beads
