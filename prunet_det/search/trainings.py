"""Trainings of many networks by one short recipe, each once: a line of JSON a training.

A record is keyed by the network's blocks, the recipe and the seed; a network that several questions
ask for is trained once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from prunet_det.arch.spec import ArchSpec
from prunet_det.search.entries import Entry
from prunet_det.search.trial import recipe_hash
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Job:
    """One training."""

    entry: str
    spec: dict[str, Any]
    network: str
    recipe: str
    train_seed: int
    recipe_hash: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What a record of it says."""
        return self.network, self.recipe_hash, self.train_seed


def read_records(out: Path) -> list[dict[str, Any]]:
    """The trainings that are done; a line that an interruption cut off is left out.

    Raises:
        UserError: A line before the last one is damaged.
    """
    path = out / RECORDS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            record["network"], record["recipe"], record["train_seed"], record["top1"]
            records.append(record)
        except (ValueError, KeyError, TypeError) as e:
            if i + 1 < len(lines):
                raise UserError(
                    f"line {i + 1} of {path} is damaged ({e}); remove the line, and its training "
                    "is done again."
                ) from e
    return records


def key_of(record: dict[str, Any]) -> tuple[str, str, int]:
    """As of Job."""
    return record["network"], record["recipe"], record["train_seed"]


def train_all(
    out: Path, entries: Sequence[Entry], recipe: str, seeds: int, jobs: int, progress: bool
) -> None:
    """Trains what has no record yet, `jobs` at a time, and writes each record when it is there.

    Raises:
        UserError: A process died; what is done is kept.
    """
    from tqdm import tqdm

    _mend(out / RECORDS)
    digest, done = recipe_hash(recipe), {key_of(r) for r in read_records(out)}
    todo: dict[tuple[str, str, int], Job] = {}
    for seed in range(seeds):  # so that an early end leaves all networks with as many trainings
        for entry in entries:
            job = Job(entry.name, entry.spec.to_dict(), entry.spec.digest, recipe, seed, digest)
            if job.key not in done:
                todo.setdefault(job.key, job)
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    failed: list[BaseException] = []
    bar = tqdm(total=len(todo), desc="training", unit="network", disable=not progress)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (threads,))
    try:
        futures = [pool.submit(_train, job) for job in todo.values()]
        with (out / RECORDS).open("a", encoding="utf-8") as stream:
            for future in as_completed(futures):
                bar.update()
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                failed += [error] if error else []
                if not error:
                    stream.write(json.dumps(future.result()) + "\n")
                    stream.flush()
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    except BrokenProcessPool as e:
        raise UserError(
            "a training's process died; run the command again, and it goes on from there."
        ) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()
    if failed:
        raise UserError(
            f"{len(failed)} of {len(todo)} trainings failed, the first with: {failed[0]}; the "
            "others are kept, and the same command tries again."
        ) from failed[0]


def _mend(path: Path) -> None:
    """Cuts off a last line without an end."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            with path.open("r+b") as stream:
                stream.truncate(data.rfind(b"\n") + 1)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends everything
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _train(job: Job) -> dict[str, Any]:
    from prunet_det.search.trial import run_trial

    trial = run_trial(ArchSpec.from_dict(job.spec), Config.fromfile(job.recipe), job.train_seed)
    return {
        "entry": job.entry,
        "network": job.network,
        "recipe": job.recipe_hash,
        "train_seed": job.train_seed,
        "top1": trial.top1,
        "seconds": round(trial.seconds, 2),
        **{k: v for k, v in environment().items() if k in ("commit", "machine", "date")},
    }
