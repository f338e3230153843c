"""The parts of `make gpu` that train: both ways, and the benchmark's suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from prunet_det.benchmark.gpu.run import Place, SkippedError
from prunet_det.utils.errors import UserError


def _suite(place: Place) -> Any:
    """The suite with the data of this place."""
    from prunet_det.benchmark.suite import load_suite

    scale = place.scale
    suite = load_suite(scale.suite)
    return replace(
        suite,
        data_root=str(place.data / scale.dataset),
        seeds=scale.seeds or suite.seeds,
        max_iters=scale.max_iters or suite.max_iters,
        options={**suite.options, **scale.suite_options},
    )


def run_training(place: Place) -> None:
    """Trains plain and recorded as CUDA graphs, then from disk and from memory by the better.

    Raises:
        UserError: If a network could not be recorded.
    """
    from prunet_det.benchmark.run import work_folder
    from prunet_det.benchmark.training_speed import (
        Trainer,
        compare_speed_ups,
        disk_against_memory,
    )

    scale, suite = place.scale, _suite(place).choose(place.scale.trained)
    record = {"speed_ups": [], "throughput": [], **place.read("training")}
    for candidate in suite.candidates:
        runs = [r for r in record["speed_ups"] if r["model"] == candidate.model]
        if not runs:
            kinds = ("none", "none", "graph")
            runs = compare_speed_ups(suite, candidate, place.work, scale.both_ways, kinds)
            record["speed_ups"] += runs
            place.write("training", record)
        if any(r["model"] == candidate.model for r in record["throughput"]):
            continue
        cfg = suite.build(candidate, 0, work_folder(place.work, f"training_{candidate.model}"))
        cfg.speed_up = best_speed_up(runs)
        trainer = Trainer.of(cfg)
        held = trainer.held_batches()
        disk, memory = disk_against_memory(trainer, held, scale.iterations, scale.rounds)
        about = {"model": candidate.model, "input_size": candidate.input_size}
        about |= {k: cfg.train_dataloader[f] for k, f in _LOADER.items()}
        rates = {"disk_images_per_s": round(disk, 2), "memory_images_per_s": round(memory, 2)}
        record["throughput"].append({**about, "speed_up": cfg.speed_up, **rates})
        place.write("training", record)
    _refuse(place, record["speed_ups"])


def _refuse(place: Place, runs: Sequence[Mapping[str, Any]]) -> None:
    """Says what could not be recorded or compiled; only a GPU is asked for that.

    Raises:
        UserError: If there is any.
    """
    reasons = dict.fromkeys(
        f"{r['model']}, {r['speed_up']}: {r['reason']}" for r in runs if r["reason"]
    )
    if reasons and place.scale.device != "cpu":
        raise UserError(f"not trained: {' '.join(reasons)}")


_LOADER = {"batch": "batch_size", "workers": "num_workers"}
MAX_DIFFERENCE = 0.01  # of a loss, from that of a plain training; or what two plain ones differ by


def best_speed_up(runs: Sequence[Mapping[str, Any]]) -> str:
    """Says which kind of training is the fastest of those whose losses are the plain one's.

    Args:
        runs: Runs of `compare_speed_ups`: two plain ones and others.
    """
    plain = [r for r in runs if r["speed_up"] == "none"]
    limit = max(MAX_DIFFERENCE, *(2 * r["difference"] for r in plain))
    equal = [r for r in runs if not r["reason"] and r["difference"] <= limit]
    return str(max(equal, key=lambda r: r["images_per_s"])["speed_up"])


def training_figures(place: Place) -> dict[str, str]:
    """Gain of the recorded training and its losses' difference, then images a second."""
    record, found = place.read("training"), {}
    for model in dict.fromkeys(r["model"] for r in record["speed_ups"]):
        found[f"{model} recorded"] = _gain([r for r in record["speed_ups"] if r["model"] == model])
    for r in record["throughput"]:
        rates = f"{r['disk_images_per_s']:.0f} images/s from disk, "
        found[r["model"]] = f"{rates}{r['memory_images_per_s']:.0f} from memory ({r['speed_up']})"
    return found


def _gain(runs: Sequence[Mapping[str, Any]]) -> str:
    """How much faster the last of some runs is than the first, which is plain."""
    first, last = runs[0], runs[-1]
    if last["reason"]:
        return str(last["reason"])[:150]
    others = [r["difference"] for r in runs[1:-1]]
    plain = f", {max(others):.1e} between plain ones" if others else ""
    times = last["images_per_s"] / first["images_per_s"]
    return f"{times:.2f} times as fast, losses differ by {last['difference']:.1e}{plain}"


def run_compiled(place: Place) -> None:
    """Trains the first network plain and compiled, which takes a minute or two to start.

    Raises:
        SkippedError: If nothing is to be compiled.
        UserError: If it could not be compiled.
    """
    from prunet_det.benchmark.training_speed import compare_speed_ups

    if not place.scale.compiled:
        raise SkippedError("no network is to be compiled.")
    suite = _suite(place).choose(place.scale.trained)
    kinds = ("none", "compile")
    runs = compare_speed_ups(suite, suite.candidates[0], place.work, place.scale.both_ways, kinds)
    place.write("compiled_training", {"speed_ups": runs})
    _refuse(place, runs)


def compiled_figures(place: Place) -> dict[str, str]:
    """Gain of the compiled training, and its losses' difference."""
    runs = place.read("compiled_training")["speed_ups"]
    return {runs[0]["model"]: _gain(runs)}


def run_suite(place: Place) -> None:
    """Runs the benchmark's suite, from where it stands.

    Raises:
        UserError: If a training failed.
    """
    from prunet_det.benchmark import campaign
    from prunet_det.benchmark.run import LOGS
    from prunet_det.utils.jobs import Launch
    from prunet_det.utils.runs import Run, RunStore

    scale, folder, suite = place.scale, place.work / "suite", _suite(place)
    if scale.suite_models:
        suite = suite.choose(scale.suite_models)
    store = RunStore(folder)
    for kept in place.read("suite").get("runs", []):
        run = Run(**kept)
        if run.key not in store:
            store.add(run)
    how = Launch(
        minutes=place.seconds / 60,
        cpus=suite.threads,
        gpus=int(suite.device != "cpu"),
        logs=folder / LOGS,
    )
    left: list[str] = []
    try:
        tasks = campaign.run_suite(suite, suite.seeds, how, folder, place.command)
        left = [str(task) for task in tasks]
    finally:
        runs = [asdict(run) for run in RunStore(folder)]
        total = suite.seeds * len(suite.candidates)
        place.write("suite", {"runs": runs, "total": total, "left": left})


def suite_figures(place: Place) -> dict[str, str]:
    """How many trainings are done, and the accuracies."""
    record = place.read("suite")
    found = [run["figures"] for run in record["runs"]]
    shown = {f["model"]: f"mAP {f['metrics']['mAP'] or 0:.3f}" for f in found}
    return {"trainings": f"{len(found)} of {record['total']}", **shown}
