"""One run: train a detector, export it, evaluate what was exported, write the record."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import shutil
import statistics
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from prunet_det.benchmark.evaluate import evaluate, make_artifact, predictor
from prunet_det.benchmark.identity import identity
from prunet_det.benchmark.records import Record, read_record, record_path, save_record
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.detection.build import NetworkPart, build_detector
from prunet_det.latency.trace import trace
from prunet_det.training.hooks import WEIGHTS_FILE
from prunet_det.training.launch import build_runner, train
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path, file_digest, file_lock, write_json

logger = logging.getLogger(__name__)

WORK, IDENTITY, SPEED = "work", "identity.json", "speed.json"
CHECKPOINTS = 5  # of one training: what an interruption costs at most is a fifth of it


def work_folder(out: str | os.PathLike[str], key: str) -> Path:
    """Where a run's checkpoints, logs and weights lie: beside the records, and not under git."""
    root = Path(out) / WORK
    root.mkdir(parents=True, exist_ok=True)
    ignore = root / ".gitignore"
    if not ignore.exists():
        with atomic_path(ignore) as temporary:
            temporary.write_text("*\n", encoding="utf-8")
    return root / key


@contextlib.contextmanager
def run_lock(out: str | os.PathLike[str], key: str) -> Iterator[None]:
    """Lets one process at a time work on a run."""
    work = work_folder(out, key)
    work.mkdir(exist_ok=True)

    def say() -> None:
        logger.info("%s: another process works on it; waiting for it.", key)

    with file_lock(work.with_suffix(".lock"), say):
        yield


def run(
    suite: Suite, candidate: Candidate, seed: int, out: str | os.PathLike[str], command: str
) -> Record:
    """Does one run, from where an earlier process stopped, and writes its record.

    Args:
        suite: With the recipe.
        candidate: The network.
        seed: Of everything random.
        out: Folder of the benchmark.
        command: For the record.

    Returns:
        The record; the one that is there already, where the run has been done.

    Raises:
        Whatever building, training, exporting and evaluating raise.
    """
    key = candidate.key(seed)
    with run_lock(out, key):
        wanted: dict[str, Any] = {**identity(suite), "arch": candidate.arch}
        done = finished(out, key, wanted)
        if done is not None:
            return done
        start = time.perf_counter()
        torch.set_num_threads(suite.threads)
        work = work_folder(out, key)
        cfg = suite.build(candidate, seed, work)
        classes = _train(cfg, work, {**wanted, "seed": seed})
        figures = _evaluate(cfg, suite, candidate, work, classes)
        speed = json.loads((work / SPEED).read_text(encoding="utf-8"))
        where = environment()
        record = Record(
            model=candidate.model,
            family=candidate.family,
            input_size=candidate.input_size,
            seed=seed,
            **wanted,
            **figures,
            **speed,
            commit=where["commit"],
            environment=where,
            command=command,
            seconds=round(time.perf_counter() - start, 1),
            weights_hash=file_digest(work / WEIGHTS_FILE),
        )
        save_record(out, record)
        for checkpoint in work.glob("*.pth"):
            checkpoint.unlink()
    return record


def finished(out: str | os.PathLike[str], key: str, wanted: dict[str, Any]) -> Record | None:
    """The record of a run that needs no repeat.

    Args:
        out: Folder of the benchmark.
        key: Of the run.
        wanted: What the record's fields must be.

    Returns:
        None where there is no record, or that of a failure.

    Raises:
        ValueError: The record is damaged.
        UserError: It is of other code, data or recipe.
    """
    try:
        record = read_record(record_path(out, key))
    except FileNotFoundError:
        return None
    if record.status == "failed":
        return None
    for field, value in wanted.items():
        recorded = getattr(record, field)
        same = _same_network(recorded, value) if field == "arch" else recorded == value
        if not same:
            raise UserError(
                f"{record_path(out, key)} is of another {field.replace('_hash', '')} "
                f"({recorded!s:.40}, here {value!s:.40}); give another folder with --out, or move "
                "the old records away."
            )
    return record


def _same_network(spec: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two specs as JSON values are equal, wherever either says that it comes from."""
    if spec is None or other is None:
        return spec is other
    return {**spec, "provenance": None} == {**other, "provenance": None}


def _train(cfg: Config, work: Path, wanted: dict[str, Any]) -> tuple[str, ...]:
    """Trains from the newest checkpoint; returns the classes."""
    if not _same(work, wanted) or not _resumable(work):
        for path in work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(work / IDENTITY, wanted)
    cfg.resume = (work / "last_checkpoint").is_file()
    length = cfg.train_cfg.get("max_iters")
    if length is not None:
        cfg.default_hooks.checkpoint.interval = max(1, length // CHECKPOINTS)
    cfg.custom_hooks.append(dict(type="SpeedHook"))
    runner = build_runner(cfg)
    train(runner)
    return tuple(runner.train_dataloader.dataset.metainfo["classes"])


def _same(work: Path, wanted: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((work / IDENTITY).read_text(encoding="utf-8")) == wanted)
    except (OSError, ValueError):
        return False


def _resumable(work: Path) -> bool:
    """Whether mmengine's pointer to the newest checkpoint, and the checkpoint, are whole."""
    try:
        name = (work / "last_checkpoint").read_text(encoding="utf-8").strip()
    except OSError:
        return not any(work.glob("*.pth"))
    return bool(name) and zipfile.is_zipfile(work / Path(name).name)


@HOOKS.register_module()
class SpeedHook(Hook):
    """Notes throughput and peak memory of a training, of its last process.

    On a GPU the host runs ahead, so the device is waited for, and the time taken, every so often.
    """

    WINDOW = 10  # iterations

    def before_train(self, runner: Runner) -> None:
        """Starts."""
        self._rates: list[float] = []
        self._images = 0
        self._last = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Counts images, data loading included."""
        self._images += len(data_batch["inputs"])
        if self.every_n_train_iters(runner, self.WINDOW) or self.is_last_train_iter(runner):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self._rates.append(self._images / (now - self._last))
            self._images, self._last = 0, now

    def after_train(self, runner: Runner) -> None:
        """Writes the file; the median leaves out the start and whoever disturbed."""
        path = Path(runner.work_dir) / SPEED
        if not self._rates and path.is_file():
            return
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        speed = statistics.median(self._rates) if self._rates else None
        write_json(
            path,
            {
                "images_per_second": None if speed is None else round(speed, 3),
                "peak_memory_mb": round(peak, 1),
            },
        )


def _evaluate(
    cfg: Config, suite: Suite, candidate: Candidate, work: Path, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracy of the artifact, and the detector's counts."""
    detector = build_detector(cfg, work / WEIGHTS_FILE)
    traced = trace(
        NetworkPart(detector, candidate.input_size), (3, candidate.input_size, candidate.input_size)
    )
    part, program = make_artifact(
        detector, candidate.input_size, suite.artifact, suite.device, suite.threads
    )
    detector.to(suite.device)
    metrics = evaluate(cfg, predictor(detector, part, program), classes)
    return {
        "metrics": metrics,
        "parameters": traced.params,
        "macs": traced.macs,
        "kernels": len(traced.kernels),
    }
