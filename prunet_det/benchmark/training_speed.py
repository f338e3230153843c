"""Training speed: from disk and from memory; plain, recorded and compiled, with equal losses?"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
FIGURES = ("images_per_s", "start_s", "reserved_mb", "first_loss", "last_loss", "difference")
Row = dict[str, Any]


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
        iterations: Iterations of a turn, counted after it has settled.
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


def compare_speed_ups(
    suite: Suite,
    candidate: Candidate,
    out: Path,
    iterations: int = 50,
    kinds: Sequence[str] = KINDS,
) -> list[Row]:
    """Trains from the same seed on the same batches with each kind of `speed_up`.

    Args:
        suite: Recipe and device.
        candidate: Network.
        out: Folder of the logs.
        iterations: Length of each training; more than the 10 that do not count in the rate.
        kinds: Kinds; the first is what the others' losses are compared with.

    Returns:
        A row for each kind: `model`, `input_size`, `batch`, `speed_up`; FIGURES, which are images
        a second with batches in memory, after the first iterations; seconds of these, with
        recording or compiling; GPU memory held at most, in MiB; first and last loss; and the
        largest relative difference of a loss from the first row's. `reason` says why a kind cannot
        be had here; its figures are 0 then.
    """
    held: list[Any] = []
    rows: list[Row] = []
    reference: list[float] = []
    for kind in kinds:
        cfg = suite.build(candidate, 0, work_folder(out, f"speed_up_{candidate.model}"))
        cfg.speed_up, reason = kind, ""
        losses, figures = list[float](), dict.fromkeys(FIGURES, 0.0)
        try:
            losses, own = _train(cfg, held, iterations)
            if not all(map(math.isfinite, losses)):
                raise UserError(f"{candidate.model}, speed-up {kind}: losses are not finite.")
            figures.update(own)
        except Exception as e:  # whatever recording and compiling raise on some GPU
            if kind == "none":
                raise
            losses, reason = [], " ".join(str(e).split())
            if not isinstance(e, UserError):
                logger.exception("%s: training with --speed-up %s failed", candidate, kind)
                reason = f"{type(e).__name__}: {reason}"
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        reference = reference or losses
        changes = [abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=False)]
        figures["difference"] = float(f"{max(changes, default=0.0):.3g}")
        about = {"model": candidate.model, "input_size": candidate.input_size}
        about |= {"batch": cfg.train_dataloader.batch_size, "speed_up": kind}
        rows.append({**about, **figures, "reason": reason})
    return rows


def _train(cfg: Config, held: list[Any], iterations: int) -> tuple[list[float], dict[str, float]]:
    """Trains on held batches, and holds some first; returns all losses, and FIGURES."""
    trainer = Trainer.of(cfg)
    if not held:
        held += trainer.held_batches()
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
    memory = round(torch.cuda.max_memory_reserved() / 2**20, 1) if on_cuda else 0.0
    rate, start = round(images / (times[2] - times[1]), 2), round(times[1] - times[0], 2)
    ends = (round(values[0], 5), round(values[-1], 5))
    return values, dict(zip(FIGURES, (rate, start, memory, *ends), strict=False))


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
    device, rows = device_title(suite.device), list[Row]()
    for candidate in suite.candidates:
        rows += compare_speed_ups(suite, candidate, out, iterations)
        write_csv(out / "speed_up.csv", [{"device": device, **row} for row in rows], command)
    title = f"training from memory on {device}, same seed and batches"
    return text_table(title, list(rows[0]), [[f"{v}" for v in row.values()] for row in rows])
