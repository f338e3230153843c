"""Figures: one palette, one look, and files that say which data they show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunet_det.utils.extras import require
from prunet_det.utils.io import atomic_path, digest, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; yellow last, as it makes poor
# lines on white.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "pink": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
COLOURS = tuple(PALETTE.values())
DARK, GREY, LIGHT = "#444444", "#999999", "#DDDDDD"  # lines of reference, the rest, bands
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")


def figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure that no window and no global state of pyplot knows of.

    Args:
        width: Inches.
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.

    Returns:
        The figure, and its axes row by row.

    Raises:
        MissingPackageError: If matplotlib is missing.
    """
    made = require("matplotlib.figure", "det").Figure((width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", "det").FigureCanvasAgg(made)
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.set_axisbelow(True)
    return made, axes


def log_scale(axes: Axes, which: str = "xy", leading: Sequence[float] = (1, 2, 5)) -> None:
    """Makes axes logarithmic, with ticks that are written out: 0.5, 1, 2 and not 10^0.

    Args:
        axes: Axes to change.
        which: Axes to make logarithmic: `x`, `y` or `xy`.
        leading: First digits of the ticks.
    """
    ticker = require("matplotlib.ticker", "det")
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(ticker.LogLocator(subs=leading))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())


def save(figure: Figure, path: str | os.PathLike[str], data: Any) -> None:
    """Writes a figure atomically, with the digest of its data in the file's metadata.

    There is no date and no version in it, so that the same data give the same bytes on the same
    machine.

    Args:
        figure: Figure to write.
        path: File to write, *.svg or *.png.
        data: Data of the figure, such as rows and titles; `shows` compares them.
    """
    kind = Path(path).suffix[1:]
    nothing = {"svg": {"Creator": None, "Date": None}, "png": {"Software": None}}[kind]
    settings = {"svg.hashsalt": "prunet_det", "svg.fonttype": "none"}
    with require("matplotlib", "det").rc_context(settings), atomic_path(path) as temporary:
        metadata = {**nothing, "Description": _described(data)}
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)


def shows(path: str | os.PathLike[str], data: Any) -> bool:
    """Returns True if `save` wrote a file from the same data.

    The bytes of a picture depend on fonts and on the last bits of floats, and so on the machine;
    its data, rounded to six digits, do not.

    Args:
        path: File of the figure.
        data: Data of the figure.
    """
    path = Path(path)
    return path.is_file() and _described(data).encode() in path.read_bytes()


def _described(data: Any) -> str:
    return f"shows data of digest {digest(rounded(data))}"
