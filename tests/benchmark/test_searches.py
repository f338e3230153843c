"""Searches for several budgets are handed out as they are, and only what is left of them."""

from __future__ import annotations

import pytest

from prunet_det.benchmark import searches
from prunet_det.search.result import RUN_FILE
from prunet_det.utils.io import write_json
from prunet_det.utils.jobs import JobResult


def test_what_is_left_is_handed_out(here, tmp_path, monkeypatch):
    handed = []

    def launch(jobs, launcher, logs, max_workers, deadline):
        handed.append((launcher, max_workers, [job.name for job in jobs]))
        for job in jobs:
            assert job.command[1:4] == ("-m", "prunet_det", "search_backbone")
            assert job.command[4:] == (
                *("configs/search/quick.py", "--budget-ms", job.name.removesuffix("ms"), "--out"),
                *(str(tmp_path / job.name), "--resume", "--quiet", "--device", "v100"),
            )
            assert (job.cpus, job.gpus, job.results) == (2, 1, (f"{job.name}/*",))
            if job.name != "0.5ms":
                folder = tmp_path / job.name
                write_json(folder / RUN_FILE, {"config": "configs/search/quick.py"})
                write_json(folder / job.name / RUN_FILE, {"final": True})
            yield JobResult(job, int(job.name == "0.5ms"), "error: no luck.")

    monkeypatch.setattr(searches, "launch", launch)
    flags = ["--budgets", 0.35, 0.5, 1.25, "--out", tmp_path, "--threads", 2, "--gpus", 1]
    flags += ["--launcher", "ray", "--jobs", 3, "--", "configs/search/quick.py", "--device", "v100"]
    done = here("benchmark", "search", *flags)
    assert done.returncode == 1 and "0.5ms: no luck." in done.stderr, done.stdout + done.stderr
    again = here("benchmark", "search", *flags)
    assert "2 of 3 searches are done" in again.stderr
    assert handed == [("ray", 3, ["0.35ms", "0.5ms", "1.25ms"]), ("ray", 3, ["0.5ms"])]
    other = [*flags[: flags.index("--")], "--", "configs/search/zoo.py"]
    done = here("benchmark", "search", *other)
    assert done.returncode == 2 and "holds another search" in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budgets", 0.5, 0.5], "different numbers above 0"),
        (["--budgets", -1], "--budgets: must be a number above 0"),
        (["--budgets", "nan"], "--budgets: must be a number above 0"),
        (["--budgets", 1, "--jobs", 0], "--jobs: must be at least 1"),
        (["--budgets", 1, "--threads", 0], "--threads: must be at least 1"),
        (["--budgets", 1, "--max-minutes", -5], "--max-minutes: must be a number above 0"),
    ],
)
def test_impossible_searches(here, tmp_path, flags, said):
    flags = ["search", *flags, "--out", tmp_path / "out", "--", "configs/search/quick.py"]
    done = here("benchmark", *flags)
    assert done.returncode == 2 and said in done.stderr
