"""All runs of a suite, and those by which its learning rate is chosen."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunet_det.benchmark.records import RATE_FILE, Record, check_shared
from prunet_det.benchmark.run import Training, do_training
from prunet_det.benchmark.suite import Candidate, Suite, check_candidates
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import make_folder, write_json
from prunet_det.utils.jobs import Launch
from prunet_det.utils.runs import RunStore, campaign

RATE = "optim_wrapper.optimizer.lr"


def trainings(suite: Suite, seeds: int, out: Path, command: str) -> list[Training]:
    """Lists the runs of a suite, all networks with one seed before any with the next.

    Families take turns, so that what is done whenever the time is over has some of each.

    Args:
        suite: Networks, recipe and device.
        seeds: Number of trainings of each network; they count from 0.
        out: Folder of the records; it is made.
        command: Command line, for the records.

    Raises:
        UserError: Unknown networks, no seeds, a folder that cannot be written, or data that are
            not here.
    """
    check_candidates(suite.candidates)
    positive_int(seeds, "the number of seeds")
    make_folder(out)
    shared = suite.identity()
    return [
        Training(
            name=candidate.key(seed),
            suite=suite,
            candidate=candidate,
            seed=seed,
            out=out,
            shared=shared,
            command=command,
        )
        for seed in range(seeds)
        for candidate in in_turn(suite.candidates)
    ]


def in_turn(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Orders candidates: the first of each family, then the second of each."""
    families: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        families.setdefault(candidate.family, []).append(candidate)
    turns = itertools.zip_longest(*families.values())
    return [candidate for turn in turns for candidate in turn if candidate is not None]


def run_suite(suite: Suite, seeds: int, how: Launch, out: Path, command: str) -> list[Training]:
    """Does what is left of a suite.

    Args:
        suite: Networks, recipe and device.
        seeds: Number of trainings of each network; they count from 0.
        how: Launcher, number of runs at once, and time.
        out: Folder of the records.
        command: Command line, for the records.

    Returns:
        Runs that had not begun when the time was over.

    Raises:
        UserError: Unknown networks, a folder that cannot be written or has records of another
            recipe or of other blocks, or runs that failed.
    """
    tasks = trainings(suite, seeds, out, command)
    store = RunStore(out)
    networks = {(t.candidate.model, t.candidate.input_size): t.subject for t in tasks}
    check_shared(map(Record.of, store), tasks[0].shared, networks)
    return campaign(tasks, do_training, store, how=how)


def one_a_family(suite: Suite) -> tuple[Candidate, ...]:
    """Picks the first candidate of each family."""
    return tuple(in_turn(suite.candidates)[: len({c.family for c in suite.candidates})])


def choose_rate(suite: Suite, how: Launch, out: Path, command: str) -> dict[str, Any] | None:
    """Trains a suite's networks with each of its learning rates, and takes the best mean mAP.

    Networks are trained on one part of the training data and evaluated on the other.

    Args:
        suite: Networks that are tried, and learning rates.
        how: Launcher, number of runs at once, and time.
        out: Folder of the benchmark; the runs are in its subfolder `rates`.
        command: Command line, for the records.

    Returns:
        What RATE_FILE in the folder says; None if the time was over before all runs had begun.

    Raises:
        UserError: The suite names no rates, or as `run_suite`.
    """
    rates = suite.learning_rates
    if len(rates) < 2:
        raise UserError(f"{suite.path} names fewer than two learning_rates to choose from.")
    options = {rate: {**suite.options, RATE: rate} for rate in rates}
    folder, tasks = out / "rates", dict[float, list[Training]]()
    for rate in rates:
        own = replace(suite, options=options[rate], held_out=True)
        tasks[rate] = [
            replace(task, name=f"lr{rate:g}_{task.name}")
            for task in trainings(own, 1, folder, command)
        ]
    store = RunStore(folder)
    if campaign(itertools.chain(*tasks.values()), do_training, store, how=how):
        return None
    by_key = {run.key: Record.of(run) for run in store}
    found = {
        rate: {str(t.candidate): by_key[t.key].metrics["mAP"] or 0.0 for t in tasks[rate]}
        for rate in rates
    }
    means = {rate: statistics.mean(values.values()) for rate, values in found.items()}
    best = max(rates, key=lambda rate: means[rate])
    chosen = {
        "learning_rate": best,
        "by": "the mean mAP of the networks below on a tenth of the training images that they were "
        "not trained on; the test images were not looked at",
        "mean_mAP": {f"{rate:g}": round(mean, 4) for rate, mean in means.items()},
        "mAP": {f"{rate:g}": values for rate, values in found.items()},
        "config_hash": replace(suite, options=options[best]).config_hash(),
        "command": command,
        "environment": environment(),
    }
    write_json(out / RATE_FILE, chosen)
    return chosen
