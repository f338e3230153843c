"""Many calls of a function at once, in processes of this machine or on a Ray cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from prunet_det.utils.config import positive_int
from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.extras import require
from prunet_det.utils.io import atomic_path

Argument = TypeVar("Argument")
Result = TypeVar("Result")

LAUNCHERS = ("none", "ray")
_TRIES = 3  # of a call whose process dies
_GRACE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How `launch` makes calls: where, how many at once, and what each of them needs.

    Attributes:
        launcher: One of LAUNCHERS: `none` for processes of this machine, or a Ray cluster: that of
            RAY_ADDRESS, or a local one.
        max_workers: Number of calls at once; a Ray cluster that runs already takes as many as it
            has room for.
        minutes: Time after which no call begins; None for no limit.
        cpus: Number of threads of a call.
        gpus: Number of whole GPUs of a call.
        logs: Folder of the calls' output, a file each.
    """

    launcher: str = "none"
    max_workers: int = 1
    minutes: float | None = None
    cpus: int = 1
    gpus: int = 0
    logs: Path

    def __post_init__(self) -> None:
        positive_int(self.max_workers, "the number of jobs at once")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"the minutes must be above 0, got {self.minutes:g}.")


# Begins a call in a slot, 0 to max_workers - 1.
_Begin = Callable[[Any, int], "Future[Any]"]


def launch(
    function: Callable[[Argument], Result], arguments: Sequence[Argument], how: Launch
) -> Generator[tuple[Argument, Result | BaseException], None, None]:
    """Calls a function with each argument, each call in a process of its own.

    A call whose process dies is made again, twice at most. Close the generator where an error may
    end its use early, for that stops the processes: `with contextlib.closing(...)`.

    Args:
        function: Function that other processes can import.
        arguments: Argument of each call, in the order in which they begin. `str(argument)` names
            the log of what its call prints; files whose paths are in its attribute `files`, where
            it has one, are brought back from another machine.
        how: Launcher, number of calls at once, time, and what a call needs.

    Yields:
        An argument with its result, or with the exception that its call raised, as each ends.

    Raises:
        UserError: If Ray is not installed, or has too few CPUs or GPUs for a call.
    """
    if not arguments:
        return
    how.logs.mkdir(parents=True, exist_ok=True)
    end = float("inf") if how.minutes is None else time.monotonic() + 60 * how.minutes
    waiting, running = deque(arguments), dict[Future[Any], tuple[Argument, int]]()
    ways = {"none": _processes, "ray": _ray_workers}
    with ways[how.launcher](function, how) as (begin, room):
        while running or (waiting and time.monotonic() < end):
            busy = {slot for _, slot in running.values()}
            for slot in sorted(set(range(room)) - busy):
                if waiting and time.monotonic() < end:
                    argument = waiting.popleft()
                    running[begin(argument, slot)] = argument, slot
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                argument, _ = running.pop(future)
                yield argument, future.exception() or _take(future.result())


def _take(result: tuple[Result, dict[str, bytes]]) -> Result:
    """Writes the files that another machine sent, over those of an earlier try."""
    value, files = result
    for name, content in files.items():
        path = Path(name)
        if not path.is_file() or path.read_bytes() != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
    return value


@contextlib.contextmanager
def _processes(function: Callable[..., Any], how: Launch) -> Iterator[tuple[_Begin, int]]:
    """Makes each call in a new process of this machine."""
    gpus = _gpus() if how.gpus else []
    others = set(multiprocessing.active_children())
    begun: list[Future[Any]] = []
    leaving = threading.Event()

    def call(argument: Any, gpu: str | None) -> Any:
        context = multiprocessing.get_context("spawn")
        for tries_left in reversed(range(_TRIES)):
            try:
                with ProcessPoolExecutor(1, context, _start_worker, (how.cpus, gpu)) as one:
                    return one.submit(_call, function, argument, how.logs).result()
            except BrokenProcessPool as e:
                if leaving.is_set() or not tries_left:
                    raise UserError("its process was killed, or died for want of memory.") from e
        raise AssertionError

    def begin(argument: Any, slot: int) -> Future[Any]:
        gpu = gpus[slot % len(gpus)] if gpus else None
        begun.append(threads.submit(call, argument, gpu))
        return begun[-1]

    with ThreadPoolExecutor(how.max_workers) as threads:
        try:
            yield begin, how.max_workers
        finally:
            leaving.set()
            while not all(future.done() for future in begun):
                _stop(set(multiprocessing.active_children()) - others)


def _call(
    function: Callable[[Argument], Result], argument: Argument, logs: Path
) -> tuple[Result, dict[str, bytes]]:
    """Makes a call in a process of its own, whose output goes to a log."""
    with open(logs / f"{argument}.log", "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        return function(argument), {}
    except BaseException:
        traceback.print_exc()
        raise


def _gpus() -> list[str]:
    """Lists the GPUs that calls share, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _ray_workers(function: Callable[..., Any], how: Launch) -> Iterator[tuple[_Begin, int]]:
    """Makes each call on the cluster of RAY_ADDRESS, or on a local one for `max_workers`."""
    ray = require("ray", "ray")
    options: dict[str, Any] = dict(log_to_driver=False, logging_level="warning")
    if "RAY_ADDRESS" in os.environ:
        ray.init(address=os.environ["RAY_ADDRESS"], **options)
    else:
        ray.init(num_cpus=how.max_workers * how.cpus, include_dashboard=False, **options)
    try:
        there = ray.cluster_resources()
        needs = {"CPU": how.cpus, "GPU": how.gpus}
        for kind, needed in needs.items():
            if needed > there.get(kind, 0):
                raise UserError(
                    f"a job asks for {needed} {kind}s, the Ray cluster has {there.get(kind, 0):g}."
                )
        # A worker takes this machine's paths before it imports this package.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        remote = ray.remote(
            num_cpus=how.cpus, num_gpus=how.gpus, max_retries=_TRIES - 1, max_calls=1
        )(_on_worker)

        def begin(argument: Any, slot: int) -> Future[Any]:
            call = pickle.dumps((function, argument, how.logs))
            return remote.remote(call, os.getcwd(), sys.path).future()

        yield begin, min(int(there[kind] // needed) for kind, needed in needs.items() if needed)
    finally:
        ray.shutdown()


def _on_worker(call: bytes, folder: str, paths: Sequence[str]) -> tuple[Any, dict[str, bytes]]:
    """Makes a call on a Ray worker, in the folder, which has the same path on every machine."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"this machine has no folder {folder}.")
    os.chdir(folder)
    sys.path[:] = [*dict.fromkeys([*paths, *sys.path])]
    function, argument, logs = pickle.loads(call)
    Path(logs).mkdir(parents=True, exist_ok=True)
    result, _ = _call(function, argument, logs)
    files = [path for path in getattr(argument, "files", ()) if os.path.isfile(path)]
    return result, {os.fspath(path): Path(path).read_bytes() for path in files}


def run_in_processes(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    title: str,
    max_workers: int | None = None,
    in_order: bool = True,
    spawn: bool = sys.platform != "linux",
) -> Generator[Future[Result], None, None]:
    """Calls a function with each argument, in other processes, and yields the finished calls.

    The processes share PyTorch's threads, and end with this one. Close the generator where an
    error may end its use early, for that stops them: `with contextlib.closing(...)`.

    Args:
        function: Function that other processes can import.
        arguments: Argument of each call.
        title: Label of the progress bar; empty for no bar.
        max_workers: Number of processes; None for one per core.
        in_order: Yield in the order of the arguments, not as the calls end.
        spawn: Start a process afresh, as is needed if the function trains or uses a GPU; by
            default, on Linux, it is a copy of this one, which starts faster.

    Raises:
        UserError: If a process dies; an exception of a call is in its future.
    """
    import torch
    from tqdm import tqdm

    if not arguments:
        return
    max_workers = max_workers or usable_cores()
    threads = max(1, torch.get_num_threads() // max_workers)
    context = multiprocessing.get_context("spawn" if spawn else "fork")
    size = min(max_workers, len(arguments))
    others = set(multiprocessing.active_children())
    with (
        tqdm(total=len(arguments), desc=title, disable=not title) as bar,
        ProcessPoolExecutor(size, context, _start_worker, (threads,)) as pool,
    ):
        try:
            calls = deque(pool.submit(function, argument) for argument in arguments)
            for call in _pop_all(calls) if in_order else as_completed(calls):
                if isinstance(call.exception(), BrokenProcessPool):
                    raise UserError(
                        f"a process of {title or 'this program'} died; run the command again, and "
                        "it goes on from what is done."
                    ) from call.exception()
                bar.update()
                yield call
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _stop(set(multiprocessing.active_children()) - others)
            raise


def _stop(processes: Collection[BaseProcess]) -> None:
    """Ends processes; short calls may end by themselves, for a pipe may hang on half a result."""
    for _ in range(2):
        end = time.monotonic() + _GRACE_SECONDS
        running: dict[Any, BaseProcess] = {process.sentinel: process for process in processes}
        while running and time.monotonic() < end:
            for sentinel in connection.wait(list(running), end - time.monotonic()):
                running.pop(sentinel)
        for process in running.values():
            process.terminate()


def _pop_all(calls: deque[Future[Result]]) -> Iterator[Future[Result]]:
    while calls:  # a result that has been used is not kept
        yield calls.popleft()


def ordered_map(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    max_workers: int | None,
    title: str,
) -> Iterator[Result]:
    """Yields a function's results in the order of its arguments; see `run_in_processes`.

    Args:
        function: Function that other processes can import.
        arguments: Argument of each call.
        max_workers: Number of processes; None for one per core.
        title: Label of the progress bar.
    """
    with contextlib.closing(run_in_processes(function, arguments, title, max_workers)) as calls:
        for call in calls:
            yield call.result()


def _start_worker(threads: int, gpu: str | None = None) -> None:
    """Prepares a process of the pool."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends everything
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
