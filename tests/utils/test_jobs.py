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
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnContext
from pathlib import Path

import pytest

from prunet_det.utils import jobs
from prunet_det.utils.errors import UserError
from prunet_det.utils.jobs import Launch, launch, ordered_map, run_in_processes


@dataclass(frozen=True)
class Note:
    """An argument: a name, and what its call does beside noting that it began."""

    folder: str
    name: str
    wait: float = 0.0
    what: str = ""

    def __str__(self):
        return self.name

    @property
    def files(self):
        return [os.path.join(self.folder, f"{self.name}.done")]


def note(argument: Note) -> str:
    """Notes its process and writes a file; a second call finds nothing to wait for."""
    path = Path(argument.folder, f"{argument.name}.started")
    with open(path, "a") as stream:
        stream.write(f"{os.getpid()}\n")
    print("it runs")
    time.sleep(argument.wait if len(path.read_text().splitlines()) == 1 else 0)
    if argument.what == "raise":
        raise ValueError("no luck.")
    if argument.what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(argument.files[0], "a") as stream:
        stream.write("done\n")
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def begun(folder: Path, name: str) -> list[int]:
    """Processes that began a call."""
    path = folder / f"{name}.started"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_one_failure_does_not_stop_the_others(tmp_path):
    notes = [Note(str(tmp_path), name, what=what) for name, what in CALLS.items()]
    how = Launch(logs=tmp_path / "logs", max_workers=2)
    results = {argument.name: result for argument, result in launch(note, notes, how)}
    assert results["a"] == results["b"] == os.environ.get("CUDA_VISIBLE_DEVICES", "")
    assert isinstance(results["bad"], ValueError) and "killed" in str(results["dead"])
    assert {name: len(begun(tmp_path, name)) for name in CALLS} == {
        **dict.fromkeys(CALLS, 1),
        "dead": 3,
    }
    assert "it runs" in (how.logs / "a.log").read_text()
    assert "ValueError: no luck." in (how.logs / "bad.log").read_text()


CALLS = {"bad": "raise", "dead": "die", "a": "", "b": ""}


@pytest.mark.slow
def test_no_call_begins_after_its_time(tmp_path):
    notes = [Note(str(tmp_path), name, 0.5) for name in "ab"]
    how = Launch(logs=tmp_path / "logs", minutes=1e-4)
    assert [argument.name for argument, _ in launch(note, notes, how)] == ["a"]
    assert (tmp_path / "a.done").exists() and not begun(tmp_path, "b")


@pytest.mark.parametrize("given", [dict(max_workers=0), dict(minutes=0.0)])
def test_what_no_launcher_can_do_is_refused(tmp_path, given):
    with pytest.raises(UserError):
        Launch(logs=tmp_path, **given)


@pytest.mark.slow
def test_who_stops_listening_stops_the_calls(tmp_path):
    notes = [Note(str(tmp_path), "a"), Note(str(tmp_path), "b", 600)]
    calls = launch(note, notes, Launch(logs=tmp_path / "logs", max_workers=2))
    next(calls)
    while not begun(tmp_path, "b"):
        time.sleep(0.02)
    calls.close()
    (pid,) = begun(tmp_path, "b")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_calls_share_the_gpus_that_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    notes = [Note(str(tmp_path), name, 2.0) for name in "ab"]
    how = Launch(logs=tmp_path / "logs", max_workers=2, gpus=1)
    assert sorted(result for _, result in launch(note, notes, how)) == ["2", "5"]


def test_what_another_machine_gives_replaces_an_earlier_try(tmp_path):
    path, weights = tmp_path / "a.json", tmp_path / "work" / "w"
    path.write_text("failed")
    assert jobs._take(("value", {str(path): b"done", str(weights): b"weights"})) == "value"
    assert path.read_text() == "done" and weights.read_bytes() == b"weights"


def test_without_ray_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    how = Launch(logs=tmp_path / "logs", launcher="ray")
    with pytest.raises(UserError, match=r"prunet_det\[ray\]"):
        list(launch(note, [Note(str(tmp_path), "a")], how))


def names_by_ray(notes: list[Note], how: Launch) -> list[str]:
    found = dict(launch(note, notes, how))
    assert not [result for result in found.values() if isinstance(result, BaseException)]
    return sorted(argument.name for argument in found)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_lost_ray_worker_s_call_is_made_again(tmp_path):
    """Two local workers, one of them killed in mid-call: all results come, none twice."""

    def kill_worker() -> None:
        end = time.monotonic() + 600
        while not begun(tmp_path, "b") and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(begun(tmp_path, "b")[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    waits = {"a": 0.5, "b": 900.0, "c": 0.0, "d": 0.0}
    notes = [Note(str(tmp_path), name, wait) for name, wait in waits.items()]
    how = Launch(logs=tmp_path / "logs", launcher="ray", max_workers=2)
    # In a process of its own, for Ray's threads live on, and a process with threads forks badly.
    # Ray's own processes are ended by `atexit`, which a fork server's children never call.
    with ProcessPoolExecutor(1, SpawnContext()) as apart:
        names = apart.submit(names_by_ray, notes, how).result()
        with pytest.raises(UserError, match="asks for 9 GPUs"):
            apart.submit(names_by_ray, notes, replace(how, gpus=9)).result()
    killer.join()
    assert names == list("abcd")
    assert {n: len(begun(tmp_path, n)) for n in names} == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert all((tmp_path / f"{n}.done").read_text() == "done\n" for n in names)


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
