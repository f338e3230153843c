"""A call in a process of its own, which ends, when it must, with all that it has started."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from prunet_det.utils.errors import run_tool

TAIL = 3000  # characters of a log that are enough to see why something ended


def failure_reason(code: int, tail: str) -> str:
    """Says in one sentence why a process failed.

    Args:
        code: Exit status; negative for a signal.
        tail: The last lines of its output.
    """
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ").partition(" (set ")[0]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}."
    return lines[-1] if lines else f"exit status {code}."


class ProcessGroup:
    """A call in a process that leads a group of its own.

    The process is killed where this one dies, and its output goes to a log. What a user can mend
    ends it with one line and status 2, as it ends a tool.

    Args:
        function: Function that another process can import.
        args: Its arguments.
        log: File that its output is added to.
        context: How the process starts, of `multiprocessing.get_context`.
        nice: Added to its niceness, 0..19: others that want the cores come first.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        log: str | os.PathLike[str],
        context: BaseContext,
        nice: int = 0,
    ) -> None:
        self.log = Path(log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self._start = self.log.stat().st_size
        options = (function, args, str(self.log.resolve()), nice)
        self.process: Any = context.Process(target=_lead, args=options)  # type: ignore[attr-defined]
        self.process.start()
        self._stopped = False

    def wait(self, seconds: float) -> int | None:
        """Waits for the end of the call.

        Args:
            seconds: Time to wait at most.

        Returns:
            The exit status, negative for a signal; None while the call runs.
        """
        self.process.join(seconds)
        code: int | None = self.process.exitcode
        return code

    def stop(self, grace: float) -> None:
        """Interrupts the call, as Ctrl-C does, and kills the group when the grace is over.

        Args:
            grace: Seconds in which the call may write what it has.
        """
        if self._stopped:
            return
        if self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)
            self.process.join(grace)
        with contextlib.suppress(ProcessLookupError):  # also what a call that ended left behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # where it has not come as far as to lead a group
        self.process.join()
        self._stopped = True

    @property
    def tail(self) -> str:
        """The end of this call's output."""
        with open(self.log, "rb") as log:
            log.seek(max(self._start, self.log.stat().st_size - TAIL))
            return log.read().decode("utf-8", errors="replace")


def _lead(function: Callable[..., Any], args: tuple[Any, ...], log: str, nice: int) -> None:
    """Runs in the new process."""
    os.setsid()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if nice:
        os.nice(nice)
    run_tool(partial(function, *args))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(os.getpid(), signal.SIGKILL)
