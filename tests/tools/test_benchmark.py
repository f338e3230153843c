"""tools/benchmark.py stops where it is told to, and keeps what it cannot read."""

from __future__ import annotations

from prunet_det.benchmark.records import record_path


def test_damaged_record_is_moved_aside_and_time_is_kept(tiny_suite, tmp_path, here):
    path = record_path(tmp_path, "prunet_tiny_64_seed0")
    path.parent.mkdir()
    path.write_text('{"model": "prunet_')
    flags = ["--suite", tiny_suite, "--out", tmp_path, "--max-minutes", 1e-9]
    done = here("benchmark", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no readable record" in done.stderr and "Moved to" in done.stderr
    assert not path.exists() and list((tmp_path / "work" / "damaged").iterdir())
    assert "left: prunet_tiny_64_seed0." in done.stderr


def test_published_accuracies_beside_latencies(tmp_path, here):
    args = ["imagenet", "--device", "v100", "--models", "prunet_*", "gpunet_*", "--out", tmp_path]
    done = here("benchmark", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Of 7 networks and resolutions" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"v100.csv", "v100.png"}
