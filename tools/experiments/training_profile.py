"""Where the time of a training iteration and of an evaluation goes, and what loading gives.

    python tools/experiments/training_profile.py --suite configs/benchmark/digits.py --out DIR

Writes profile.csv, throughput.csv and loading.csv, of which `tools/benchmark.py report DIR` makes
tables. Steps are timed by themselves, interleaved, with inputs that stay.
"""

from __future__ import annotations

import argparse
import copy
import logging
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from prunet_det.benchmark.evaluate import make_artifact, predictor, without_workers
from prunet_det.benchmark.run import work_folder
from prunet_det.benchmark.suite import Candidate, Suite, load_suite
from prunet_det.benchmark.training_speed import SETTLE, Trainer, disk_against_memory
from prunet_det.latency.stopwatch import Task, time_interleaved
from prunet_det.training.loading import set_cache, set_loader_options
from prunet_det.utils.env import device_title
from prunet_det.utils.errors import InputError, run_tool
from prunet_det.utils.io import text_table, write_csv

logger = logging.getLogger(__name__)

Steps = dict[str, Callable[[], Any]]
WHOLE = "all of it"


def timed(steps: Steps, where: str, seconds: float, **about: Any) -> list[dict[str, Any]]:
    """A row a step: median milliseconds, and their share of the whole, or of the sum."""
    timings = time_interleaved(
        {name: Task(run, where) for name, run in steps.items()}, seconds, sensors=False
    )
    ms = {name: timing.median_ms for name, timing in zip(steps, timings, strict=True)}
    total = ms.get(WHOLE, sum(ms.values()))
    return [
        {**about, "step": name, "ms": round(own, 4), "share": round(own / total, 4)}
        for name, own in ms.items()
    ]


def loading_steps(cfg: Config) -> tuple[Steps, Steps]:
    """Each step of the pipeline on an image that stays; and collating a batch of such images."""
    loader = without_workers(cfg.train_dataloader)
    samples = getattr(loader.dataset, "dataset", loader.dataset)
    steps: Steps = {}
    data = samples.get_data_info(0)
    for transform in samples.pipeline.transforms:
        steps[type(transform).__name__] = lambda t=transform, d=data: t(copy.deepcopy(d))
        data = transform(copy.deepcopy(data))
        while data is None:  # a crop without objects: the data set takes another one
            data = steps[type(transform).__name__]()
    images = [copy.deepcopy(data) for _ in range(cfg.train_dataloader.batch_size)]
    return steps, {"collate": lambda: loader.collate_fn(images)}


def training_steps(trainer: Trainer, batch: Any) -> Steps:
    """Parts of an iteration, and the whole."""
    runner = trainer.runner
    model, optim = runner.model, runner.optim_wrapper
    data = model.data_preprocessor(batch, True)
    images, samples = data["inputs"], data["data_samples"]
    layout = torch.channels_last if model.channels_last else torch.contiguous_format
    images = images.contiguous(memory_format=layout)
    with torch.no_grad(), optim.optim_context(model):
        maps = model.backbone(images)
        fused = model.neck(maps)

    def run(function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            with optim.optim_context(model):
                function()

        return call

    def backward() -> None:
        optim.zero_grad()
        optim.backward(model.parse_losses(model.loss(images, samples))[0])

    run(backward)()
    gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
    for group in optim.optimizer.param_groups:
        group["lr"] = 0.0  # weights stay, however often they are updated

    def update() -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        optim.step()

    steps = {
        "normalise": lambda: model.data_preprocessor(batch, True),
        "backbone forward": run(lambda: model.backbone(images)),
        "neck forward": run(lambda: model.neck(maps)),
        "head forward and loss": run(lambda: model.bbox_head.loss(fused, samples)),
        "forward, loss and backward": run(backward),
        "clip and optimizer": update,
    }
    if trainer.ema is not None:
        steps["weight average"] = lambda: trainer.ema.after_train_iter(runner, 0)
    return {**steps, WHOLE: lambda: trainer.step(batch)}


def evaluation_steps(cfg: Config, suite: Suite, candidate: Candidate, detector: Any) -> Steps:
    """Loading an image, its network, and all, with selection and NMS."""
    detector = detector.cpu().eval()
    part, program = make_artifact(
        detector, candidate.input_size, suite.artifact, suite.device, suite.threads
    )
    detector.to(suite.device)
    predict = predictor(detector, part, program)
    dataset = without_workers(cfg.test_dataloader).dataset

    def evaluate() -> None:
        item = dataset[0]
        predict({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})

    network = program.bind(torch.zeros(program.shape))
    return {"loading": lambda: dataset[0], "network": network, WHOLE: evaluate}


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
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
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


def profile(
    suite: Suite, candidate: Candidate, out: Path, iterations: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All rows of one network, and its throughputs."""
    key = f"profile_{candidate.model}_{candidate.input_size}"
    cfg = suite.build(candidate, 0, work_folder(out, key))
    trainer = Trainer.of(cfg)
    held = trainer.held_batches()
    disk, memory = disk_against_memory(trainer, held, iterations)
    network = {"device": device_title(suite.device), "model": candidate.model}
    network |= {"input_size": candidate.input_size}
    loading, collating = loading_steps(cfg)
    rows = timed(loading, "cpu", seconds, **network, part="loading", per="image")
    rows += timed(collating, "cpu", seconds, **network, part="collating", per="batch")
    training = training_steps(trainer, held[0])
    rows += timed(training, suite.device, seconds, **network, part="iteration", per="batch")
    steps = evaluation_steps(cfg, suite, candidate, trainer.runner.model)
    rows += timed(steps, suite.device, seconds, **network, part="evaluation", per="image")
    speed = {
        **network,
        "threads": suite.threads,
        "batch": cfg.train_dataloader.batch_size,
        "workers": cfg.train_dataloader.num_workers,
        "disk_images_per_s": round(disk, 3),
        "memory_images_per_s": round(memory, 3),
        "ratio": round(disk / memory, 4),
    }
    return rows, speed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", default="digits", help="networks, recipe and device [digits]")
    add("--models", nargs="+", help="of the suite [all]")
    add("--out", metavar="DIR", required=True, help="folder of the files")
    add("--iterations", type=int, default=20, help="of a turn from disk or from memory [20]")
    add("--seconds", type=float, default=1.0, help="to spend on each step [1]")
    add("--workers", type=int, nargs="+", help="processes of the loader alone [the recipe's]")
    args = parser.parse_args()
    suite, out = load_suite(args.suite), Path(args.out)
    suite = suite.choose(args.models) if args.models else suite
    command = shlex.join(["python", *sys.argv])
    torch.set_num_threads(suite.threads)
    first = suite.candidates[0]
    cfg = suite.build(first, 0, work_folder(out, "profile_loading"))
    set_loader_options(cfg)
    about = {"device": device_title("cpu"), "input_size": first.input_size}
    about |= {"batch": cfg.train_dataloader.batch_size}
    workers = args.workers or [cfg.train_dataloader.num_workers]
    loading = [{**about, **row} for row in loading_speeds(cfg, workers, args.iterations)]
    rows, speeds = [], []
    for candidate in suite.candidates:
        own, speed = profile(suite, candidate, out, args.iterations, args.seconds)
        rows += own
        speeds.append(speed)
    for name, found in {"loading": loading, "profile": rows, "throughput": speeds}.items():
        write_csv(out / f"{name}.csv", found, command)
        print(text_table(name, list(found[0]), [[str(v) for v in row.values()] for row in found]))


if __name__ == "__main__":
    run_tool(main)
