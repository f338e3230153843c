"""tools/benchmark.py stops where it is told to, and names what it cannot read."""

from __future__ import annotations


def test_time_is_kept(tiny_suite, tmp_path, here):
    flags = ["--suite", tiny_suite, "--out", tmp_path, "--max-minutes", 1e-9]
    done = here("benchmark", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left: prunet_tiny_64_seed0;" in done.stdout


def test_a_damaged_record_is_named(tiny_suite, tmp_path, here):
    (tmp_path / "records.jsonl").write_text('{"subject": 1}\n')
    done = here("benchmark", "--suite", tiny_suite, "--out", tmp_path)
    assert done.returncode == 2 and "line 1 of" in done.stderr and "damaged" in done.stderr


def test_published_accuracies_beside_latencies(tmp_path, here):
    args = ["imagenet", "--device", "v100", "--models", "prunet_*", "gpunet_*", "--out", tmp_path]
    done = here("benchmark", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Of 7 networks and resolutions" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"v100.csv", "v100.png"}
