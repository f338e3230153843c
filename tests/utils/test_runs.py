"""Runs are done once and kept, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from pathlib import Path

import pytest

from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import LOCK_FILE, file_lock
from prunet_det.utils.jobs import Launch
from prunet_det.utils.runs import RECORDS, Run, RunStore, campaign


@dataclass(frozen=True)
class Sum:
    """A task: to add a number to the last one's."""

    seed: int
    folder: str = ""
    dies: bool = False

    def __str__(self):
        return f"sum_{self.seed}"

    @property
    def key(self):
        return "sum", "plus one", self.seed


def add(task: Sum) -> Run:
    """Does the task; dies of it where it is not noted that it did so before."""
    if task.folder:
        with open(os.path.join(task.folder, f"begun_{task.seed}"), "a") as stream:
            stream.write(".")
    if task.dies and not os.path.exists(died := os.path.join(task.folder, f"died_{task.seed}")):
        open(died, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return Run(
        subject="sum",
        recipe="plus one",
        seed=task.seed,
        figures={"sum": task.seed + 1},
        seconds=0.1,
    )


def refuse_odd(task: Sum) -> Run:
    if task.seed % 2:
        raise ValueError(f"{task.seed} is odd")
    return add(task)


def sums(store: RunStore) -> dict[int, int]:
    return {run.seed: run.figures["sum"] for run in store}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_done_is_not_done_again(tmp_path, workers):
    store, notes = RunStore(tmp_path / "runs"), str(tmp_path)
    campaign([Sum(0, notes), Sum(1, notes), Sum(0, notes)], add, store, workers)
    campaign([Sum(seed, notes) for seed in range(4)], add, RunStore(store.folder), workers)
    assert sums(RunStore(store.folder)) == {0: 1, 1: 2, 2: 3, 3: 4}
    assert all((tmp_path / f"begun_{seed}").read_text() == "." for seed in range(4))


def test_a_line_that_a_kill_left_unfinished_gives_way_to_the_next(tmp_path):
    store = RunStore(tmp_path)
    campaign([Sum(seed) for seed in range(3)], add, store)
    path = tmp_path / RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = RunStore(tmp_path)
    assert sums(again) == {0: 1, 1: 2}
    campaign([Sum(seed) for seed in range(3)], add, again)
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    store = RunStore(tmp_path)
    campaign([Sum(seed) for seed in range(3)], add, store)
    path = tmp_path / RECORDS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace('"seed"', '"sed"') + lines[2])
    with pytest.raises(InputError, match=r"line 2 of .* is damaged .*sed"):
        RunStore(tmp_path)


def test_records_of_another_machine_beside_them_count(tmp_path):
    campaign([Sum(0)], add, RunStore(tmp_path))
    campaign([Sum(0), Sum(1)], add, RunStore(tmp_path / "there"))
    (tmp_path / "there" / RECORDS).rename(tmp_path / "there.jsonl")
    assert sums(RunStore(tmp_path)) == {0: 1, 1: 2}
    campaign([Sum(seed) for seed in range(3)], add, RunStore(tmp_path))
    seeds = [json.loads(line)["seed"] for line in (tmp_path / RECORDS).read_text().splitlines()]
    assert seeds == [0, 2]


# Processes that do many runs each, or a process for each run.
WAYS = pytest.mark.parametrize("way", ["pool", "launch"])


def two_workers(way: str, logs: Path) -> dict:
    return {"pool": dict(max_workers=2), "launch": dict(how=Launch(logs=logs, max_workers=2))}[way]


@pytest.mark.slow
@WAYS
def test_failed_runs_are_said_and_the_others_are_kept(tmp_path, way):
    store, logs = RunStore(tmp_path), tmp_path / "logs"
    with pytest.raises(UserError, match="2 of 4 runs failed, the first with: ValueError"):
        campaign([Sum(seed) for seed in range(4)], refuse_odd, store, **two_workers(way, logs))
    assert sums(RunStore(tmp_path)) == {0: 1, 2: 3}
    assert way == "pool" or "ValueError: 3 is odd" in (logs / "sum_3.log").read_text()


def test_runs_that_no_time_is_left_for_are_returned(tmp_path):
    store, how = RunStore(tmp_path), Launch(logs=tmp_path / "logs", minutes=1e-9)
    campaign([Sum(1)], add, store)
    left = campaign([Sum(seed) for seed in range(3)], add, store, how=how)
    assert [task.seed for task in left] == [0, 2]


def test_two_campaigns_do_not_work_in_one_folder(tmp_path):
    with (
        file_lock(tmp_path / LOCK_FILE),
        pytest.raises(UserError, match="another process works in"),
    ):
        campaign([Sum(0)], add, RunStore(tmp_path))


@pytest.mark.slow
@WAYS
def test_a_killed_worker_is_replaced_and_what_it_had_begun_is_begun_anew(tmp_path, way):
    store, workers = RunStore(tmp_path / "runs"), two_workers(way, tmp_path / "logs")
    tasks = [Sum(seed, str(tmp_path), dies=seed == 1) for seed in range(5)]
    assert campaign(tasks, add, store, **workers) == []
    assert sums(RunStore(store.folder)) == {seed: seed + 1 for seed in range(5)}


def slowly(task: Sum) -> Run:
    time.sleep(0.2)
    return add(task)


def whole(folder: str) -> None:
    campaign([Sum(seed, folder) for seed in range(12)], slowly, RunStore(folder), 2)


@pytest.mark.slow
def test_a_killed_campaign_leaves_no_worker_behind_and_goes_on(tmp_path):
    """Workers see their parent's end; the lock is free with it."""
    process = SpawnContext().Process(target=whole, args=(str(tmp_path),))
    process.start()
    end = time.monotonic() + 60
    while not (tmp_path / RECORDS).exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.join()
    done = sums(RunStore(tmp_path))
    assert done
    time.sleep(1.0)
    begun = len(list(tmp_path.glob("begun_*")))
    time.sleep(1.0)
    assert len(list(tmp_path.glob("begun_*"))) == begun
    whole(str(tmp_path))
    assert sums(RunStore(tmp_path)) == {seed: seed + 1 for seed in range(12)}
