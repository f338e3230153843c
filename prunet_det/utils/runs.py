"""Many runs, each done once: records as JSON lines as they come, and what is left handed out.

What a run is, a training or a search, only the function knows that does it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prunet_det.utils.config import from_mapping
from prunet_det.utils.env import environment
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import folder_lock, make_folder
from prunet_det.utils.jobs import Launch, launch, run_in_processes

logger = logging.getLogger(__name__)

RECORDS = "records.jsonl"
Key = tuple[str, str, int]
_RESTARTS = 2  # of processes that died: of want of memory, say


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was done once, and what came of it.

    Attributes:
        subject: Digest of what was trained or searched.
        recipe: Digest of all that decides the outcome beside subject and seed: recipe and data.
        seed: Seed of everything random.
        figures: What came of it, JSON values.
        seconds: That it took.
        made: Commit, date and machine. They do not decide whether runs may be compared.
    """

    subject: str
    recipe: str
    seed: int
    figures: dict[str, Any]
    seconds: float
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What tells it from other runs."""
        return self.subject, self.recipe, self.seed


class RunStore:
    """The runs of a folder, a line of JSON each.

    New ones are added to `records.jsonl`; other `*.jsonl` beside it, such as those of another
    machine, count as well. Of two runs with one key the first counts.

    Args:
        folder: The folder; it need not exist.

    Raises:
        InputError: A line is damaged. A last line that a killed process left unfinished is not
            counted; the next run takes its place.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._runs: dict[Key, Run] = {}
        for path in sorted(self.folder.glob("*.jsonl"), key=lambda p: (p.name != RECORDS, p.name)):
            for run in _read(path):
                self._runs.setdefault(run.key, run)

    def __contains__(self, key: object) -> bool:
        return key in self._runs

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def add(self, run: Run) -> None:
        """Writes a run's line; if the process is killed now, it is there whole or not at all."""
        path = make_folder(self.folder) / RECORDS
        with path.open("ab+") as stream:
            stream.seek(0)
            text = stream.read()
            if not text.endswith(b"\n"):
                stream.truncate(text.rfind(b"\n") + 1)
            stream.write(json.dumps(asdict(run)).encode() + b"\n")
        self._runs.setdefault(run.key, run)


def _read(path: Path) -> Iterator[Run]:
    lines = path.read_bytes().split(b"\n")
    for i, line in enumerate(lines[:-1]):  # what comes after the last newline is unfinished
        try:
            yield from_mapping(Run, json.loads(line), "a run", InputError)
        except ValueError as e:
            raise InputError(
                f"line {i + 1} of {path} is damaged ({e}); remove the line, and its run is done "
                "again."
            ) from e


class Task(Protocol):
    """What a process needs to do a run."""

    @property
    def key(self) -> Key:
        """Of the run that comes of it."""


def made_here() -> dict[str, str]:
    """Says the commit, date and machine of runs that are done now and here."""
    here = environment()
    return {key: here[key] for key in ("commit", "date", "machine")}


AnyTask = TypeVar("AnyTask", bound=Task)


def campaign(
    tasks: Iterable[AnyTask],
    do: Callable[[AnyTask], Run],
    store: RunStore,
    max_workers: int = 1,
    title: str = "",
    how: Launch | None = None,
) -> list[AnyTask]:
    """Does the runs that a store lacks and adds each as it ends.

    Processes that die, killed or out of memory, are started again twice; what was done is kept.

    Args:
        tasks: Task of each run, in the order in which they are begun; one key twice is done once.
        do: Function that other processes can import.
        store: Where runs are looked up and kept.
        max_workers: Number of processes, each of which does many runs; 1 for this process itself.
        title: Label of the progress bar; empty for no bar.
        how: Launcher for long runs, each in a process of its own, here or on a Ray cluster, with a
            log that is named by `str(task)`; None for processes that do many runs each. With it,
            `max_workers` and `title` are not used.

    Returns:
        Tasks that had not begun when the minutes of `how` were over; empty without a limit.

    Raises:
        UserError: Another campaign works in the folder, runs failed, or processes keep dying.
    """
    folder = store.folder
    refusal = f"another process works in {folder}; wait for its end, or give another folder."
    with folder_lock(folder, refusal):
        every = {task.key: task for task in tasks}
        for restarts_left in reversed(range(_RESTARTS + 1)):
            left = [task for key, task in every.items() if key not in store]
            try:
                if how is not None:
                    failed = _launch_all(left, do, store, how)
                else:
                    failed = _do_all(left, do, store, max_workers, title)
                break
            except UserError as e:
                if not isinstance(e.__cause__, BrokenProcessPool) or not restarts_left:
                    raise
                logger.warning("a process died; the runs that it left are begun anew.")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(left)} runs failed, the first with: {failed[0]!r}; the others "
            "are kept, and the same command tries again."
        ) from failed[0]
    return [task for key, task in every.items() if key not in store]


def _launch_all(
    tasks: Sequence[AnyTask], do: Callable[[AnyTask], Run], store: RunStore, how: Launch
) -> list[BaseException]:
    failed: list[BaseException] = []
    with contextlib.closing(launch(do, tasks, how)) as calls:
        for done, (task, result) in enumerate(calls, 1):
            where = f"{done} of {len(tasks)}"
            if isinstance(result, BaseException):
                failed.append(result)
                log = how.logs / f"{task}.log"
                logger.warning("%s: failed: %s (log: %s); %s.", task, result, log, where)
            else:
                store.add(result)
                logger.info("%s: done in %.0f s; %s.", task, result.seconds, where)
    return failed


def _do_all(
    tasks: Sequence[AnyTask],
    do: Callable[[AnyTask], Run],
    store: RunStore,
    max_workers: int,
    title: str,
) -> list[BaseException]:
    if max_workers == 1:
        from tqdm import tqdm

        for task in tqdm(tasks, desc=title, disable=not title):
            store.add(do(task))
        return []
    failed: list[BaseException] = []
    calls = run_in_processes(do, tasks, title, max_workers, in_order=False, spawn=True)
    with contextlib.closing(calls):
        for call in calls:
            error = call.exception()
            if error is None:
                store.add(call.result())
            else:
                failed.append(error)
    return failed
