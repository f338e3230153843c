"""Many jobs at once: functions and command lines, on this machine or on a Ray cluster."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import UserError
from prunet_det.utils.extras import require
from prunet_det.utils.io import atomic_path

Argument = TypeVar("Argument")
Result = TypeVar("Result")

LAUNCHERS = ("none", "ray")
RETRIES = 3  # of a job whose Ray worker was lost
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command line and what it needs.

    Attributes:
        name: Name of the job and of its log.
        command: Program and arguments.
        folder: Folder where it leaves its results.
        results: Patterns of files under `folder` that are brought back from another machine.
        cpus: Number of threads.
        gpus: Number of whole GPUs.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    results: tuple[str, ...] = ()
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    Attributes:
        job: The job.
        code: Exit status; negative for a signal.
        tail: The last lines of its output.
        files: Content of the results that another machine gave, by their path under the job's
            folder.
    """

    job: Job
    code: int
    tail: str = ""
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """Cause of a failure in one sentence; empty after a success."""
        return failure_reason(self.code, self.tail) if self.code else ""


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


def launch(
    jobs: Sequence[Job],
    launcher: str,
    logs: str | os.PathLike[str],
    max_workers: int = 1,
    deadline: float | None = None,
) -> Iterator[JobResult]:
    """Runs jobs and yields how each ended, as it ends.

    Args:
        jobs: Jobs, in the order in which they start.
        launcher: One of LAUNCHERS.
        logs: Folder of the jobs' output.
        max_workers: Number of jobs at once; a Ray cluster that runs already takes as many as it has
            room for.
        deadline: Time of `time.monotonic()` after which no job starts; by default there is none.

    Raises:
        UserError: If Ray is not installed, or has too few CPUs or GPUs for a job.
    """
    Path(logs).mkdir(parents=True, exist_ok=True)
    ways = {"none": _launch_here, "ray": _launch_on_ray}
    yield from ways[launcher](jobs, Path(logs), max_workers, deadline)


def _late(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _die_with_parent() -> None:
    """Has the kernel kill this process with its parent; a killed launcher leaves no job behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(job: Job, logs: Path, gpu: str | None = None) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": str(job.cpus), "PYTHONUNBUFFERED": "1"}
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    with open(logs / f"{job.name}.log", "ab") as log:
        log.write(f"$ {shlex.join(job.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            job.command, stdout=log, stderr=subprocess.STDOUT, env=env, preexec_fn=_die_with_parent
        )


def _tail(job: Job, logs: Path) -> str:
    text = (logs / f"{job.name}.log").read_text(encoding="utf-8", errors="replace")
    return text.rpartition("\n$ ")[2][-3000:]


def _launch_here(
    jobs: Sequence[Job], logs: Path, max_workers: int, deadline: float | None
) -> Iterator[JobResult]:
    waiting = deque(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}  # by slot
    gpus = _gpus()
    try:
        while running or (waiting and not _late(deadline)):
            for slot in range(max_workers):
                if slot not in running and waiting and not _late(deadline):
                    job = waiting.popleft()
                    gpu = gpus[slot % len(gpus)] if gpus and job.gpus == 1 else None
                    running[slot] = job, _start(job, logs, gpu)
            time.sleep(_POLL_SECONDS)
            for slot, (job, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[slot]
                    yield JobResult(job, code, _tail(job, logs) if code else "")
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _gpus() -> list[str]:
    """Lists the GPUs that jobs share, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _launch_on_ray(
    jobs: Sequence[Job], logs: Path, max_workers: int, deadline: float | None
) -> Iterator[JobResult]:
    """Runs jobs on the cluster of RAY_ADDRESS, or on a local one with room for `max_workers`."""
    ray = require("ray", "ray")
    if not jobs:
        return
    options: dict[str, Any] = dict(log_to_driver=False, logging_level="warning")
    if "RAY_ADDRESS" in os.environ:
        ray.init(address=os.environ["RAY_ADDRESS"], **options)
    else:
        cpus = max_workers * max(job.cpus for job in jobs)
        ray.init(num_cpus=cpus, include_dashboard=False, **options)
    # A worker starts a process and waits: it need not import this package, and PyTorch with it.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        yield from _hand_out(ray, jobs, logs, deadline)
    finally:
        ray.shutdown()


def _hand_out(
    ray: Any, jobs: Sequence[Job], logs: Path, deadline: float | None
) -> Iterator[JobResult]:
    available = ray.cluster_resources()
    for job in jobs:
        for kind, required in (("CPU", job.cpus), ("GPU", job.gpus)):
            if required > available.get(kind, 0):
                raise UserError(
                    f"{job.name} asks for {required} {kind}s, the Ray cluster has "
                    f"{available.get(kind, 0):g}."
                )
    waiting = deque(jobs)
    running: dict[Any, Job] = {}  # by Ray's reference
    room = max(1, int(available["CPU"]) // min(job.cpus for job in jobs))
    if all(job.gpus for job in jobs):
        room = max(1, min(room, int(available["GPU"]) // min(job.gpus for job in jobs)))
    while running or (waiting and not _late(deadline)):
        while waiting and len(running) < room and not _late(deadline):
            job = waiting.popleft()
            needs = dict(num_cpus=job.cpus, num_gpus=job.gpus, max_retries=RETRIES)
            remote = ray.remote(**needs)(_on_worker)
            running[remote.remote(job, os.getcwd(), os.fspath(logs))] = job
        done, _ = ray.wait(list(running), num_returns=1)
        job = running.pop(done[0])
        try:
            result = ray.get(done[0])
        except ray.exceptions.RayError as e:  # lost more often than it is run again
            result = JobResult(job, 1, f"error: {' '.join(str(e).split())[:300]}")
        bring_back(result)
        yield result


def bring_back(result: JobResult) -> None:
    """Writes the files that another machine sent, over those of an earlier try."""
    for name, content in result.files.items():
        path = Path(result.job.folder) / name
        if not path.is_file() or path.read_bytes() != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)


def _on_worker(job: Job, folder: str, logs: str) -> JobResult:
    """Runs a job on a Ray worker, in the checkout, which has the same path on every machine."""
    if not Path(folder).is_dir():
        return JobResult(job, 1, f"error: this machine has no checkout at {folder}.")
    os.chdir(folder)
    Path(logs).mkdir(parents=True, exist_ok=True)
    code = _start(job, Path(logs)).wait()
    if code:
        return JobResult(job, code, _tail(job, Path(logs)))
    root = Path(job.folder)
    paths = [path for pattern in job.results for path in root.glob(pattern) if path.is_file()]
    return JobResult(job, 0, "", {p.relative_to(root).as_posix(): p.read_bytes() for p in paths})


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


def _start_worker(threads: int) -> None:
    """Prepares a process of the pool."""
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
