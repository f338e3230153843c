"""Training speed: from disk and from memory; plain, recorded and compiled, with equal losses?"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from prunet_det.benchmark.run import work_folder
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.training.hooks import DeferredInfoHook
from prunet_det.training.launch import build_runner
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import device_title
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import text_table, write_csv

logger = logging.getLogger(__name__)

ROUNDS = 5  # of disk against memory, in turns
SETTLE = 3  # iterations at the start of a turn that do not count, beside what was loaded ahead
# The plain network comes twice: on a GPU no two runs are equal, which says what a difference means.
KINDS = ("none", "none", "graph", "compile")
RECORDING = 10  # iterations in which the network is recorded, and cuDNN and autocast find their way
HELD = 4  # batches, which come in turn


@dataclass
class Trainer:
    """A training that goes one iteration at a time.

    Attributes:
        runner: Built, with model, data and optimizer.
        ema: The hook that averages the weights, where there is one.
    """

    runner: Runner
    ema: EMAHook | None

    @classmethod
    def of(cls, cfg: Config) -> Trainer:
        """Builds everything, but trains nothing."""
        runner = build_runner(cfg)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.model.train()
        hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        for hook in hooks:
            hook.before_run(runner)
        for hook in runner.hooks:
            if isinstance(hook, DeferredInfoHook):  # so that clipping does not wait for the device
                hook.before_train(runner)
        return cls(runner, hooks[0] if hooks else None)

    def step(self, batch: Any) -> torch.Tensor:
        """One iteration, as the Runner has it, without its other hooks; returns the loss."""
        losses = self.runner.model.train_step(batch, self.runner.optim_wrapper)
        if self.ema is not None:
            self.ema.after_train_iter(self.runner, 0)
        return losses["loss"].detach()

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return next(self.runner.model.parameters()).device

    def wait(self) -> float:
        """Waits for the device, and returns the time, in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def batches(self) -> Iterator[Any]:
        """From disk, through the loader's processes."""
        return iter(self.runner.train_loop.dataloader_iterator)

    def held_batches(self) -> list[Any]:
        """The next HELD of them, to train from memory."""
        return list(itertools.islice(self.batches(), HELD))


def disk_against_memory(
    trainer: Trainer, held: list[Any], iterations: int, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Images a second with batches from disk, and with batches that are in memory.

    Args:
        trainer: Takes turns with either: a loader that works ahead while the other is timed would
            look too fast.
        held: Batches in memory.
        iterations: Of a turn, counted after it has settled.
        rounds: Number of turns of each.
    """
    loader = trainer.runner.train_loop.dataloader
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    settle = {"disk": SETTLE + ahead, "memory": SETTLE}
    sources = {"disk": trainer.batches(), "memory": itertools.cycle(held)}
    speeds: dict[str, list[float]] = {"disk": [], "memory": []}
    for turn in range(2 * rounds):
        name = ("disk", "memory")[turn % 2 ^ turn // 2 % 2]  # neither always comes first
        for _ in range(settle[name]):
            trainer.step(next(sources[name]))
        start, images = trainer.wait(), 0
        for _ in range(iterations):
            batch = next(sources[name])
            images += len(batch["inputs"])
            trainer.step(batch)
        speeds[name].append(images / (trainer.wait() - start))
    return statistics.median(speeds["disk"]), statistics.median(speeds["memory"])


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
                held = trainer.held_batches()
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
    on_cuda = trainer.device.type == "cuda"
    settle = min(RECORDING, iterations - 1)
    torch.manual_seed(0)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, images, times = [], 0, [trainer.wait()]
    for i in range(iterations):
        if i == settle:
            times.append(trainer.wait())
        batch = held[i % len(held)]
        images += len(batch["inputs"]) if i >= settle else 0
        losses.append(trainer.step(batch))
    times.append(trainer.wait())
    values = torch.stack(losses).tolist()
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
