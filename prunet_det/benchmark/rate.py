"""The one learning rate of a suite, chosen on a part of the training data."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunet_det.benchmark.campaign import Plan, run_suite
from prunet_det.benchmark.records import RATE_FILE, load_records
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.utils.env import environment
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import write_json

logger = logging.getLogger(__name__)

OPTION = "optim_wrapper.optimizer.lr"


def with_rate(suite: Suite, rate: float) -> Suite:
    """The suite with a learning rate, trained and evaluated on parts of the training data."""
    return replace(suite, options={**suite.options, OPTION: rate}, held_out=True)


def one_a_family(suite: Suite) -> tuple[Candidate, ...]:
    """The first candidate of each family."""
    first: dict[str, Candidate] = {}
    for candidate in suite.candidates:
        first.setdefault(candidate.family, candidate)
    return tuple(first.values())


def choose_rate(plan: Plan, command: str) -> dict[str, Any] | None:
    """Trains one network a family with each learning rate, and takes the best mean mAP.

    Args:
        plan: Of the suite, whose candidates are tried; one seed.
        command: For the file.

    Returns:
        What RATE_FILE in the plan's folder says; None where runs are left for another call.

    Raises:
        UserError: The suite names no rates, or as `run_suite`.
    """
    rates = plan.suite.learning_rates
    if len(rates) < 2:
        raise UserError(f"{plan.suite.path} names fewer than two learning_rates to choose from.")
    found: dict[float, dict[str, float]] = {}
    start, minutes = time.monotonic(), plan.max_minutes
    for rate in rates:
        out = plan.out / "rates" / f"{rate:g}"
        flags = (*plan.flags, "--held-out", "--lr", f"{rate:g}")
        if plan.max_minutes is not None:  # all rates together
            minutes = max(1e-9, plan.max_minutes - (time.monotonic() - start) / 60)
        left, failed = run_suite(
            replace(
                plan,
                suite=with_rate(plan.suite, rate),
                out=out,
                flags=flags,
                max_minutes=minutes,
            )
        )
        if not left and not failed:
            found[rate] = _accuracies(out, plan.suite.candidates)
    if len(found) < len(rates):
        missing = ", ".join(f"{rate:g}" for rate in rates if rate not in found)
        logger.warning("no learning rate is chosen: runs of %s are left, or failed.", missing)
        return None
    means = {rate: statistics.mean(values.values()) for rate, values in found.items()}
    best = max(means, key=lambda rate: means[rate])
    chosen = {
        "learning_rate": best,
        "by": "the mean mAP of the networks below on a tenth of the training images that they were "
        "not trained on; the test images were not looked at",
        "mean_mAP": {f"{rate:g}": round(mean, 4) for rate, mean in means.items()},
        "mAP": {f"{rate:g}": values for rate, values in found.items()},
        "config_hash": replace(
            plan.suite, options={**plan.suite.options, OPTION: best}
        ).config_hash(),
        "command": command,
        "environment": environment(),
    }
    write_json(plan.out / RATE_FILE, chosen)
    return chosen


def _accuracies(out: Path, candidates: tuple[Candidate, ...]) -> dict[str, float]:
    wanted = {(c.model, c.input_size): str(c) for c in candidates}
    return {
        wanted[r.model, r.input_size]: float(r.metrics["mAP"] or 0.0)
        for r in load_records(out)
        if r.status == "done" and (r.model, r.input_size) in wanted
    }
