"""A figure's file says which data it shows, and nothing that differs between machines."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from prunet_det.utils import plots

ROWS = [{"network": "prunet_p0", "ms": 1.0 / 3, "seeds": (0, 1)}]


def drawn():
    figure, (axes,) = plots.figure(3, 2)
    axes.plot([0.7, 30], [0.7, 30], color=plots.PALETTE["blue"])
    plots.log_scale(axes, "x")
    return figure


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_file_shows_its_data_and_no_other(tmp_path, kind):
    path = tmp_path / "new" / f"figure.{kind}"
    assert not plots.shows(path, ROWS)
    plots.save(drawn(), path, ROWS)
    assert plots.shows(path, ROWS)
    last_bit = [{**ROWS[0], "ms": float(np.nextafter(1 / 3, 1))}]
    assert plots.shows(path, last_bit)
    for changed in ({"ms": 0.33334}, {"seeds": (0, 2)}, {"network": "prunet_p1"}):
        assert not plots.shows(path, [{**ROWS[0], **changed}])


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_file_has_no_date_and_no_version(tmp_path, kind):
    for name in ("a", "b"):
        plots.save(drawn(), tmp_path / f"{name}.{kind}", ROWS)
    written = (tmp_path / f"a.{kind}").read_bytes()
    assert written == (tmp_path / f"b.{kind}").read_bytes()
    assert matplotlib.__version__.encode() not in written and b"dc:date" not in written


def test_logarithmic_ticks_are_written_out():
    figure = drawn()
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert {"1", "2", "5", "10", "20"} <= set(labels)
