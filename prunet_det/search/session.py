"""One search from its arguments to its result: what the command line runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.config import Config

from prunet_det.search.baselines import random_repaired, scaled_repaired
from prunet_det.search.costs import BudgetError, Pricing, SpaceCosts
from prunet_det.search.finals import (
    FinalistTrainer,
    FinalSettings,
    LastTier,
    Scores,
    run_last_tier,
)
from prunet_det.search.old_loop import SearchLoop
from prunet_det.search.old_report import write_report
from prunet_det.search.repair import Repaired, repair
from prunet_det.search.results import (
    ARCH_FILE,
    FINALS_FILE,
    FOUND_FILE,
    Request,
    SearchResult,
    inherited_network,
    make_result,
    save_weights,
    score,
    write_result,
)
from prunet_det.search.runner import build_architecture, build_search, has_checkpoint, load_data
from prunet_det.search.space import SearchSpace
from prunet_det.search.tiers import Tiers
from prunet_det.search.trial import recipe_hash, recipe_of
from prunet_det.training import launch
from prunet_det.training.schedule import explicit_schedule
from prunet_det.utils.config import config_errors, from_mapping, read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import digest, make_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search is asked for, as tools/search_backbone.py has it.

    Attributes:
        config: A config of configs/search/.
        budget_ms: Latency to meet, in milliseconds, of scope backbone.
        device: A named device, `here`, or the path of a table or of a device file.
        batch: Images at once, of the budget.
        input_size: Pixels, of the budget.
        threads: Threads of a CPU that is measured; all by default.
        seed: Seed of everything random.
        name: Name of the network.
        out: Folder of the result; by default work_dirs/search/CONFIG_BUDGET_SEED.
        resume: Whether to go on with the search that `out` holds.
        strategy: `search`, or one of the baselines, `random` and `scale`.
        data: An ImageFolder whose train/ is searched on, in the place of the config's data.
        classes: Names of the classes to keep, or one number, which keeps the first ones.
        fixed_expansions: Expansions to choose from, in the place of Prunodes.
        no_block_pruning: Whether candidates stay to the end.
        skip_from_start: Whether the skip is a candidate like any other.
        no_finals: Whether to leave out the last tier, the trainings of finalists.
        no_pruning: Whether all three tiers are off.
        amp: Automatic mixed precision, on CUDA.
        force: Whether to use a table of another device all the same.
        tables: Folder where `here` keeps its tables.
        launcher: `none`, or `pytorch` under torchrun.
        cfg_options: Dotted key to value, merged into the config.
        quiet: Whether to leave out the progress bar.
    """

    config: str
    budget_ms: float
    device: str = "v100"
    batch: int = 1
    input_size: int = 512
    threads: int | None = None
    seed: int = 0
    name: str | None = None
    out: str | None = None
    resume: bool = False
    strategy: str = "search"
    data: str | None = None
    classes: list[str] | None = None
    fixed_expansions: list[int] | None = None
    no_block_pruning: bool = False
    skip_from_start: bool = False
    no_finals: bool = False
    no_pruning: bool = False
    amp: bool = False
    force: bool = False
    tables: str = "work_dirs/tables"
    launcher: str = "none"
    cfg_options: dict[str, Any] | None = None
    quiet: bool = False

    @property
    def tiers_off(self) -> tuple[str, ...]:
        """Tiers that are switched off, see `Request`."""
        off = {
            "widths": self.no_pruning or bool(self.fixed_expansions),
            "blocks": self.no_pruning or self.no_block_pruning,
            "layers": self.no_pruning or self.skip_from_start,
            "finals": self.no_finals,
        }
        return tuple(tier for tier, without in off.items() if without)


def run_search(options: SearchOptions, command: str) -> tuple[SearchResult, Path] | None:
    """Runs a search, or builds a baseline.

    Args:
        options: What is asked for.
        command: That regenerates the result.

    Returns:
        The result and its folder; nothing in the other processes of a distributed search.

    Raises:
        UserError, ValueError, OSError: In sentences.
    """
    cfg = _config(options)
    check_arguments(options, cfg)
    tiers = _tiers(options, cfg)
    pricing = Pricing(
        device=options.device,
        batch=options.batch,
        tables=options.tables,
        threads=options.threads,
        force=options.force,
        progress=not options.quiet,
    )
    space = SearchSpace.from_config(cfg.space)
    main = dist.is_main_process()
    price = price_in_turn if options.device == "here" else Pricing.costs
    costs = price(pricing, space, options.input_size)
    if main:
        logger.info("%s", costs.describe())
    budget = costs.budget(options.budget_ms)
    costs.check_budget(budget)
    if options.strategy != "search":
        out = prepare_folder(cfg.work_dir, options.resume)
        return _baseline(options, cfg, command, costs, pricing, out)
    if options.fixed_expansions:
        costs = SpaceCosts(
            space.with_fixed_widths(options.fixed_expansions), options.input_size, costs.table
        )
    loaders = load_data(cfg, options.seed)
    out = prepare_folder(cfg.work_dir, options.resume)  # once the data is not refused
    request = _request(options, cfg, command, costs, tiers, loaders[0].dataset)

    def save(loop: SearchLoop) -> None:
        try:
            _save(loop, costs, request, out)
        except BudgetError as e:  # so far; the search goes on
            logger.info("no result yet at step %d: %s", loop.iter, e)

    architecture = build_architecture(cfg, costs, tiers)
    runner = build_search(cfg, architecture, loaders, request, save, not options.quiet)
    with config_errors():
        runner.train()
    if dist.is_distributed():
        torch.distributed.destroy_process_group()  # the last tier is the main process's
    if not main:
        return None
    loop = cast("SearchLoop", runner.train_loop)
    finals = _last_tier(options, cfg, loop, costs, request, out)
    result = _save(loop, costs, request, out, finals, final=True)
    return result, out


def price_in_turn(pricing: Pricing, space: SearchSpace, input_size: int) -> SpaceCosts:
    """Prices a space in the main process, which measures alone; the others then read its table.

    Args:
        pricing: Where milliseconds come from.
        space: The space.
        input_size: Side of the square images, in pixels.

    Raises:
        UserError: If the main process raised; there it is what `Pricing.costs` raises.
    """
    failure = [""]
    if dist.is_main_process():
        try:
            return pricing.costs(space, input_size)
        except BaseException as e:
            failure = [str(e) or type(e).__name__]
            raise
        finally:  # without it the others would wait until the backend gives up
            dist.broadcast_object_list(failure)
    dist.broadcast_object_list(failure)
    if failure[0]:
        raise UserError(f"the main process could not price the space: {failure[0]}")
    return pricing.costs(space, input_size)


def _config(options: SearchOptions) -> Config:
    cfg = launch.load_config(
        options.config,
        work_dir=options.out,
        options=options.cfg_options,
        launcher=options.launcher,
    )
    if "space" not in cfg or not isinstance(cfg.get("search"), dict):
        raise UserError(f"{options.config} is no search config: it has no `space` or no `search`.")
    if not options.out:
        name = f"{Path(options.config).stem}_{options.budget_ms:g}ms_seed{options.seed}"
        cfg.work_dir = str(Path("work_dirs") / "search" / name)
    cfg.resume = options.resume
    loader = cfg.search_dataloader
    if options.data:
        transform = loader.dataset.transform
        loader.dataset = dict(
            type="ImageFolder",
            data_root=options.data,
            split="train",
            transform=transform,
        )
    if options.classes:
        first = options.classes[0]
        only_number = len(options.classes) == 1 and first.isdigit()
        loader.classes = int(first) if only_number else list(options.classes)
    if options.amp:
        launch.set_amp(cfg)
    if options.launcher == "pytorch" and not dist.is_distributed():
        if torch.cuda.is_available():
            dist.init_dist("pytorch", backend="nccl")
        else:
            torch.distributed.init_process_group("gloo")
    return cfg


def check_arguments(options: SearchOptions, cfg: Config) -> None:
    """Refuses what no search can be run with, before anything slow starts.

    Raises:
        UserError: The sentence says what.
    """
    if not 0 < options.budget_ms < float("inf"):
        raise UserError(f"--budget-ms must be above 0, got {options.budget_ms:g}.")
    if options.name and ("/" in options.name or "\\" in options.name):
        raise UserError(f"--name becomes that of files, without / and \\, got {options.name}.")
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {options.seed}.")
    if options.amp and not torch.cuda.is_available():
        raise UserError("--amp needs a CUDA device, and there is none here; leave it out.")
    if from_mapping(FinalSettings, cfg.get("finals") or {}, "finals").iterations:
        recipe_of(cfg, options.config)
    search = cfg.search
    steps, warmup = search.get("steps", 0), search.get("warmup", 0)
    if not (isinstance(steps, int) and isinstance(warmup, int) and steps >= 1 and warmup >= 0):
        raise UserError("the config's search needs steps >= 1 and warmup >= 0.")
    if options.strategy != "search" and (options.fixed_expansions or options.skip_from_start):
        raise UserError(f"--strategy {options.strategy} has no tiers to switch off.")
    if options.strategy != "search" and options.resume:
        raise UserError(f"--strategy {options.strategy} takes seconds: there is nothing to resume.")


def _tiers(options: SearchOptions, cfg: Config) -> Tiers:
    tiers = from_mapping(Tiers, cfg.search.pop("tiers", {}), "search.tiers")
    if options.no_pruning:
        return replace(tiers, widths=False, blocks=False, layers=False)
    if options.skip_from_start:
        tiers = replace(tiers, skip_from_start=True)
    if options.no_block_pruning:
        tiers = replace(tiers, blocks=False)
    return tiers


def prepare_folder(path: str, resume: bool) -> Path:
    """Makes the folder of a result.

    Raises:
        UserError: It cannot be written, or holds another search, or none to resume.
    """
    out = make_folder(path)
    if (out / ARCH_FILE).exists() and not has_checkpoint(path):
        raise UserError(f"{path} holds a result without a checkpoint; give another --out.")
    if resume and not has_checkpoint(path):
        if dist.is_main_process():
            logger.info("%s holds no checkpoint yet; the search starts afresh.", path)
    elif not resume and (has_checkpoint(path) or (out / ARCH_FILE).exists()):
        raise UserError(
            f"{path} holds a search already; go on with it by --resume, or give another --out."
        )
    return out


def _request(
    options: SearchOptions,
    cfg: Config,
    command: str,
    costs: SpaceCosts,
    tiers: Tiers,
    dataset: Any = None,
) -> Request:
    keys = (
        "space",
        "search",
        "model",
        "search_dataloader",
        "optim_wrapper",
        "finals",
    )
    settings = {key: cfg.get(key) for key in keys}
    length = dict(max_iters=cfg.search.get("warmup", 0) + cfg.search.steps)
    settings["param_scheduler"] = explicit_schedule(cfg.get("param_scheduler"), length)
    if options.no_finals or not settings["finals"]:
        settings["finals"] = None
    else:
        settings["recipe"] = recipe_hash(recipe_of(cfg, options.config))
    data: dict[str, Any] = {}
    if dataset is not None:
        source = cfg.search_dataloader.dataset
        data["name"] = source.get("name") or source.get("data_root")
        data["classes"] = len(dataset.metainfo["classes"])
    return Request(
        command=command,
        config=options.config,
        budget=costs.budget(options.budget_ms),
        kind=costs.table.kind,
        seed=options.seed,
        strategy=options.strategy,
        hashes={
            "config": digest([settings, tiers.__dict__, dist.get_world_size()]),
            "space": costs.space.hash,
            "table": costs.table_hash,
            "data": "none" if dataset is None else dataset.data_hash,
        },
        data=data,
        name=options.name or "",
        tiers_off=options.tiers_off,
    )


def _baseline(
    options: SearchOptions,
    cfg: Config,
    command: str,
    costs: SpaceCosts,
    pricing: Pricing,
    out: Path,
) -> tuple[SearchResult, Path]:
    if options.strategy == "random":
        repaired = random_repaired(costs, costs.budget(options.budget_ms), options.seed)
    else:
        costs, repaired = scaled_repaired(pricing, costs.budget(options.budget_ms))
    request = _request(options, cfg, command, costs, Tiers())
    result = make_result(costs.space, repaired, request)
    result = replace(result, measured_ms=measure_here(result, costs))
    write_result(out, result, request)
    write_report(out, result, request)
    return result, out


def measure_here(result: SearchResult, costs: SpaceCosts) -> float | None:
    """Median milliseconds of a network on the device of a measured table, where that is here."""
    if costs.table.kind != "measured":
        return None
    from prunet_det.latency.measure import find_device, measure
    from prunet_det.latency.record import Failure
    from prunet_det.runtime.subject import load_subject

    device = find_device(costs.conditions)
    if device is None:
        return None
    subject = load_subject(result.spec, input_size=costs.input_size)
    (found,) = measure([subject], costs.conditions, device=device, seconds=3.0)
    if isinstance(found, Failure):
        logger.warning("%s is not measured: %s", found.model, found.reason)
        return None
    return found.latency.ms


def _found(loop: SearchLoop, costs: SpaceCosts, request: Request) -> Repaired:
    """What the search prefers now, within the budget."""
    architecture = loop.architecture
    return repair(architecture.network(), costs, request.budget, architecture.worth())


def _last_tier(
    options: SearchOptions,
    cfg: Config,
    loop: SearchLoop,
    costs: SpaceCosts,
    request: Request,
    out: Path,
) -> LastTier | None:
    """Trains finalists on the search's two halves; those whose scores are on file are not again."""
    settings = from_mapping(FinalSettings, cfg.get("finals") or {}, "finals")
    if options.no_finals or not settings.iterations:
        return None
    repaired = _found(loop, costs, request)
    make_result(costs.space, repaired, request).spec.save(out / FOUND_FILE)
    trainer = FinalistTrainer(
        costs.space,
        read_config(recipe_of(cfg, options.config)),
        cfg.search_dataloader,
        request.seed,
        settings.iterations,
    )
    scores = Scores(trainer, out / FINALS_FILE)
    return run_last_tier(
        repaired.network, costs, request.budget, settings, scores, progress=not options.quiet
    )


def _save(
    loop: SearchLoop,
    costs: SpaceCosts,
    request: Request,
    out: Path,
    finals: LastTier | None = None,
    final: bool = False,
) -> SearchResult:
    """Writes what the search would answer now; last tier and measurement wait for the end."""
    repaired = _found(loop, costs, request)
    if finals is not None:
        best = finals.best
        repaired = replace(repaired, network=best.network, after_ms=best.latency_ms)
    result = make_result(costs.space, repaired, request)
    if finals is not None:
        result = replace(result, last_tier=finals.line)
    net: Any = inherited_network(loop, result.spec, repaired.network)
    extra: dict[str, Any] = {
        "weights": "inherited",
        "iterations": loop.iter,
        "of_iterations": loop.max_iters,
        "search_seconds": round(loop.seconds, 2),
    }
    if finals is not None:
        extra["final_seconds"] = round(finals.seconds, 2)
    if final:
        result = replace(result, measured_ms=measure_here(result, costs))
        extra["inherited_top1"] = score(loop, net)
    if finals is not None and finals.best.scores[0] > extra["inherited_top1"]:
        # Blocks that the supernet never had inherit nothing: a short training does better.
        net = finals.train(repaired.network, 0).net
        extra["weights"] = "trained briefly in the last tier"
    save_weights(out, net)
    write_result(out, result, request, extra)
    ended = final or loop.interrupted  # until then its plots would be drawn for nobody
    write_report(out, result, request, loop if ended else None, extra)
    return result
