"""Searched networks beside what they have to beat: trained by one short recipe from scratch."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
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
from prunet_det.search.verdict import SearchStudy, draw_comparison
from prunet_det.training import launch
from prunet_det.utils import jobs, plots
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path
from prunet_det.utils.package import relative_path, tool_command

logger = logging.getLogger(__name__)

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
    left = [
        jobs.Job(
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
    for result in jobs.launch(left, "none", out, max_workers):
        name = result.job.name
        if result.code:
            raise UserError(
                f"the search {name} failed: {result.error} ({out / name}.log) The rest is kept."
            )
        logger.info("%s is done", name)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared, as `tools/search_backbone.py compare` has it.

    Attributes:
        config: A config of configs/search/ that names a recipe.
        budget_ms: Latency that all networks are filled up to, in milliseconds.
        out: Folder of searches, networks, records and plot.
        device: As of a search.
        batch: Images at once, of the budget.
        input_size: Pixels, of the budget.
        random: Number of random networks.
        seeds: Number of searches.
        train_seeds: Number of trainings of each network.
        ablations: Number of searches with a tier off, of each tier.
        jobs: Processes at once.
        publish: Folder that gets copies of the records, without the searches.
        quiet: Whether to leave out the progress bar.
    """

    config: str
    budget_ms: float
    out: str
    device: str = "v100"
    batch: int = 1
    input_size: int = 512
    random: int = 20
    seeds: int = 3
    train_seeds: int = 3
    ablations: int = 0
    jobs: int = 1
    publish: str | None = None
    quiet: bool = False


def compare(options: CompareOptions) -> SearchStudy:
    """Searches, trains and compares; what is there already is not done again.

    Args:
        options: What is compared.

    Raises:
        UserError: The config names no recipe, a search failed, or the folder holds another
            comparison.
    """
    cfg = launch.load_config(options.config)
    recipe = recipe_of(cfg, options.config, "compare_recipe")
    pricing = Pricing(device=options.device, batch=options.batch, progress=not options.quiet)
    costs = pricing.costs(SearchSpace.from_config(cfg.space), options.input_size)
    logger.info("%s", costs.describe())
    budget = costs.budget(options.budget_ms)
    costs.check_budget(budget)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)

    about = {
        "budget_ms": options.budget_ms,
        "device": costs.table.title,
        "input_size": options.input_size,
        "space": costs.space.hash,
        "table": costs.table_hash,
        "config": options.config,
        "recipe": recipe_hash(recipe),
        "recipe_file": os.path.normpath(relative_path(recipe)),
        "data": str(read_config(recipe).train_dataloader.dataset.get("name", "own data")),
    }
    check_about(out, about)

    shared = [options.config, "--budget-ms", f"{options.budget_ms:g}", "--device", options.device]
    shared += ["--batch", str(options.batch), "--input-size", str(options.input_size)]
    wanted: list[tuple[str, int, str, list[str]]]
    wanted = [(SEARCHED, seed, f"search_{seed}", []) for seed in range(options.seeds)]
    for i, (group, flags) in enumerate(ABLATIONS.items()):
        wanted += [(group, s, f"ablation{i}_{s}", flags) for s in range(options.ablations)]
    searches = [(name, [*shared, "--seed", str(seed), *f]) for _, seed, name, f in wanted]
    _run_searches(out / "searches", options.config, options.budget_ms, searches, options.jobs)

    entries = list(baseline_entries(pricing, costs, budget, options.random))
    for group, seed, name, _ in wanted:
        entries += searched_entries(out / "searches" / name, group, seed, costs, budget)
    write_entries(out, entries, about)
    train_all(out, entries, recipe, options.train_seeds, options.jobs, not options.quiet)

    found = SearchStudy.load(out)
    plots.save(draw_comparison(found), out / PLOT, found)
    if options.publish:
        for name in (ENTRIES, RECORDS):
            with atomic_path(Path(options.publish) / name) as temporary:
                temporary.write_bytes((out / name).read_bytes())
    return found
