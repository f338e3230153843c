"""Searches for several budgets, handed out like the benchmark's own jobs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunet_det.benchmark.campaign import LOGS, check_launch
from prunet_det.search.result import is_finished
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import make_folder
from prunet_det.utils.jobs import Job, launch
from prunet_det.utils.package import tool_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SearchesPlan:
    """Searches, and how they are handed out.

    Attributes:
        budgets: Milliseconds, one search each.
        out: Folder that gets a folder of each.
        arguments: Of tools/search_backbone.py for all of them: the config first.
        threads: CPU threads that a search asks for.
        gpus: GPUs that a search asks for.
        launcher: See `utils.jobs.LAUNCHERS`.
        max_workers: Number of searches at once.
        max_minutes: Minutes after which no search starts.
    """

    budgets: Sequence[float]
    out: Path
    arguments: Sequence[str]
    threads: int = 1
    gpus: int = 0
    launcher: str = "none"
    max_workers: int = 1
    max_minutes: float | None = None


def search_job(
    budget: float, out: Path, arguments: Sequence[str], threads: int = 1, gpus: int = 0
) -> Job:
    """The job of one search.

    Args:
        budget: In milliseconds.
        out: Gets a folder for it.
        arguments: Of tools/search_backbone.py: the config first.
        threads, gpus: That it asks for.
    """
    name = f"{budget:g}ms"
    config, *rest = arguments
    flags = ("--budget-ms", f"{budget:g}", "--out", out / name, "--resume", "--quiet", *rest)
    command = tool_command("search_backbone", config, *flags)
    return Job(
        name=name,
        command=command,
        folder=os.fspath(out),
        results=(f"{name}/*",),
        cpus=threads,
        gpus=gpus,
    )


def run_searches(plan: SearchesPlan) -> int:
    """Runs what is left; returns how many searches failed.

    Raises:
        UserError: Impossible arguments, a folder that cannot be written or holds another search,
            or as `launch`.
    """
    check_launch(plan.max_workers, plan.max_minutes)
    for budget in plan.budgets:
        if not 0 < budget < float("inf") or list(plan.budgets).count(budget) > 1:
            raise UserError(f"the budgets must be different numbers above 0, got {budget:g}.")
    read_config(plan.arguments[0])  # missed now, not by every search
    out = plan.out
    make_folder(out)
    jobs = [search_job(b, out, plan.arguments, plan.threads, plan.gpus) for b in plan.budgets]
    left = [
        job
        for job, budget in zip(jobs, plan.budgets, strict=True)
        if not is_finished(out / job.name, plan.arguments[0], [budget])
    ]
    logger.info("%d of %d searches are done.", len(jobs) - len(left), len(jobs))
    deadline = None if plan.max_minutes is None else time.monotonic() + 60 * plan.max_minutes
    waiting, failed = [job.name for job in left], 0
    for result in launch(left, plan.launcher, out / LOGS, plan.max_workers, deadline):
        waiting.remove(result.job.name)
        failed += result.code != 0
        logger.info("%s: %s", result.job.name, result.error or "done")
    if waiting:
        logger.info("left: %s; the same command goes on from here.", ", ".join(waiting))
    return failed
