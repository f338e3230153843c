"""All runs of a suite: what is done is kept, what is left is handed out, then all is timed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark.identity import identity
from prunet_det.benchmark.records import (
    RECORDS,
    Record,
    load_records,
    read_record,
    record_path,
    save_record,
)
from prunet_det.benchmark.run import WORK, finished
from prunet_det.benchmark.suite import Candidate, Suite, check_candidates
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import environment
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import make_folder
from prunet_det.utils.jobs import Job, JobResult, launch
from prunet_det.utils.package import recorded_command, tool_command
from prunet_det.zoo.models import ALIASES, model_names

logger = logging.getLogger(__name__)

LOGS, DAMAGED = "logs", "damaged"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a suite is run.

    Attributes:
        suite: What.
        seeds: How many a candidate; they count from 0.
        out: Folder of the records.
        flags: Of the command line that each job repeats: suite, options, data.
        launcher: See `launchers`.
        max_workers: Number of jobs at once.
        max_minutes: After which no job starts.
    """

    suite: Suite
    seeds: int
    out: Path
    flags: tuple[str, ...]
    launcher: str = "none"
    max_workers: int = 1
    max_minutes: float | None = None

    def command(self, verb: str, *more: object) -> tuple[str, ...]:
        """A command line of this tool."""
        return tool_command("benchmark", verb, *self.flags, "--out", self.out, *more)

    def job(self, candidate: Candidate, seed: int) -> Job:
        """The job of one run."""
        key = candidate.key(seed)
        results = (f"{RECORDS}/{key}.json", f"{WORK}/{key}/weights.safetensors")
        command = self.command(
            "job", "--model", candidate.source, "--size", candidate.input_size, "--seed", seed
        )
        gpus = int(self.suite.device != "cpu")
        return Job(
            name=key,
            command=command,
            folder=os.fspath(self.out),
            results=results,
            cpus=self.suite.threads,
            gpus=gpus,
        )


def run_suite(plan: Plan) -> tuple[list[str], list[str]]:
    """Runs what is left of a suite.

    Args:
        plan: What and how.

    Returns:
        Keys of the runs that are left for another call, and of those that failed.

    Raises:
        UserError: Unknown networks, no seeds, a folder that cannot be written, or records of other
            code, data or recipe.
    """
    check_candidates(plan.suite.candidates)
    positive_int(plan.seeds, "the number of seeds")
    check_launch(plan.max_workers, plan.max_minutes)
    make_folder(plan.out / RECORDS)
    runs = {c.key(s): (c, s) for s in range(plan.seeds) for c in plan.suite.candidates}
    wanted = identity(plan.suite)
    left = [key for key in runs if not _is_done(plan, *runs[key], wanted)]
    logger.info("%s: %d of %d runs are done.", plan.suite.name, len(runs) - len(left), len(runs))
    start = time.monotonic()
    deadline = None if plan.max_minutes is None else start + 60 * plan.max_minutes
    jobs = [plan.job(*runs[key]) for key in left]
    failed: list[str] = []
    for result in launch(jobs, plan.launcher, plan.out / WORK / LOGS, plan.max_workers, deadline):
        left.remove(result.job.name)
        run = runs[result.job.name]
        if result.code and not _is_done(plan, *run, wanted):  # one may die after its record
            failed.append(result.job.name)
            save_record(plan.out, failure(*run, wanted, result))
        _say(plan, result, failed, len(left), time.monotonic() - start)
    if left:
        logger.info(
            "stopped after %g minutes; left: %s.\nthe same command goes on from here.",
            plan.max_minutes,
            ", ".join(left),
        )
    return left, failed


def check_launch(max_workers: int, max_minutes: float | None) -> None:
    """Refuses what no launcher can do.

    Raises:
        UserError: No job at once, or no time.
    """
    positive_int(max_workers, "the number of jobs at once")
    if max_minutes is not None and not max_minutes > 0:
        raise InputError(f"the minutes must be above 0, got {max_minutes:g}.")


def _is_done(plan: Plan, candidate: Candidate, seed: int, wanted: Mapping[str, Any]) -> bool:
    """Whether a run's record is there; a damaged one is moved aside."""
    key = candidate.key(seed)
    path = record_path(plan.out, key)
    if not path.exists():
        return False
    try:
        read_record(path)
    except InputError as e:
        aside = plan.out / WORK / DAMAGED / f"{key}.{time.time_ns()}.json"
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.replace(aside)
        logger.warning("%s Moved to %s; the run is repeated.", e, aside)
        return False
    return finished(plan.out, key, {**wanted, "arch": candidate.arch}) is not None


def failure(
    candidate: Candidate, seed: int, wanted: Mapping[str, Any], result: JobResult
) -> Record:
    """The record of a run that failed.

    Args:
        candidate, seed: Of the run.
        wanted: See `identity`.
        result: How its job ended.
    """
    where = environment()
    return Record(
        model=candidate.model,
        family=candidate.family,
        input_size=candidate.input_size,
        seed=seed,
        metrics={},
        **wanted,
        arch=candidate.arch,
        commit=where["commit"],
        environment=where,
        command=recorded_command(result.job.command),
        status="failed",
        error=result.error,
    )


def _say(plan: Plan, result: JobResult, failed: Sequence[str], left: int, seconds: float) -> None:
    name = result.job.name
    if name in failed:
        log = plan.out / WORK / LOGS / f"{name}.log"
        logger.warning("%s: failed: %s (log: %s)", name, result.error, log)
        return
    record = read_record(record_path(plan.out, name))
    logger.info(
        "%s: mAP %.3f (%s) in %.0f s; %d left after %.1f minutes.",
        name,
        record.metrics["mAP"],
        record.artifact,
        record.seconds,
        left,
        seconds / 60,
    )


def done_candidates(suite: Suite, out: Path) -> dict[Candidate, Record]:
    """The candidates that have a finished run, with that of the lowest seed, the suite's own first.

    Args:
        suite: All of it; records of other networks count too.
        out: Folder of the records.

    Raises:
        UserError: There is none, the records do not belong together, or they are of another
            artifact or recipe than the suite's here.
    """
    done = [r for r in load_records(out) if r.status == "done"]
    here = {"artifact": suite.artifact, "recipe": suite.config_hash()}
    own = {(c.model, c.input_size): c for c in suite.candidates}
    found: dict[Candidate, Record] = {}
    for record in sorted(done, key=lambda r: r.seed):
        for what, value in {"artifact": record.artifact, "recipe": record.config_hash}.items():
            if value != here[what]:
                raise UserError(
                    f"the accuracy of {record.key} is of another {what} ({value}, here "
                    f"{here[what]}); time it where and how it was evaluated."
                )
        candidate = own.get((record.model, record.input_size)) or Candidate(
            _source(suite, record, out), record.family, record.input_size
        )
        found.setdefault(candidate, record)
    if not found:
        raise UserError(f"{out} has no finished run of the suite {suite.name}; run it first.")
    return {c: found[c] for c in (*suite.candidates, *found) if c in found}


def _source(suite: Suite, record: Record, out: Path) -> str:
    """Where a record's network is from: the suite, a name, or its own blocks, in a file."""
    if record.model in suite.sources:
        return suite.sources[record.model]
    if record.arch is None or record.model in (*model_names(), *ALIASES):
        return record.model
    path = out / WORK / "networks" / f"{record.model}.json"
    ArchSpec.from_dict(record.arch).save(path)
    return os.fspath(path)
