"""Handing out jobs: crashes are reported, time limits kept, and lost workers' jobs repeated."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext
from pathlib import Path

import pytest

from prunet_det.utils.errors import UserError
from prunet_det.utils.jobs import Job, JobResult, bring_back, launch, ordered_map, run_in_processes

# Notes that it runs, by its own process and its parent's, waits where it is told to, and leaves its
# result; a second run finds nothing to wait for.
STUB = """
import os, pathlib, sys, time
out, name, wait = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with open(out / f"{name}.started", "a") as f:
    f.write(f"{os.getpid()} {os.getppid()}\\n")
starts = len((out / f"{name}.started").read_text().splitlines())
time.sleep(wait if starts == 1 else 0)
with open(out / f"{name}.done", "a") as f:
    f.write("done\\n")
"""


def stub(folder: Path, name: str, wait: float = 0.0) -> Job:
    command = (sys.executable, "-c", STUB, str(folder), name, str(wait))
    return Job(name=name, command=command, folder=str(folder), results=(f"{name}.done",))


def failing(folder: Path, code: str) -> Job:
    return Job(name="bad", command=(sys.executable, "-c", code), folder=str(folder))


def test_one_failure_does_not_stop_the_others(tmp_path):
    raising = "import sys; print('error: no luck. (set X)', file=sys.stderr); sys.exit(2)"
    jobs = [failing(tmp_path, raising), *(stub(tmp_path, n) for n in "ab")]
    results = {r.job.name: r for r in launch(jobs, "none", tmp_path / "logs", 2)}
    assert {n: r.code for n, r in results.items()} == {"bad": 2, "a": 0, "b": 0}
    assert results["bad"].error == "no luck." and not results["a"].error
    crash = failing(tmp_path, "import os; os.kill(os.getpid(), 9)")
    (result,) = launch([crash], "none", tmp_path / "logs")
    assert result.error == "killed by SIGKILL."


def test_no_job_starts_after_the_deadline(tmp_path):
    jobs = [stub(tmp_path, n, 1.0) for n in "ab"]
    deadline = time.monotonic() + 0.5
    results = list(launch(jobs, "none", tmp_path / "logs", 1, deadline))
    assert [(r.job.name, r.code) for r in results] == [("a", 0)], "it ends what it started"
    assert not (tmp_path / "b.started").exists()


def test_who_stops_listening_stops_the_jobs(tmp_path):
    jobs = [stub(tmp_path, "a"), stub(tmp_path, "b", 60)]
    running = launch(jobs, "none", tmp_path / "logs", 2)
    next(running)
    running.close()
    pid = int((tmp_path / "b.started").read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_another_machine_gives_replaces_an_earlier_try(tmp_path):
    (tmp_path / "a.json").write_text("failed")
    job = Job(name="a", command=("true",), folder=str(tmp_path))
    bring_back(JobResult(job, 0, files={"a.json": b"done", "work/w": b"weights"}))
    assert (tmp_path / "a.json").read_text() == "done"
    assert (tmp_path / "work" / "w").read_bytes() == b"weights"


def test_jobs_share_the_gpus_that_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    code = "import os, sys; print('error:', os.environ['CUDA_VISIBLE_DEVICES']); sys.exit(1)"
    command = (sys.executable, "-c", code)
    jobs = [Job(name=n, command=command, folder=str(tmp_path), gpus=1) for n in "ab"]
    results = launch(jobs, "none", tmp_path / "logs", 2)
    assert sorted(r.error for r in results) == ["2", "5"]


def test_without_ray_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"prunet_det\[ray\]"):
        list(launch([stub(tmp_path, "a")], "ray", tmp_path / "logs"))


def codes_by_ray(jobs: list[Job], logs: Path) -> list[tuple[str, int]]:
    return sorted((result.job.name, result.code) for result in launch(jobs, "ray", logs, 2))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_lost_ray_worker_s_job_runs_again(tmp_path):
    """Two local workers, one of them killed in mid-job: all results come, none twice."""

    def kill_worker() -> None:
        started = tmp_path / "b.started"
        for _ in range(1200):
            if started.exists() and started.read_text().endswith("\n"):
                break
            time.sleep(0.05)
        os.kill(int(started.read_text().split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    jobs = [stub(tmp_path, "a", 0.5), stub(tmp_path, "b", 120), *(stub(tmp_path, n) for n in "cd")]
    greedy = Job(name="greedy", command=("true",), folder=str(tmp_path), gpus=9)
    # In a process of its own, for Ray's threads live on, and a process with threads forks badly.
    # Ray's own processes are ended by `atexit`, which a fork server's children never call.
    with ProcessPoolExecutor(1, SpawnContext()) as apart:
        codes = apart.submit(codes_by_ray, jobs, tmp_path / "logs").result()
        with pytest.raises(UserError, match="asks for 9 GPUs"):
            apart.submit(codes_by_ray, [greedy], tmp_path / "logs").result()
    killer.join()
    assert codes == [(n, 0) for n in "abcd"]
    assert {n: (tmp_path / f"{n}.done").read_text() for n in "abcd"} == dict.fromkeys(
        "abcd", "done\n"
    )
    starts = {n: len((tmp_path / f"{n}.started").read_text().splitlines()) for n in "abcd"}
    assert starts == {"a": 1, "b": 2, "c": 1, "d": 1}


def call(argument: tuple[float | Path, str]) -> tuple[str, int, bool]:
    """Waits, for a time or until after a file is there; raises, dies or leaves the file."""
    import torch

    wait, what = argument
    while isinstance(wait, Path) and not wait.exists():
        time.sleep(0.01)
    time.sleep(0.5 if isinstance(wait, Path) else wait)
    if what.startswith("/"):
        Path(what).touch()
    if what == "raise":
        raise ValueError("no luck.")
    if what == "die":
        os._exit(1)
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return what, torch.get_num_threads(), ignored


@pytest.mark.parametrize("spawn", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_calls_in_processes(spawn, tmp_path):
    arguments = [(0.2, "a"), (0.0, "raise"), (0.0, "c")]
    calls = run_in_processes(call, arguments, "", 2, spawn=spawn)
    a, error, c = (done.exception() or done.result() for done in calls)
    assert a == ("a", 1, True) and c == ("c", 1, True) and str(error) == "no luck."
    assert list(ordered_map(call, [(0.3, "a"), (0.0, "b")], 2, "")) == [
        ("a", 1, True),
        ("b", 1, True),
    ]
    arguments = [(tmp_path / "b", "a"), (0.0, str(tmp_path / "b"))]
    unordered = run_in_processes(call, arguments, "", 2, in_order=False)
    assert [done.result()[0] for done in unordered] == [str(tmp_path / "b"), "a"]


def test_who_stops_listening_stops_the_processes():
    others = set(multiprocessing.active_children())  # of another test's data loader
    start = time.monotonic()
    for result, _, _ in ordered_map(call, [(0.0, "a"), (600.0, "b")], 2, ""):
        assert result == "a"
        break
    with pytest.raises(ValueError, match="no luck"):
        list(ordered_map(call, [(0.0, "raise"), (600.0, "b")], 2, ""))
    assert time.monotonic() - start < 300, "nothing waits for b"
    while set(multiprocessing.active_children()) - others:  # until they are reaped
        time.sleep(0.05)


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(UserError, match="a process of drawing died"):
        list(ordered_map(call, [(0.0, "die"), (0.0, "a")], 2, "drawing"))
