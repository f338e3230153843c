"""How far predicted latencies are from those they should be."""

import pytest

from prunet_det.latency.errors import Errors


def test_errors_and_rank_correlation():
    found = Errors.of([1.0, 2.0, 4.0], [1.1, 1.8, 4.0])
    assert found.mean == pytest.approx(0.2 / 3) and found.worst == pytest.approx(0.1)
    assert found.bias == pytest.approx(0) and found.kendall_tau == 1.0
    assert found.relative == pytest.approx([0.1, -0.1, 0.0])
    assert found.to_dict() == {"mean": 0.0667, "worst": 0.1}


def test_order_counts():
    assert Errors.of([1.0, 2.0, 4.0], [4.0, 2.0, 1.0]).kendall_tau == -1.0
    assert Errors.of([1.0], [2.0]).kendall_tau == 1.0  # of a single time
