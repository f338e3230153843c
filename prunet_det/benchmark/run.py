"""One run: train a detector, export it, evaluate what was exported."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from prunet_det.benchmark.evaluate import evaluate, make_artifact, predictor
from prunet_det.benchmark.records import Record, subject_of
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.detection.build import NetworkPart, build_detector
from prunet_det.latency.trace import trace
from prunet_det.training.hooks import WEIGHTS_FILE
from prunet_det.training.launch import build_runner, train
from prunet_det.utils.env import environment
from prunet_det.utils.io import atomic_path, digest, file_digest, write_json
from prunet_det.utils.runs import Key, Run

WORK, IDENTITY, SPEED = "work", "identity.json", "speed.json"
LOGS = f"{WORK}/logs"
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


@dataclass(frozen=True, kw_only=True)
class Training:
    """Task of a campaign: one training of a suite's network.

    Attributes:
        name: Name of its log and of the folder of its checkpoints.
        suite: Recipe and device.
        candidate: The network.
        seed: Seed of everything random.
        out: Folder of the benchmark.
        shared: Its record's values for the keys of `records.SHARED`.
        command: Command line, for the record.
    """

    name: str
    suite: Suite
    candidate: Candidate
    seed: int
    out: Path
    shared: Mapping[str, Any]
    command: str

    def __str__(self) -> str:
        return self.name

    @property
    def subject(self) -> str:
        """Digest of the network at its input size."""
        candidate = self.candidate
        return subject_of(candidate.model, candidate.input_size, candidate.arch)

    @property
    def key(self) -> Key:
        """What tells its run from others."""
        return self.subject, digest(dict(self.shared)), self.seed

    @property
    def files(self) -> list[Path]:
        """The weights, which timing needs beside the record."""
        return [work_folder(self.out, self.name) / WEIGHTS_FILE]


def do_training(task: Training) -> Run:
    """Trains, exports and evaluates, from where an earlier process stopped.

    Returns:
        The run of a `Record`; weights and logs stay in the task's folder, checkpoints do not.
    """
    suite, candidate = task.suite, task.candidate
    start = time.perf_counter()
    torch.set_num_threads(suite.threads)
    work = work_folder(task.out, task.name)
    work.mkdir(exist_ok=True)
    cfg = suite.build(candidate, task.seed, work)
    classes = _train(cfg, work, {**task.shared, "arch": candidate.arch, "seed": task.seed})
    figures = _evaluate(cfg, suite, candidate, work, classes)
    speed = json.loads((work / SPEED).read_text(encoding="utf-8"))
    record = Record(
        model=candidate.model,
        family=candidate.family,
        input_size=candidate.input_size,
        seed=task.seed,
        **task.shared,
        arch=candidate.arch,
        **figures,
        **speed,
        environment=environment(),
        command=task.command,
        seconds=round(time.perf_counter() - start, 1),
        weights_hash=file_digest(work / WEIGHTS_FILE),
    )
    for checkpoint in work.glob("*.pth"):
        checkpoint.unlink()
    return record.run


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
