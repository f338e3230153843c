"""Calibration to the published figures: its errors, and that the files are its result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from prunet_det.latency import load_device
from prunet_det.latency.calibrate import (
    PRIOR,
    Errors,
    PublishedTime,
    errors,
    fit,
    leave_one_out,
    predicted,
    published_points,
)
from prunet_det.latency.device import FITTED

LIMITS = {"v100": (0.03, 0.08), "a100": (0.03, 0.09)}


@pytest.fixture(scope="module", params=sorted(LIMITS))
def device(request):
    return load_device(request.param)


def test_errors_of_the_device_files(device):
    found = errors(device, published_points(device.name))
    mean, worst = LIMITS[device.name]
    assert found.mean <= mean and found.worst <= worst
    assert found.mean == pytest.approx(device.provenance["in_sample"]["mean"], abs=1e-4)


def test_the_files_are_what_calibration_gives(device):
    again = fit(device.with_constants(PRIOR), published_points(device.name))
    for name in FITTED:
        assert getattr(again, name) == pytest.approx(getattr(device, name), rel=2e-2), name
    points = published_points(device.name)
    assert np.allclose(predicted(again, points), predicted(device, points), rtol=2e-3)


def test_rank_order_is_kept_on_v100():
    points = published_points("v100")
    for batch in {p.batch for p in points}:
        at = [p for p in points if p.batch == batch]
        ms = predicted(load_device("v100"), at)
        for i, a in enumerate(at):
            for j, b in enumerate(at):
                if a.ms < b.ms:
                    assert ms[i] < ms[j], (batch, a.network, b.network)


def test_leaving_one_out():
    left_out = leave_one_out(load_device("v100"), published_points("v100"))
    assert left_out.keys() == {p.network for p in published_points("v100")}
    family = [left_out[f"gpunet_{i}"].mean for i in range(3)]
    assert np.mean(family) <= 0.05
    noted = load_device("v100").provenance["leave_one_out"]
    for name, found in left_out.items():
        assert found.mean == pytest.approx(noted[name]["mean"], abs=2e-3), name


def test_planted_constants_are_found():
    """Times that the model itself gave, from other constants than it starts from."""
    device = load_device("v100")
    points = [
        PublishedTime(p.network, p.batch, p.input_size, ms)
        for p, ms in zip(
            published_points("v100"), predicted(device, published_points("v100")), strict=True
        )
    ]
    found = fit(device.with_constants(PRIOR), points)
    assert errors(found, points).worst < 0.02


def test_errors_and_rank_correlation():
    points = tuple(PublishedTime("n", 1, 224, ms) for ms in (1.0, 2.0, 4.0))
    found = Errors(points, (1.1, 1.8, 4.0), kendalltau([1.1, 1.8, 4.0], [1, 2, 4]).statistic)
    assert found.mean == pytest.approx(0.2 / 3) and found.worst == pytest.approx(0.1)
    assert found.kendall_tau == 1.0


def test_no_published_figures():
    with pytest.raises(ValueError, match="no published times of 'h200', only of a100, v100"):
        published_points("h200")
