"""Searches for several budgets, handed out like the benchmark's own jobs."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from prunet_det.benchmark.campaign import LOGS, check_launch
from prunet_det.search.results import is_finished
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import make_folder
from prunet_det.utils.jobs import Job, launch
from prunet_det.utils.package import tool_command


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


def run_searches(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Runs what is left; returns the exit status.

    Raises:
        UserError: Impossible arguments, a folder that cannot be written or holds another search,
            or as `launch`.
    """
    out = Path(args.out)
    check_launch(args.jobs, args.max_minutes)
    for budget in args.budgets:
        if not 0 < budget < float("inf") or args.budgets.count(budget) > 1:
            raise UserError(f"--budgets must be different numbers above 0, got {budget:g}.")
    make_folder(out)
    jobs = [search_job(b, out, arguments, args.threads, args.gpus) for b in args.budgets]
    left = [
        job
        for job, budget in zip(jobs, args.budgets, strict=True)
        if not is_finished(out / job.name, arguments[0], budget)
    ]
    print(f"{len(jobs) - len(left)} of {len(jobs)} searches are done.", flush=True)
    deadline = None if args.max_minutes is None else time.monotonic() + 60 * args.max_minutes
    waiting, failed = [job.name for job in left], 0
    for outcome in launch(left, args.launcher, out / LOGS, args.jobs, deadline):
        waiting.remove(outcome.job.name)
        failed += outcome.code != 0
        print(f"{outcome.job.name}: {outcome.error or 'done'}", flush=True)
    if waiting:
        print(f"left: {', '.join(waiting)}; the same command goes on from here.")
    return int(failed > 0)
