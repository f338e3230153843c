"""Whether a recorded or compiled network trains as the plain one does, and how much faster."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prunet_det.benchmark.run import work_folder
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.benchmark.throughput import Trainer
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import device_title
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import text_table, write_csv

logger = logging.getLogger(__name__)

# The plain network comes twice: on a GPU no two runs are equal, which says what a difference means.
KINDS = ("none", "none", "graph", "compile")
SETTLE = 10  # iterations in which the network is recorded, and cuDNN and autocast find their way
HELD = 4  # batches, which come in turn


@dataclass(frozen=True, kw_only=True)
class SpeedUpRun:
    """Training of one kind of `speed_up`.

    Attributes:
        model: Name of the backbone.
        input_size: Side of the images, in pixels.
        batch: Images in a batch.
        speed_up: Kind, see `training.graphs.SPEED_UPS`.
        images_per_s: Images a second after the first iterations, with batches in memory.
        start_s: Seconds of the first iterations, with recording or compiling.
        reserved_mb: GPU memory that was held at most, in MiB; 0 without a GPU.
        first_loss: Loss of the first iteration.
        last_loss: Loss of the last iteration.
        difference: Largest relative difference of a loss from that of the first run, which is
            plain.
        reason: Why it could not be run; all figures are 0 then.
    """

    model: str
    input_size: int
    batch: int
    speed_up: str
    images_per_s: float = 0.0
    start_s: float = 0.0
    reserved_mb: float = 0.0
    first_loss: float = 0.0
    last_loss: float = 0.0
    difference: float = 0.0
    reason: str = ""


def compare_speed_ups(
    suite: Suite,
    candidate: Candidate,
    out: Path,
    iterations: int = 50,
    kinds: Sequence[str] = KINDS,
) -> list[SpeedUpRun]:
    """Trains from the same seed on the same batches with each kind of `speed_up`.

    Args:
        suite: Recipe and device.
        candidate: Network.
        out: Folder of the logs.
        iterations: Length of each training; more than the 10 that do not count in the rate.
        kinds: Kinds; the first is what the others' losses are compared with.

    Returns:
        A run for each kind; one that cannot be had here says why.
    """
    held: list[Any] = []
    runs: list[SpeedUpRun] = []
    reference: list[float] = []
    trainer: Trainer | None = None
    for kind in kinds:
        cfg = suite.build(candidate, 0, work_folder(out, f"speed_up_{candidate.model}"))
        cfg.speed_up = kind
        about = SpeedUpRun(
            model=candidate.model,
            input_size=candidate.input_size,
            batch=cfg.train_dataloader.batch_size,
            speed_up=kind,
        )
        try:
            trainer = Trainer.of(cfg)
            if not held:
                batches = trainer.batches()
                held = [next(batches) for _ in range(HELD)]
            losses, figures = _train(trainer, held, iterations)
            if not all(map(math.isfinite, losses)):
                raise UserError(f"{candidate.model}, speed-up {kind}: losses are not finite.")
        except Exception as e:  # whatever recording and compiling raise on some GPU
            if kind == "none":
                raise
            reason = " ".join(str(e).split())
            if not isinstance(e, UserError):
                logger.exception("%s: training with --speed-up %s failed", candidate, kind)
                reason = f"{type(e).__name__}: {reason}"
            runs.append(replace(about, reason=reason))
            continue
        finally:
            trainer = None
            gc.collect()
            torch.compiler.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        reference = reference or losses
        pairs = zip(losses, reference, strict=True)
        difference = max(abs(loss - other) / abs(other) for loss, other in pairs)
        runs.append(replace(about, **figures, difference=float(f"{difference:.3g}")))
    return runs


def _train(
    trainer: Trainer, held: list[Any], iterations: int
) -> tuple[list[float], dict[str, Any]]:
    """Trains; returns all losses, and the figures of a SpeedUpRun."""
    on_cuda = next(trainer.runner.model.parameters()).is_cuda
    settle = min(SETTLE, iterations - 1)
    torch.manual_seed(0)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, images, times = [], 0, [time.perf_counter()]
    for i in range(iterations):
        if i == settle:
            if on_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter())
        batch = held[i % len(held)]
        images += len(batch["inputs"]) if i >= settle else 0
        losses.append(trainer.step(batch))
    values = torch.stack(losses).tolist()  # waits for the device
    times.append(time.perf_counter())
    return values, {
        "images_per_s": round(images / (times[2] - times[1]), 2),
        "start_s": round(times[1] - times[0], 2),
        "reserved_mb": round(torch.cuda.max_memory_reserved() / 2**20, 1) if on_cuda else 0.0,
        "first_loss": round(values[0], 5),
        "last_loss": round(values[-1], 5),
    }


def speed_up_table(runs: Sequence[SpeedUpRun]) -> str:
    """Makes a table as text; a factor is to the first run of the same network."""
    rows, plain = [], 0.0
    for i, run in enumerate(runs):
        if i == 0 or run.model != runs[i - 1].model:
            plain = run.images_per_s
        figures = [
            f"{run.images_per_s:.1f}",
            f"{run.images_per_s / plain:.2f}" if plain else "",
            f"{run.start_s:.1f}",
            f"{run.reserved_mb:.0f}",
            f"{run.last_loss:.4f}",
            f"{run.difference:.2e}",
        ]
        about = [run.model, str(run.input_size), str(run.batch), run.speed_up]
        rows.append([*about, *(figures if not run.reason else [""] * len(figures)), run.reason])
    header = ["model", "px", "batch", "speed-up", "images/s", "times", "start (s)", "MiB"]
    header += ["last loss", "difference", "why not"]
    return text_table("training from memory, same seed and batches", header, rows)


def run_speed_ups(suite: Suite, out: Path, iterations: int, command: str) -> str:
    """Compares all kinds on the suite's networks, and writes speed_up.csv.

    Args:
        suite: Networks, recipe and device.
        out: Folder of the file and of the logs.
        iterations: Length of each training.
        command: Command that does it again, for the file.

    Returns:
        The table as text.
    """
    positive_int(iterations, "the number of iterations")
    torch.set_num_threads(suite.threads)
    device = device_title(suite.device)
    runs: list[SpeedUpRun] = []
    for candidate in suite.candidates:
        runs += compare_speed_ups(suite, candidate, out, iterations)
        rows = [{"device": device, **asdict(run)} for run in runs]
        write_csv(out / "speed_up.csv", rows, command)
    return speed_up_table(runs)
