"""Everything that only a GPU can show, part after part, each in a process and a time of its own.

What a part leaves lies in one folder of a few files: records that the part writes itself, and
summary.json, which has a row a part: how it ended, how long it took, its figures and whatever else
it has to tell. A part that is done is not run again; one that was cut off goes on where it can.
"""

from __future__ import annotations

import datetime
import json
import logging
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunet_det.benchmark.gpu.summary import (
    DONE,
    FAILED,
    INTERRUPTED,
    LATE,
    NO_TIME,
    PARTIAL,
    SKIPPED,
    SUMMARY_TEXT,
    Row,
    Summary,
)
from prunet_det.utils.errors import DEBUG_VARIABLE, UserError
from prunet_det.utils.io import make_folder, write_json
from prunet_det.utils.process_group import ProcessGroup, failure_reason

logger = logging.getLogger(__name__)

MINUTES = 9.0  # of the whole
RESERVE_SECONDS = 25.0  # of the whole, for the start, and for a last part that has to be killed
GRACE_SECONDS = 10.0  # for a part to write what it has, once its time is over
PROBE_SECONDS = 120.0  # for the first import of everything, and a first use of the device
MIN_SHARE = 0.3  # of its time, with which a part is still started
_TELL_SECONDS = 20.0
_TRACE_SECONDS = 5.0  # between two looks at what a part does, where PRUNET_DEBUG is set
_BAD = (FAILED, LATE)


class SkippedError(UserError):
    """Why a part cannot be run here, which is no failure."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the parts work and what they are told.

    Attributes:
        out: Folder of the records.
        work: Folder of logs, checkpoints and whatever else need not be kept; a part that goes on
            keeps what it needs for it in `work/NAME`.
        data: Folder of the data sets.
        command: Command line that made the records.
        scale: What the parts measure, and how much of it.
        seconds: Time limit of the part.
    """

    out: Path
    work: Path
    data: Path
    command: str
    scale: Any
    seconds: float = 0.0

    def write(self, part: str, record: Mapping[str, Any]) -> None:
        """Writes what a part has so far for its row in the summary."""
        write_json(self.work / f"{part}.json", record)

    def read(self, part: str) -> dict[str, Any]:
        """Returns what a part has written; empty where that is nothing."""
        try:
            return dict(json.loads((self.work / f"{part}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a GPU has to show.

    Attributes:
        name: Name of the part's row, log and record.
        run: Writes the records; a function that another process can import.
        figures: Reads the records: the figures of the row, heading to text.
        seconds: Its share of the time: seconds of nine minutes, where all parts are run.
        files: Records in the folder `out`, without which the part is not done.
        data: Attribute of the scale that names the data set it reads, or waits for because it
            measures the host, which making one loads; empty if it does not matter.
        open_ended: Whether all that it has when its time is over counts, as it can always go on.
    """

    name: str
    run: Callable[[Place], None]
    figures: Callable[[Place], dict[str, str]]
    seconds: float
    files: tuple[str, ...] = ()
    data: str = ""
    open_ended: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run.

    Attributes:
        parts: In their order; time that one leaves is shared by those that follow.
        probe: Writes the record `machine`, with the `device`'s title: the first thing that runs.
        prepare: Makes the data set that an attribute of the scale names, beside the first parts.
        preload: Modules that are imported once for all parts. They must not touch the device.
        device: Torch device that the parts use.
    """

    parts: Sequence[Part]
    probe: Callable[[Place], None]
    prepare: Callable[[str, Place], None]
    preload: tuple[str, ...] = ()
    device: str = "cuda"


def run_plan(plan: Plan, place: Place, minutes: float = MINUTES, only: Sequence[str] = ()) -> int:
    """Runs what is not done yet.

    Args:
        plan: The parts.
        place: Where they work; records of the same device in `out` are kept.
        minutes: Time for everything.
        only: Names of the parts that are run; all by default.

    Returns:
        Exit code: 1 if a part failed or ran out of its own time.

    Raises:
        UserError: If the device cannot be used, the records are of another one, or `only` names an
            unknown part.
    """
    unknown = set(only) - {part.name for part in plan.parts}
    if unknown:
        known = ", ".join(part.name for part in plan.parts)
        raise UserError(f"there is no part {min(unknown)!r}; the parts are {known}.")
    for folder in (place.out, place.work):
        make_folder(folder)
    # A forked process can use the GPU if its parent never has; this is how PyTorch then finds it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["PYTHONUNBUFFERED"] = "1"
    parts = [part for part in plan.parts if not only or part.name in only]
    runner = _Runner(plan, place, minutes)
    try:
        return int(runner.run(parts))
    finally:  # Ctrl-C included
        runner.close()


class _Runner:
    """One call: the clock, the summary, and the processes that are running."""

    def __init__(self, plan: Plan, place: Place, minutes: float) -> None:
        reserve = min(RESERVE_SECONDS, 60 * minutes / 10)
        self.deadline = time.monotonic() + 60 * minutes - reserve
        self.scale = 1.0
        self.plan, self.place = plan, place
        self.summary = Summary.load(place.out)
        self.context = self._forkserver()
        self.running: list[ProcessGroup] = []

    def _forkserver(self) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self.plan.preload))
        return context

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.monotonic()

    def start(
        self, name: str, function: Callable[[Place], None], seconds: float, nice: int = 0
    ) -> ProcessGroup:
        """Starts a function of the place in a process of its own."""
        log = self.place.work / "logs" / f"{name}.log"
        arguments = (function, replace(self.place, seconds=seconds))
        process = ProcessGroup(_run, arguments, log, self.context, nice)
        self.running.append(process)
        return process

    def close(self) -> None:
        """Ends whatever still runs."""
        for process in self.running:
            process.stop(GRACE_SECONDS)

    def run(self, parts: Sequence[Part]) -> bool:
        """Runs those of the parts that are not done, in turn; returns whether one was bad."""
        todo = [part for part in parts if not self._is_done(part)]
        if not todo:
            logger.info("everything is done: %s", self.place.out / SUMMARY_TEXT)
            return False
        self._know_machine()
        data = {
            name: self.start(name, partial(self.plan.prepare, name), self.left, nice=10)
            for name in dict.fromkeys(part.data for part in todo if part.data)
        }
        self.scale = max(self.left, 0.0) / sum(part.seconds for part in todo)
        for i, part in enumerate(todo):
            title = f"{i + 1} of {len(todo)}, {part.name}"
            share = part.seconds / sum(p.seconds for p in todo[i:])
            row = self._row(part, title, share, data.get(part.data))
            self._note(part, row)
            logger.info("%s: %s", title, _in_words(row))
        logger.info("\n%s\nrecords: %s", self.summary.text(), self.place.out)
        return any(self.summary.rows[part.name].state in _BAD for part in todo)

    def _is_done(self, part: Part) -> bool:
        row = self.summary.rows.get(part.name)
        there = all((self.place.out / name).is_file() for name in part.files)
        return row is not None and row.state == DONE and there

    def _know_machine(self) -> None:
        """Fills in the summary's head, and finds out how processes can start that use the device.

        Raises:
            UserError: If they cannot, or the records in the folder are of another device.
        """
        (self.place.work / "machine.json").unlink(missing_ok=True)
        process = self.start("machine", self.plan.probe, PROBE_SECONDS)
        if self._wait(process, "machine", PROBE_SECONDS) and self.plan.device != "cpu":
            logger.info("a forked process cannot use the GPU here; every part imports for itself.")
            self.context = multiprocessing.get_context("spawn")
            process = self.start("machine", self.plan.probe, PROBE_SECONDS)
            self._wait(process, "machine", PROBE_SECONDS)
        machine = self.place.read("machine")
        if not machine:
            raise UserError(failure_reason(process.process.exitcode or 1, process.tail))
        before = self.summary.machine.get("device", machine["device"])
        if before != machine["device"]:
            raise UserError(
                f"{self.place.out} holds records of {before}, this is {machine['device']}; give "
                "another --out."
            )
        self.summary.machine, self.summary.command = machine, self.place.command
        self.summary.save(self.place.out)

    def _row(self, part: Part, title: str, share: float, data: ProcessGroup | None) -> Row:
        """Runs a part in a share of the time that is left, and says how it ended."""
        self._restore(part)
        limit = share * self.left
        if limit < MIN_SHARE * self.scale * part.seconds:
            return Row(state=NO_TIME)
        if data is not None:
            code = self._wait(data, f"{title} (waits for the data)", self.left)
            if code is None:
                return Row(state=NO_TIME, reason="the data were not ready in time.")
            if code:
                reason = failure_reason(code, data.tail)
                return Row(state=FAILED, reason=f"there are no data: {reason}", tail=data.tail)
            limit = min(limit, self.left)
        logger.info("%s: up to %.0f s, %.0f s are left", title, limit, self.left)
        row = Row(state=INTERRUPTED, reason="it was interrupted.")
        self._note(part, replace(row))  # so that the next call goes on even if this one is killed
        start = time.monotonic()
        process = self.start(part.name, part.run, limit)
        try:
            code = self._wait(process, title, limit)
            process.stop(GRACE_SECONDS)
            row = self._ended(part, process, code, limit)
        finally:  # Ctrl-C included: a row says so
            process.stop(GRACE_SECONDS)
            self.running.remove(process)
            row.seconds = round(time.monotonic() - start, 1)
            if row.state == INTERRUPTED:
                self._note(part, row)
        return row

    def _ended(self, part: Part, process: ProcessGroup, code: int | None, limit: float) -> Row:
        if code is None and part.open_ended:
            return Row(state=PARTIAL, reason="there is more to do; the same command goes on.")
        if code is None:
            return Row(state=LATE, reason=f"it was not done in {limit:.0f} s.", tail=process.tail)
        if code == _SKIPPED_CODE:
            return Row(state=SKIPPED, reason=failure_reason(code, process.tail))
        if code:
            reason = failure_reason(code, process.tail)
            return Row(state=FAILED, reason=reason, tail=process.tail)
        return Row(state=PARTIAL if self.place.read(part.name).get("left") else DONE)

    def _restore(self, part: Part) -> None:
        """Puts back what the part wrote in an earlier call, which may have been elsewhere.

        What the work folder has of another folder's records is removed.
        """
        before = self.summary.rows.get(part.name)
        if before is None:
            (self.place.work / f"{part.name}.json").unlink(missing_ok=True)
            shutil.rmtree(self.place.work / part.name, ignore_errors=True)
        elif before.record and not self.place.read(part.name):
            self.place.write(part.name, before.record)

    def _note(self, part: Part, row: Row) -> None:
        """Adds a part's records to its row, and saves the summary."""
        before = self.summary.rows.get(part.name)
        row.seconds += before.seconds if before else 0.0
        row.commit, row.date = self.summary.machine["commit"], _today()
        row.record = self.place.read(part.name)
        if row.record or part.files:
            try:
                row.figures = part.figures(self.place)
            except FileNotFoundError:
                pass  # it has not come so far
            except Exception:  # of a record that was cut short
                logger.exception("%s: its records give no figures.", part.name)
        rows = {**self.summary.rows, part.name: row}
        self.summary.rows = {p.name: rows[p.name] for p in self.plan.parts if p.name in rows}
        self.summary.save(self.place.out)

    def _wait(self, process: ProcessGroup, title: str, seconds: float) -> int | None:
        """Waits for the end of a process, at most some seconds, and says now and then how long."""
        end = time.monotonic() + seconds
        while True:
            code = process.wait(max(0.0, min(_TELL_SECONDS, end - time.monotonic())))
            left = end - time.monotonic()
            if code is not None or left <= 0:
                return code
            logger.info("%s: %.0f of %.0f s, %.0f s are left", title, left, seconds, self.left)


_SKIPPED_CODE = 3


def _run(function: Callable[[Place], None], place: Place) -> int:
    """What the process of a part does; the exit code says whether it can be run here."""
    trace()
    try:
        function(place)
    except SkippedError as e:
        sys.stderr.write(f"error: {e}\n")
        return _SKIPPED_CODE
    return 0


def trace() -> None:
    """Lets this process write down now and then what it does, where PRUNET_DEBUG is set."""
    if os.environ.get(DEBUG_VARIABLE):
        main = threading.main_thread().ident or 0
        threading.Thread(target=_look_at, args=(main,), daemon=True).start()


def _look_at(thread: int) -> None:
    # Not by faulthandler, which reads a running thread's frames and may end the process.
    while True:
        time.sleep(_TRACE_SECONDS)
        frame = sys._current_frames().get(thread)
        stack = "".join(traceback.format_stack(frame)[-8:]) if frame else ""
        sys.stderr.write(f"{time.strftime('%H:%M:%S')}\n{stack}")


def _today() -> str:
    return datetime.date.today().isoformat()


def _in_words(row: Row) -> str:
    parts = (f"{row.state} after {row.seconds:.0f} s", row.reason, row.figures_text)
    return ", ".join(filter(None, parts))
