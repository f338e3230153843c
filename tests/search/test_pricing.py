"""Networks at a budget as the device itself has it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from prunet_det.latency.record import Failure
from prunet_det.runtime.subject import Scope
from prunet_det.search import pricing
from prunet_det.search.costs import Pricing
from prunet_det.search.pricing import OnDevice
from prunet_det.search.result import MEASURED_RANGE
from prunet_det.search.shapes import Shapes
from tests.conftest import ROOT

BUDGET = 0.15


@pytest.fixture
def shapes(space):
    """Prices of a CPU, which rise with the widths."""
    device = ROOT / "docs" / "results" / "latency" / "cpu_device.json"
    return Shapes(Pricing(device=str(device)).costs(space, 64))


class Machine:
    """One whose networks take another time than their blocks add up to; it fails if `broken`."""

    def __init__(self, monkeypatch, shapes, factor, beyond=0.0, broken=False):
        self.shapes, self.measured = shapes, 0
        monkeypatch.setattr(shapes.costs.table, "kind", "measured")
        monkeypatch.setattr(pricing, "find_device", lambda conditions: "cpu")
        monkeypatch.setattr(pricing, "subject_of", lambda config, spec: spec)

        def measure(subjects, conditions, **_):
            (spec,) = subjects
            self.measured += 1
            if broken:
                about = dict(scope=Scope.BACKBONE, conditions=conditions, input_size=64)
                return [Failure(model="x", reason="no", kind="measured", **about)]
            ms = self.ms(shapes.space.shape_of(spec))
            return [SimpleNamespace(latency=SimpleNamespace(ms=ms))]

        monkeypatch.setattr(pricing, "measure", measure)
        self.ms = lambda shape: beyond + factor * shapes.ms(shape)


@pytest.mark.parametrize(("factor", "beyond"), [(1.2, 0.0), (0.8, 0.0), (0.9, 0.02), (0.98, 0.0)])
def test_what_is_found_spends_its_budget_on_the_device(
    shapes, tmp_path, monkeypatch, factor, beyond
):
    machine = Machine(monkeypatch, shapes, factor, beyond)
    drawn = shapes.draw(np.random.default_rng(0), BUDGET, 12)
    on_device = OnDevice(SimpleNamespace(), tmp_path / "measured.json")
    found = [on_device.settle(shapes, BUDGET, shape) for shape in drawn]
    fitting = 0
    for shape, before in zip(found, drawn, strict=True):
        assert shape.operators.tolist() == before.operators.tolist()
        low, high = (beyond + factor * ms[0] for ms in shapes.costs.range(shape.operators[None]))
        if low <= BUDGET <= high:  # what these operators can spend
            assert MEASURED_RANGE[0] <= machine.ms(shape) / BUDGET <= MEASURED_RANGE[1]
            fitting += 1
    assert fitting >= 3
    count = machine.measured
    again = OnDevice(SimpleNamespace(), tmp_path / "measured.json")
    assert [again.settle(shapes, BUDGET, shape) for shape in drawn] == found
    assert machine.measured == count, "what was measured is kept"


def test_the_closest_is_taken_where_none_fits(shapes, tmp_path, monkeypatch):
    machine = Machine(monkeypatch, shapes, 1.5)
    on_device = OnDevice(SimpleNamespace(), tmp_path / "measured.json")
    drawn = shapes.draw(np.random.default_rng(0), BUDGET, 40)
    lows = [shapes.costs.range(shape.operators[None])[0][0] for shape in drawn]
    narrow = int(np.argmax(lows))
    assert 1.5 * lows[narrow] > BUDGET, "even the narrowest is too slow"
    found = on_device.settle(shapes, BUDGET, drawn[narrow])
    assert machine.ms(found) == pytest.approx(1.5 * lows[narrow])


def test_a_busy_machine_is_not_believed(shapes, tmp_path, monkeypatch, caplog):
    Machine(monkeypatch, shapes, 9.0)
    (shape,) = shapes.draw(np.random.default_rng(0), BUDGET, 1)
    assert OnDevice(SimpleNamespace(), tmp_path / "m.json").settle(shapes, BUDGET, shape) is shape
    assert "where the machine is busy" in caplog.text


def test_a_device_that_fails_or_is_not_here_changes_nothing(shapes, tmp_path, monkeypatch):
    (shape,) = shapes.draw(np.random.default_rng(0), BUDGET, 1)
    on_device = OnDevice(SimpleNamespace(), tmp_path / "measured.json")
    assert on_device.settle(shapes, BUDGET, shape) is shape, "predicted"
    machine = Machine(monkeypatch, shapes, 1.2, broken=True)
    assert on_device.settle(shapes, BUDGET, shape) is shape and machine.measured == 1
    monkeypatch.setattr(pricing, "find_device", lambda conditions: None)
    assert on_device.settle(shapes, BUDGET, shape) is shape and machine.measured == 1
    assert not (tmp_path / "measured.json").exists()
