"""What a training and its loader give, as far as it does not depend on the machine."""

from __future__ import annotations

import pytest

from prunet_det.benchmark import throughput
from prunet_det.benchmark.suite import load_suite
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import read_csv


@pytest.mark.slow
def test_profile(tiny_suite, tmp_path, here):
    flags = ["--iterations", 1, "--workers", 0, 1]
    done = here("benchmark", "profile", "--suite", tiny_suite, "--out", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    loading = read_csv(tmp_path / "loading.csv")[1]
    found = [(row["source"], row["workers"]) for row in loading]
    assert found == [("disk", "0"), ("disk", "1"), ("memory", "0"), ("memory", "1")]
    assert all(float(row["images_per_s"]) > 0 < float(row["handover_ms"]) for row in loading)
    assert {row["input_size"] for row in loading} == {"64"}
    (speed,) = read_csv(tmp_path / "throughput.csv")[1]
    assert float(speed["disk_images_per_s"]) > 0 < float(speed["memory_images_per_s"])
    parts = {row["part"] for row in read_csv(tmp_path / "profile.csv")[1]}
    assert len(parts) == 4 and {"iteration", "evaluation"} < parts
    assert "images a second in training" in done.stdout


def test_what_does_not_fit_the_memory_is_measured_from_disk_alone(tiny_suite, monkeypatch, caplog):
    def refuse(cfg):
        raise InputError("the cache needs more")

    monkeypatch.setattr(throughput, "set_cache", refuse)
    cfg = load_suite(tiny_suite).choose(["prunet_tiny"]).recipe()
    rows = throughput.loading_speeds(cfg, [0], 1)
    assert [row["source"] for row in rows] == ["disk"]
    assert "the cache needs more" in caplog.text
