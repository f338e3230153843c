"""One HTML page with everything in it: the plots to play with, the table, the networks drawn."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark import published, tables
from prunet_det.benchmark.fronts import (
    STYLES,
    Axis,
    FrontPoint,
    axes,
    counted,
    family_fronts,
    points,
)
from prunet_det.benchmark.judge import judge
from prunet_det.benchmark.records import METRICS, Record
from prunet_det.utils.extras import require
from prunet_det.utils.io import write_text
from prunet_det.zoo.card import draw_network

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

# plotly's names of matplotlib's markers and lines.
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up"}
_LINES = {"-": "solid", "--": "dash", ":": "dot"}
# A click on a point shows its network's drawing.
_CLICK = """
document.getElementById("{plot_id}").on("plotly_click",
  event => { location.hash = event.points[0].customdata; });
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<!-- The browser itself keeps this page off the network. -->
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';
 img-src data: blob:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 1180px; padding: 24px; color: #1b1f24;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: 3px 8px; text-align: left; border-bottom: 1px solid #DDDDDD; }}
section img {{ max-width: 100%; }}
section:target {{ outline: 3px solid #0072B2; }}
</style>
</head>
<body>
"""
_HOW = (
    "In the plots, bars are the least and greatest seed, and low and high of the latency. Filled "
    "markers are on their family's front. A click on a family in the legend hides it, one on a "
    "point leads to its network; drag to zoom, double-click to return."
)
_QUOTED = (
    "Figures of the networks' publishers. They were measured on other data and other machines, and "
    "nothing here is mixed with them."
)


def write_page(records: Sequence[Record], title: str, path: str | os.PathLike[str]) -> None:
    """Writes the page; it loads nothing, plotly.js stands in it.

    Args:
        records: Records of one suite.
        title: Title of the page.
        path: The file.

    Raises:
        MissingPackageError: plotly is missing.
    """
    script = require("plotly.offline", "benchmark").get_plotlyjs()
    found = axes(records)
    parts = [_HEAD.format(title=html.escape(title)), f"<script>{script}</script>"]
    parts += [_heading(1, title), _text(about(records))]
    parts.append(_text(_HOW if found else "Nothing to compare: there is no latency yet."))
    for axis in found:
        ratios = judge(records, _metrics(records), [axis])
        said = [_text(c.sentence()) for c in ratios if c.metric == METRICS[0]]
        header, rows = tables.verdict_rows(ratios)
        table = _table(header[1:], [row[1:] for row in rows])  # the heading names the axis
        parts += [_heading(2, axis.title), *said, _element(plot(records, axis))]
        parts += [_text("Latency for equal accuracy:"), table]
    parts += [_heading(2, "Accuracy and cost"), _table(*tables.accuracy_rows(records))]
    parts += [_heading(2, "Networks"), *_drawings(records)]
    parts += [_heading(2, "Published, not measured here"), _text(_QUOTED)]
    for name, quoted in published.tables().items():
        parts += [_text(name), _table(*quoted)]
    write_text(path, "\n".join([*parts, "</body>\n</html>\n"]))


def about(records: Sequence[Record]) -> str:
    """Suite, runs, artifact, data and commits, and which networks are not published ones."""
    first = records[0]
    seeds = [len(runs) for runs in tables.runs_by_point(records).values()]
    text = (
        f"Suite {first.suite}: {counted('run', len(records))}, "
        f"{counted('seed', min(seeds), max(seeds))} a point; accuracy of {first.artifact}; "
        f"data {first.data_hash[:12]}, training revision {first.training_revision}."
    )
    return text + _commits(records) + _origins(records)


def _commits(records: Sequence[Record]) -> str:
    """The commit that trained, or a warning where there are several."""
    names = list(dict.fromkeys(r.commit[:8] for r in records))
    if len(names) == 1:
        return f" Commit {names[0]}."
    return f" **Warning: trained at {len(names)} commits** ({', '.join(names)})."


def _origins(records: Sequence[Record]) -> str:
    """Which networks are not published ones, that no one takes a family's name for them."""
    kinds: dict[str, dict[str, None]] = {"hand-written": {}, "searched": {}}
    for r in records:
        kind = ((r.arch or {}).get("provenance") or {}).get("kind")
        if kind in kinds:
            kinds[kind][r.model] = None
    titles = {"hand-written": "Hand-written, no published networks", "searched": "Searched here"}
    return "".join(f" {titles[k]}: {', '.join(names)}." for k, names in kinds.items() if names)


def _heading(level: int, text: str) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def _text(text: str) -> str:
    return f"<p>{html.escape(_plain(text))}</p>"


def _plain(text: str) -> str:
    """Text without Markdown's marks."""
    return text.replace("`", "").replace("**", "")


def _element(figure: Figure) -> str:
    """A figure as HTML, without plotly.js."""
    return str(
        figure.to_html(
            config={"displaylogo": False, "responsive": True},
            include_plotlyjs=False,
            full_html=False,
            post_script=_CLICK,
        )
    )


def _metrics(records: Sequence[Record]) -> list[str]:
    return [m for m in METRICS if any(r.metrics[m] is not None for r in records)]


def plot(records: Sequence[Record], axis: Axis) -> Figure:
    """A family's points and front for each metric, of which a menu chooses one."""
    from plotly.graph_objects import Figure

    traces: list[tuple[str, Scatter]] = []
    for metric in _metrics(records):
        found = points(records, axis, metric)
        for family, front in family_fronts(found).items():
            own = [p for p in found if p.family == family]
            traces += [(metric, trace) for trace in _traces(own, front, metric)]
    metrics = list(dict.fromkeys(metric for metric, _ in traces))
    for metric, trace in traces:
        trace.visible = metric == metrics[0]
    figure = Figure([trace for _, trace in traces])
    figure.update_layout(
        template="plotly_white",
        height=480,
        margin={"t": 60, "b": 60, "l": 60, "r": 20},
        hoverlabel_align="left",
        xaxis={"type": "log", "title": f"{axis.name}, ms (log)"},
        yaxis_title=metrics[0],
        legend={"x": 0.99, "y": 0.02, "xanchor": "right", "yanchor": "bottom"},
        updatemenus=[
            {
                "buttons": [
                    {
                        "label": metric,
                        "method": "update",
                        "args": [
                            {"visible": [own == metric for own, _ in traces]},
                            {"yaxis.title.text": metric},
                        ],
                    }
                    for metric in metrics
                ],
                "x": 0,
                "xanchor": "left",
                "y": 1.12,
            }
        ],
    )
    return figure


def _traces(own: Sequence[FrontPoint], front: Sequence[FrontPoint], metric: str) -> list[Scatter]:
    """The front of a family as a line, and its points."""
    from plotly.graph_objects import Scatter

    style = STYLES[own[0].family]
    look = {"legendgroup": style.title, "name": style.title}
    line = Scatter(
        x=[p.latency.ms for p in front],
        y=[p.mean for p in front],
        mode="lines",
        line={"color": style.colour, "dash": _LINES[style.dash]},
        hoverinfo="skip",
        showlegend=False,
        **look,
    )
    bars: dict[str, Any] = {"symmetric": False, "thickness": 1, "color": style.colour}
    dots = Scatter(
        x=[p.latency.ms for p in own],
        y=[p.mean for p in own],
        mode="markers",
        error_x={
            **bars,
            "array": [p.latency.high - p.latency.ms for p in own],
            "arrayminus": [p.latency.ms - p.latency.low for p in own],
        },
        error_y={
            **bars,
            "array": [max(p.values) - p.mean for p in own],
            "arrayminus": [p.mean - min(p.values) for p in own],
        },
        marker={
            "symbol": _SYMBOLS[style.marker],
            "size": 11,
            "color": [style.colour if p in front else "white" for p in own],
            "line": {"color": style.colour, "width": 2},
        },
        hovertext=[_hover(p, metric) for p in own],
        hoverinfo="text",
        customdata=[p.model for p in own],
        **look,
    )
    return [line, dots]


def _hover(p: FrontPoint, metric: str) -> str:
    values = ", ".join(f"{v:.3f}" for v in p.values)
    lines = [f"<b>{html.escape(p.model)}</b>, {p.input_size} px"]
    lines += [f"{metric} {p.mean:.3f} ({counted('seed', len(p.values))}: {values})"]
    return "<br>".join(
        [*lines, f"{p.latency.ms:.4g} ms ({p.latency.low:.4g} to {p.latency.high:.4g})"]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *body = (
        "".join(f"<{tag}>{html.escape(_plain(cell))}</{tag}>" for cell in row)
        for tag, row in (("th", header), *(("td", row) for row in rows))
    )
    lines = "\n".join(f"<tr>{cells}</tr>" for cells in body)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody>\n</table>"


def _drawings(records: Sequence[Record]) -> list[str]:
    """Every network once: a drawing of ours, and the name of the others."""
    parts = []
    for model, arch in {r.model: r.arch for r in records}.items():
        name, shown = html.escape(model), "a network of timm"
        if arch is not None:
            buffer = BytesIO()
            draw_network(ArchSpec.from_dict(arch)).savefig(buffer, format="svg")
            data = base64.b64encode(buffer.getvalue()).decode()
            shown = f'<img alt="blocks of {name}" src="data:image/svg+xml;base64,{data}">'
        parts.append(f'<section id="{name}"><h3>{name}</h3>{shown}</section>')
    return parts
