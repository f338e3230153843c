"""Peaks of this machine: the clock is read while it works."""

from __future__ import annotations

import threading

import pytest

from prunet_det.latency import peaks
from prunet_det.latency.record import Conditions


@pytest.fixture
def idle_clock(monkeypatch):
    """A GPU that clocks down when nothing runs: its reading waits until work is done beside it."""
    worked, started = threading.Semaphore(0), threading.Event()

    def readings(device):
        started.set()
        busy = all(worked.acquire(timeout=5) for _ in range(3))
        return {"clock_mhz": 1980.0 if busy else 345.0}

    def work():
        if started.wait(5):
            worked.release()

    monkeypatch.setattr(peaks, "readings", readings)
    return work


def test_the_clock_is_read_while_the_device_works(idle_clock):
    assert peaks.busy_clock_ghz(idle_clock, "cpu") == pytest.approx(1.98)


def test_a_clock_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr(peaks, "readings", lambda device: {})
    assert peaks.busy_clock_ghz(lambda: None, "cpu") == 3.0


def test_peaks_of_a_cpu(monkeypatch):
    monkeypatch.setattr(peaks, "readings", lambda device: {"clock_mhz": 2500.0})
    conditions = Conditions(device="here", runtime="onnxruntime", precision="fp32", threads=1)
    found = peaks.measure_peaks(conditions, "cpu")
    assert found.clock_ghz == 2.5 and found.multiprocessors == 1
    assert found.tensor_tflops == found.half_tflops > 0 and found.dram_gb_s > 0
    assert (found.tap_chs, found.tile_scale) == (8, 0.125)
    assert found.conditions.runtime == "onnxruntime" and found.conditions.threads == 1
