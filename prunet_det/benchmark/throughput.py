"""Where the time of a training iteration goes, and whether loading slows it down."""

from __future__ import annotations

import copy
import itertools
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from prunet_det.benchmark.evaluate import make_artifact, predictor, without_workers
from prunet_det.benchmark.run import work_folder
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.training.hooks import DeferredInfoHook
from prunet_det.training.launch import build_runner
from prunet_det.training.loading import set_cache, set_loader_options
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import device_title
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import text_table, write_csv

logger = logging.getLogger(__name__)

ROUNDS = 5  # of disk against memory, in turns
SETTLE = 3  # iterations at the start of a turn that do not count, beside what was loaded ahead


@dataclass
class Clock:
    """Adds up seconds by name.

    Attributes:
        device: Whose work is waited for.
        seconds: So far.
    """

    device: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name].append(time.perf_counter() - start)

    def _wait(self) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    def rows(
        self, candidate: Candidate, part: str, per: str, times: int = 1
    ) -> list[dict[str, Any]]:
        """Median milliseconds of each step, and its share of their sum."""
        medians = {k: 1e3 * times * statistics.median(v) for k, v in self.seconds.items()}
        total = sum(medians.values())
        return [
            {
                "model": candidate.model,
                "input_size": candidate.input_size,
                "part": part,
                "step": name,
                "per": per,
                "ms": round(ms, 4),
                "share": round(ms / total, 4),
            }
            for name, ms in medians.items()
        ]


def loading_rows(cfg: Config, candidate: Candidate, images: int = 64) -> list[dict[str, Any]]:
    """What the loader's process does for a batch: each step of the pipeline."""
    loader = without_workers(cfg.train_dataloader)
    samples = loader.dataset
    dataset = getattr(samples, "dataset", samples)
    clock, batch = Clock("cpu"), cfg.train_dataloader.batch_size
    collected = []
    for index in range(min(images, len(dataset))):
        data = dataset.get_data_info(index)
        for transform in dataset.pipeline.transforms:
            with clock(type(transform).__name__):
                data = transform(data)
            if data is None:  # a crop without objects: the data set takes another image
                break
        else:
            collected.append(data)
    rows = clock.rows(candidate, "loading (in the loader's processes)", "batch", batch)
    collate = Clock("cpu")
    for i in range(0, len(collected) - batch + 1, batch):
        with collate("collate"):
            loader.collate_fn(collected[i : i + batch])
    return rows + collate.rows(candidate, "collating (in the loader's processes)", "batch")


def loading_speeds(
    cfg: Config, workers: Sequence[int], batches: int = 30
) -> list[dict[str, str | int | float]]:
    """Measures a loader without a training: how much it gives, and what it takes of a training.

    Args:
        cfg: Config with the training data; it is left as it is.
        workers: Numbers of processes to try, 0 for none.
        batches: Number of batches to time with each.

    Returns:
        For images from disk, and from memory if they fit, and for each number of processes:
        `source`, `workers`, `images_per_s`, and `handover_ms`, which a training waits for a batch
        that is ready.
    """
    rows: list[dict[str, str | int | float]] = []
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        for source in ("disk", "memory"):
            own = copy.deepcopy(cfg)
            try:
                if source == "memory":
                    set_cache(own)
                dataset = without_workers(own.train_dataloader).dataset
            except InputError as e:
                logger.warning("the loader is not measured with images in memory: %s", e)
                continue
            for count in workers:
                config = {**own.train_dataloader, "num_workers": count, "dataset": dataset}
                loader = Runner.build_dataloader(
                    {**config, "persistent_workers": count > 0}, seed=0
                )
                images_per_s, handover = _loader_speed(loader, batches)
                rows.append(
                    {
                        "source": source,
                        "workers": count,
                        "images_per_s": round(images_per_s, 2),
                        "handover_ms": round(handover, 3),
                    }
                )
    return rows


def _loader_speed(loader: DataLoader[Any], batches: int) -> tuple[float, float]:
    """Returns images a second, and the milliseconds until a batch that is ready is here."""

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    source = forever()
    ahead = _loaded_ahead(loader)
    for _ in range(SETTLE + ahead):
        next(source)
    images, start = 0, time.perf_counter()
    for _ in range(batches):
        images += len(next(source)["inputs"])
    seconds = time.perf_counter() - start
    waits = []
    for _ in range(min(batches, 10) if ahead else 0):
        time.sleep(2 * seconds / batches)  # until the next batch is ready
        start = time.perf_counter()
        next(source)
        waits.append(time.perf_counter() - start)
    return images / seconds, 1e3 * (statistics.median(waits) if waits else seconds / batches)


def _loaded_ahead(loader: DataLoader[Any]) -> int:
    """Returns the number of batches that a loader's processes have ready."""
    return loader.num_workers * (loader.prefetch_factor or 0)


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

    def batches(self) -> Iterator[Any]:
        """From disk, through the loader's processes."""
        return iter(self.runner.train_loop.dataloader_iterator)


def iteration_rows(
    trainer: Trainer, batches: list[Any], candidate: Candidate
) -> list[dict[str, Any]]:
    """What one iteration does with a batch that is there."""
    runner = trainer.runner
    model, optim = runner.model, runner.optim_wrapper
    clock = Clock(str(next(model.parameters()).device))
    trainer.step(batches[0])
    for batch in batches:
        with clock("normalise"):
            data = model.data_preprocessor(batch, True)
        with optim.optim_context(model):
            with clock("backbone forward"):
                images = data["inputs"]
                if model.channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                maps = model.backbone(images)
            with clock("neck forward"):
                maps = model.neck(maps)
            with clock("head forward"):
                outputs = model.bbox_head(maps)
            gts = [s.gt_instances for s in data["data_samples"]]
            with clock("targets"), torch.no_grad():
                model.bbox_head.assign(model.bbox_head._anchors(outputs[0]), gts)
            with clock("targets and loss"):
                losses = model.bbox_head.loss_by_feat(*outputs, gts, [{}] * len(gts))
                total, _ = model.parse_losses(losses)
        with clock("backward"):
            optim.backward(total)
        with clock("clip and optimizer"):
            optim.step()
            optim.zero_grad()
        if trainer.ema is not None:
            with clock("weight average"):
                trainer.ema.after_train_iter(runner, 0)
    both, alone = (clock.seconds[name] for name in ("targets and loss", "targets"))
    clock.seconds["loss"] = [max(b - a, 0.0) for b, a in zip(both, alone, strict=True)]
    del clock.seconds["targets and loss"]
    return clock.rows(candidate, "iteration", "batch")


def disk_against_memory(
    trainer: Trainer, held: list[Any], iterations: int, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Images a second with batches from disk, and with batches that are in memory.

    Args:
        trainer: Takes turns with either.
        held: Batches in memory.
        iterations: Of a turn, counted after it has settled.
        rounds: Number of turns of each.
    """
    disk, loader = trainer.batches(), trainer.runner.train_loop.dataloader
    settle = {"disk": SETTLE + _loaded_ahead(loader), "memory": SETTLE}
    sources: dict[str, Iterator[Any]] = {"disk": disk, "memory": itertools.cycle(held)}
    speeds: dict[str, list[float]] = {"disk": [], "memory": []}
    for turn in range(2 * rounds):
        name = ("disk", "memory")[turn % 2 ^ turn // 2 % 2]  # neither always comes first
        clock, images = Clock(str(next(trainer.runner.model.parameters()).device)), 0
        for _ in range(settle[name]):
            trainer.step(next(sources[name]))
        with clock(name):
            for _ in range(iterations):
                batch = next(sources[name])
                images += len(batch["inputs"])
                trainer.step(batch)
        speeds[name].append(images / clock.seconds[name][0])
    return statistics.median(speeds["disk"]), statistics.median(speeds["memory"])


def evaluation_rows(
    cfg: Config, suite: Suite, candidate: Candidate, detector: BaseDetector, images: int = 32
) -> list[dict[str, Any]]:
    """What evaluation does for one image."""
    detector = detector.cpu().eval()
    part, program = make_artifact(
        detector, candidate.input_size, suite.artifact, suite.device, suite.threads
    )
    detector.to(suite.device)
    predict = predictor(detector, part, program)
    dataset = without_workers(cfg.test_dataloader).dataset
    clock = Clock(suite.device)
    for index in range(min(images, len(dataset))):
        with clock("loading"):
            item = dataset[index]
        batch = {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
        with clock("all"):
            predict(batch)
        with clock("network"), torch.inference_mode():
            program.bind(torch.zeros(program.shape))()
    both, alone = clock.seconds.pop("all"), clock.seconds["network"]
    rest = [max(b - a, 0.0) for b, a in zip(both, alone, strict=True)]
    clock.seconds["normalise, selection and NMS"] = rest
    return clock.rows(candidate, "evaluation", "image")


def profile_candidate(
    suite: Suite, candidate: Candidate, out: Path, iterations: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All rows of one network, and its throughputs."""
    torch.set_num_threads(suite.threads)
    cfg = suite.build(
        candidate, 0, work_folder(out, f"profile_{candidate.model}_{candidate.input_size}")
    )
    trainer = Trainer.of(cfg)
    rows = loading_rows(cfg, candidate)
    batches = trainer.batches()
    held = [next(batches) for _ in range(8)]
    rows += iteration_rows(trainer, [held[i % 8] for i in range(iterations)], candidate)
    disk, memory = disk_against_memory(trainer, held, iterations)
    rows += evaluation_rows(cfg, suite, candidate, trainer.runner.model)
    speed = {
        "model": candidate.model,
        "input_size": candidate.input_size,
        "batch": cfg.train_dataloader.batch_size,
        "workers": cfg.train_dataloader.num_workers,
        "disk_images_per_s": round(disk, 3),
        "memory_images_per_s": round(memory, 3),
        "ratio": round(disk / memory, 4),
    }
    return rows, speed


def run_profile(
    suite: Suite, out: Path, iterations: int, command: str, workers: Sequence[int] = ()
) -> list[str]:
    """Profiles the suite's networks, and writes profile.csv, throughput.csv and loading.csv.

    Args:
        suite: The networks, and how they are trained.
        out: Folder of the files.
        iterations: Number of iterations to measure.
        command: Command that does it again, for the files.
        workers: Numbers of processes with which the loader alone is measured; the recipe's if none
            are given.

    Returns:
        Three tables as text: where the time goes, what the loader gives, and images a second.
    """
    positive_int(iterations, "the number of iterations")
    device = device_title(suite.device)
    rows, speeds = [], []
    first = suite.candidates[0]
    cfg = suite.build(first, 0, work_folder(out, "profile_loading"))
    set_loader_options(cfg)
    torch.set_num_threads(suite.threads)
    loading = loading_speeds(cfg, workers or [cfg.train_dataloader.num_workers], iterations)
    about = {"device": device_title("cpu"), "input_size": first.input_size}
    about |= {"batch": cfg.train_dataloader.batch_size}
    write_csv(out / "loading.csv", [{**about, **row} for row in loading], command)
    for candidate in suite.candidates:
        own, speed = profile_candidate(suite, candidate, out, iterations)
        rows += [{"device": device, **row} for row in own]
        speeds.append({"device": device, "threads": suite.threads, **speed})
    write_csv(out / "profile.csv", rows, command)
    write_csv(out / "throughput.csv", speeds, command)
    times = [
        [
            r["model"],
            str(r["input_size"]),
            r["part"],
            r["step"],
            f"{r['ms']:.2f} per {r['per']}",
            f"{r['share']:.1%}",
        ]
        for r in rows
    ]
    rates = [
        [
            s["model"],
            str(s["input_size"]),
            *(f"{s[k]:.2f}" for k in ("disk_images_per_s", "memory_images_per_s", "ratio")),
        ]
        for s in speeds
    ]
    return [
        text_table(
            "where the time goes (shares of the part)",
            ["model", "px", "part", "step", "ms", "share"],
            times,
        ),
        text_table(
            f"the loader alone, {first.input_size} px, {about['device']}",
            ["images from", "processes", "images/s", "ms to hand a batch over"],
            [[str(value) for value in row.values()] for row in loading],
        ),
        text_table(
            f"images a second in training, {device}",
            ["model", "px", "from disk", "from memory", "ratio"],
            rates,
        ),
    ]
