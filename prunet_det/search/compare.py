"""Searched networks beside what they have to beat: trained by one short recipe from scratch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from prunet_det.search.costs import Pricing
from prunet_det.search.entries import (
    ABLATIONS,
    ENTRIES,
    SEARCHED,
    baseline_entries,
    check_about,
    searched_entries,
    write_entries,
)
from prunet_det.search.results import is_finished
from prunet_det.search.space import SearchSpace
from prunet_det.search.trainings import RECORDS, train_all
from prunet_det.search.trial import recipe_hash, recipe_of
from prunet_det.utils import plots
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path
from prunet_det.utils.jobs import Job, launch
from prunet_det.utils.package import relative_path, tool_command

PLOT = "comparison.png"


def _run_searches(
    out: Path,
    config: str,
    budget_ms: float,
    wanted: Sequence[tuple[str, list[str]]],
    max_workers: int,
) -> None:
    """Runs the searches whose results are not there yet, `max_workers` at a time.

    Args:
        out: Their folders' folder.
        config, budget_ms: Of all.
        wanted: Name and flags of each.
        max_workers: Number of searches at once; they share the threads.

    Raises:
        UserError: One failed; its log says why.
    """
    threads = max(1, torch.get_num_threads() // max_workers)
    jobs = [
        Job(
            name=name,
            command=tool_command(
                "search_backbone", *flags, "--out", out / name, "--quiet", "--resume"
            ),
            folder=os.fspath(out / name),
            cpus=threads,
        )
        for name, flags in wanted
        if not is_finished(out / name, config, budget_ms)
    ]
    for result in launch(jobs, "none", out, max_workers):
        name = result.job.name
        if result.code:
            raise UserError(
                f"the search {name} failed: {result.error} ({out / name}.log) The rest is kept."
            )
        print(f"{name} is done", flush=True)


def compare(args: argparse.Namespace) -> int:
    """Everything that the command line asks for; what is there already is not done again.

    Args:
        args: See `tools/search_backbone.py compare`.

    Returns:
        0, or 1 where a searched network does not beat what it has to.
    """
    from prunet_det.search import verdict
    from prunet_det.training import launch
    from prunet_det.utils.io import text_table

    for name, least in (("random", 3), ("seeds", 0), ("train_seeds", 1), ("ablations", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}.")
    if args.jobs < 1:
        raise UserError("--jobs must be at least 1.")
    load = argparse.Namespace(
        config=args.config, launcher="none", cfg_options=None, data_root=None, work_dir=None
    )
    load.local_rank = 0
    cfg = launch.load_config(load)
    recipe = recipe_of(cfg, args.config, "compare_recipe")
    pricing = Pricing(args.device, args.batch, progress=not args.quiet)
    costs = pricing.costs(SearchSpace.from_config(cfg.space), args.input_size)
    print(costs.describe())
    budget = costs.budget(args.budget_ms)
    costs.check_budget(budget)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    about = {
        "budget_ms": args.budget_ms,
        "device": costs.table.title,
        "input_size": args.input_size,
        "space": costs.space.hash,
        "table": costs.table_hash,
        "config": args.config,
        "recipe": recipe_hash(recipe),
        "recipe_file": os.path.normpath(relative_path(recipe)),
        "data": str(read_config(recipe).train_dataloader.dataset.get("name", "own data")),
    }
    check_about(out, about)

    shared = [args.config, "--budget-ms", f"{args.budget_ms:g}", "--device", args.device]
    shared += ["--batch", str(args.batch), "--input-size", str(args.input_size)]
    wanted: list[tuple[str, int, str, list[str]]]
    wanted = [(SEARCHED, seed, f"search_{seed}", []) for seed in range(args.seeds)]
    for i, (group, flags) in enumerate(ABLATIONS.items()):
        wanted += [(group, s, f"ablation{i}_{s}", flags) for s in range(args.ablations)]
    searches = [(name, [*shared, "--seed", str(seed), *f]) for _, seed, name, f in wanted]
    _run_searches(out / "searches", args.config, args.budget_ms, searches, args.jobs)

    entries = list(baseline_entries(pricing, costs, budget, args.random))
    for group, seed, name, _ in wanted:
        entries += searched_entries(out / "searches" / name, group, seed, costs, budget)
    write_entries(out, entries, about)
    train_all(out, entries, recipe, args.train_seeds, args.jobs, not args.quiet)

    found = verdict.Comparison.load(out)
    print(text_table("networks of one latency", verdict.GROUP_HEADER, verdict.group_rows(found)))
    if args.train_seeds > 1:
        between, within = found.spread()
        print(
            f"spread of random networks {between:.4f}, of trainings {within:.4f}: "
            f"ratio {between / within:.1f}"
        )
    plots.save(verdict.draw_comparison(found), out / PLOT, found)
    if args.publish:
        for name in (ENTRIES, RECORDS, PLOT):
            with atomic_path(Path(args.publish) / name) as temporary:
                temporary.write_bytes((out / name).read_bytes())
    if not args.seeds:
        return 0
    print(
        text_table("how far the searches agree", verdict.AGREEMENT_HEADER, verdict.agreement(found))
    )
    header, rows = verdict.searched_header(found), verdict.searched_rows(found)
    print(text_table("searched networks", header, rows))
    return 0 if all(all(checks.values()) for _, checks in found.checks()) else 1
