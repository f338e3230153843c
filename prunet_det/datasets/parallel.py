"""A function over many jobs in all cores, in order, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None, title: str
) -> Iterator[Result]:
    """Results in the order of the jobs; an interruption stops the processes.

    Args:
        function: A function that other processes can import.
        jobs: Its arguments.
        workers: Processes; by default one a core.
        title: Of the progress bar.
    """
    if not jobs:
        return
    workers = min(workers or available_cores(), len(jobs))
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=cv2.setNumThreads, initargs=(0,)
    ) as pool:
        try:
            yield from tqdm(
                pool.map(function, jobs, chunksize=8), total=len(jobs), desc=title, unit="image"
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
