"""Trainings of many networks by one short recipe, each once: a line of JSON a training.

A record is keyed by the network's blocks, the recipe and the seed; a network that several questions
ask for is trained once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunet_det.arch.spec import ArchSpec
from prunet_det.search.entries import Entry
from prunet_det.search.trial import recipe_hash
from prunet_det.utils.config import read_config
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.jobs import run_in_processes

RECORDS = "records.jsonl"


@dataclass(frozen=True, kw_only=True)
class Training:
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
    """The `Training.key` that a record answers."""
    return record["network"], record["recipe"], record["train_seed"]


def train_all(
    out: Path, entries: Sequence[Entry], recipe: str, seeds: int, jobs: int, progress: bool
) -> None:
    """Trains what has no record yet, `jobs` at a time, and writes each record when it is there.

    Raises:
        UserError: If a training fails or its process dies; what is done is kept.
    """
    _mend(out / RECORDS)
    digest, done = recipe_hash(recipe), {key_of(r) for r in read_records(out)}
    todo: dict[tuple[str, str, int], Training] = {}
    for seed in range(seeds):  # so that an early end leaves all networks with as many trainings
        for entry in entries:
            spec = entry.spec.to_dict()
            training = Training(
                entry=entry.name,
                spec=spec,
                network=entry.spec.digest,
                recipe=recipe,
                train_seed=seed,
                recipe_hash=digest,
            )
            if training.key not in done:
                todo.setdefault(training.key, training)
    if not todo:
        return
    failed: list[BaseException] = []
    title = "training" if progress else ""
    calls = run_in_processes(_train, [*todo.values()], title, jobs, in_order=False, spawn=True)
    with contextlib.closing(calls), (out / RECORDS).open("a", encoding="utf-8") as stream:
        for call in calls:
            error = call.exception()
            if error:
                failed.append(error)
                continue
            stream.write(json.dumps(call.result()) + "\n")
            stream.flush()
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


def _train(training: Training) -> dict[str, Any]:
    from prunet_det.search.trial import run_trial

    trial = run_trial(
        ArchSpec.from_dict(training.spec), read_config(training.recipe), training.train_seed
    )
    return {
        "entry": training.entry,
        "network": training.network,
        "recipe": training.recipe_hash,
        "train_seed": training.train_seed,
        "top1": trial.top1,
        "seconds": round(trial.seconds, 2),
        **{k: v for k, v in environment().items() if k in ("commit", "machine", "date")},
    }
