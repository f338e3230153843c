"""Calibration to the published figures: its errors, and that the files are its result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prunet_det.latency import load_device
from prunet_det.latency.calibrate import (
    FAMILIES,
    PublishedTime,
    calibrate_to_table,
    errors,
    fit,
    judge,
    leave_out,
    predicted,
    priors,
    published_devices,
    published_points,
)
from prunet_det.latency.device import DEVICE_DIR, FITTED
from prunet_det.latency.record import Latency
from prunet_det.latency.table import Table, TableError
from prunet_det.utils.io import read_csv
from tests.conftest import ROOT

LIMITS = {"v100": (0.021, 0.058), "a100": (0.02, 0.06)}
RECORDS = ROOT / "docs" / "results" / "latency"


def unfitted(device):
    return device.with_constants(list(priors(device).values()))


@pytest.fixture(scope="module", params=published_devices())
def device(request):
    return load_device(request.param)


def test_errors_of_the_device_files(device):
    points = published_points(device.name)
    found = errors(device, points)
    mean, worst = LIMITS[device.name]
    assert found.mean <= mean and found.worst <= worst
    assert found.mean == pytest.approx(device.provenance["in_sample"]["mean"], abs=1e-4)
    assert len(points) == 49 == device.provenance["points"]


def test_the_files_are_what_calibration_gives(device):
    again = fit(unfitted(device), published_points(device.name))
    for name in FITTED:
        assert getattr(again, name) == pytest.approx(getattr(device, name), rel=2e-2), name
    points = published_points(device.name)
    assert np.allclose(predicted(again, points), predicted(device, points), rtol=2e-3)


@pytest.fixture
def measured_networks(monkeypatch):
    """Rows name networks of the zoo, and files of earlier ones, below the root."""
    monkeypatch.chdir(ROOT)
    return [Latency.from_row(row) for row in read_csv(RECORDS / "h100_backbone.csv")[1]]


def test_the_h100_is_what_its_blocks_give(measured_networks):
    """From the committed records, to the byte; nothing of the networks enters the constants."""
    device = load_device("h100")
    table = Table.load(RECORDS / "h100_blocks.json", force=True)
    source = device.provenance["source"]
    assert (ROOT / source).samefile(RECORDS / "h100_blocks.json")
    again = calibrate_to_table(unfitted(device), table, source, measured_networks)
    assert again.to_json() == (DEVICE_DIR / "h100.json").read_text(encoding="utf-8")
    alone = calibrate_to_table(unfitted(device), table, source)
    assert [getattr(alone, k) for k in FITTED] == [getattr(device, k) for k in FITTED]


def test_the_h100_is_judged_on_whole_networks(measured_networks):
    device = load_device("h100")
    found = judge(device, measured_networks)[1]
    assert len(measured_networks) == 10
    assert found.mean <= 0.06 and found.kendall_tau >= 0.9
    noted = device.provenance["networks"]
    assert noted["mean"] == pytest.approx(found.mean, abs=1e-4)
    earlier = [f"prunet_{size}_98f747d" for size in "nsml"]  # which were measured under these names
    assert [name for name in noted["names"] if name.endswith("_98f747d")] == earlier
    assert not set(noted["names"]) & {f"prunet_{size}" for size in "ntsml"}
    assert device.provenance["band"]["inside"] == pytest.approx(found.worst, abs=1e-3)


def test_judging():
    """Figures of predictions that are a tenth too high and a tenth too low."""
    rows = read_csv(RECORDS / "h100_backbone.csv")[1][:2]
    networks = [Latency.from_row(row) for row in rows]
    predictions = judge(load_device("h100"), networks)[0]
    wrong = [
        replace(m, ms=p.latency.ms / f, low=p.latency.ms / f, high=p.latency.ms / f)
        for m, p, f in zip(networks, predictions, (1.1, 0.9), strict=True)
    ]
    again = judge(load_device("h100"), wrong)[1]
    assert again.relative == pytest.approx([0.1, -0.1])
    assert (again.mean, again.worst) == pytest.approx((0.1, 0.1))


def test_rank_order_is_kept_on_v100():
    points = published_points("v100")
    for batch in {p.batch for p in points}:
        at = [p for p in points if p.batch == batch]
        ms = predicted(load_device("v100"), at)
        for i, a in enumerate(at):
            for j, b in enumerate(at):
                if a.ms < b.ms:
                    assert ms[i] < ms[j], (batch, a.network, b.network)


def test_leaving_networks_out(device):
    points = published_points(device.name)
    noted = device.provenance["leave_one_out"]
    assert sorted(sum(FAMILIES, ())) == sorted({p.network for p in points}) == sorted(noted)
    names = ["gpunet_1", "prunet_p1"]
    for name, found in zip(names, leave_out(device, points, [[n] for n in names]), strict=True):
        assert found.expected_ms == tuple(p.ms for p in points if p.network == name)
        assert found.mean == pytest.approx(noted[name]["mean"], abs=2e-3)
    assert np.mean([e["mean"] for e in noted.values()]) <= 0.035
    band = device.provenance["band"]
    assert band["inside"] == pytest.approx(max(e["worst"] for e in noted.values()), abs=1e-3)
    families = device.provenance["leave_family_out"].values()
    assert band["outside"] >= max(e["worst"] for e in families) - 1e-3


def test_planted_constants_are_found():
    """Times that the model itself gave, from other constants than it starts from."""
    device = load_device("v100")
    points = [
        PublishedTime(p.network, p.batch, p.input_size, ms)
        for p, ms in zip(
            published_points("v100"), predicted(device, published_points("v100")), strict=True
        )
    ]
    found = fit(unfitted(device), points)
    assert errors(found, points).worst < 0.02


def test_no_published_figures():
    with pytest.raises(ValueError, match="no published times of 'h200', only of a100, v100"):
        published_points("h200")


def test_a_fit_is_to_what_was_measured_in_the_devices_way(measured_networks):
    blocks = Table.load(RECORDS / "cpu_blocks.json", force=True)
    with pytest.raises(TableError, match="v100, tensorrt fp16.*runtime, precision and threads"):
        calibrate_to_table(load_device("v100"), blocks, "cpu_blocks.json")
    table = Table.load(RECORDS / "h100_blocks.json", force=True)
    c = measured_networks[0].conditions
    other = replace(measured_networks[0], conditions=replace(c, batch=8))
    with pytest.raises(TableError, match="gpunet_0 was measured on .*, batch 8, the table"):
        calibrate_to_table(load_device("h100"), table, "h100_blocks.json", [other])
