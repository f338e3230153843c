"""One search from its arguments to its result: what the command line runs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config

from prunet_det.search.baselines import random_repaired, scaled_repaired
from prunet_det.search.costs import BudgetError, Pricing, SpaceCosts
from prunet_det.search.finals import FinalSettings, LastTier, run_last_tier
from prunet_det.search.loop import SearchLoop
from prunet_det.search.repair import Repaired, repair
from prunet_det.search.report import write_report
from prunet_det.search.results import (
    ARCH_FILE,
    FINALS_FILE,
    FOUND_FILE,
    Outcome,
    Request,
    inherited_network,
    make_outcome,
    save_weights,
    score,
    write_outcome,
)
from prunet_det.search.runner import build_search, has_checkpoint, load_data
from prunet_det.search.space import SearchSpace
from prunet_det.search.tiers import Tiers
from prunet_det.search.trial import recipe_hash, recipe_of
from prunet_det.training import launch
from prunet_det.training.schedule import explicit_schedule
from prunet_det.utils.config import from_mapping, read_config
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import digest, make_folder


def run_search(args: argparse.Namespace, command: str) -> int:
    """Runs what the command line asks for.

    Args:
        args: See `tools/search_backbone.py`.
        command: That regenerates the result.

    Returns:
        0, or 1 where the result does not meet its budget.

    Raises:
        UserError, ValueError, OSError: In sentences.
    """
    cfg = _config(args)
    check_arguments(args, cfg)
    tiers = _tiers(args, cfg)
    pricing = Pricing(
        args.device,
        args.batch,
        args.tables,
        threads=args.threads,
        force=args.force,
        progress=not args.quiet,
    )
    space = SearchSpace.from_config(cfg.space)
    main = dist.is_main_process()
    if args.device == "here" and not main:
        dist.barrier()  # the main process measures, alone; the others read its table
    costs = pricing.costs(space, args.input_size)
    if args.device == "here" and main:
        dist.barrier()
    if main:
        print(costs.describe())
    budget = costs.budget(args.budget_ms)
    costs.check_budget(budget)
    out = prepare_folder(cfg.work_dir, args.resume)
    if args.strategy != "search":
        return _baseline(args, cfg, command, costs, pricing, out)
    if args.fixed_expansions:
        costs = SpaceCosts(
            space.with_fixed_widths(args.fixed_expansions), args.input_size, costs.table
        )
    loaders = load_data(cfg, args.seed)
    data: Any = loaders[0].dataset
    source = cfg.search_dataloader.dataset
    described = {
        "name": source.get("name") or source.get("data_root"),
        "classes": len(data.metainfo["classes"]),
    }
    request = _request(args, cfg, command, costs, tiers, described, data.data_hash)

    def save(loop: SearchLoop) -> None:
        try:
            _save(loop, costs, request, out)
        except BudgetError as e:  # so far; the search goes on
            print(f"no result yet at step {loop.iter}: {e}")

    runner = build_search(
        cfg,
        costs,
        budget,
        args.seed,
        str(out),
        loaders,
        request,
        tiers,
        args.resume,
        on_save=save,
        progress=not args.quiet,
    )
    runner.train()
    if dist.is_distributed():
        torch.distributed.destroy_process_group()  # the last tier is the main process's
    if not main:
        return 0
    loop: Any = runner.train_loop
    finals = _last_tier(args, cfg, loop, costs, request, out)
    outcome = _save(loop, costs, request, out, finals, final=True)
    return _report(outcome, out)


def _config(args: argparse.Namespace) -> Config:
    args.work_dir, args.data_root = args.out, None
    cfg = launch.load_config(args)
    if "space" not in cfg or "search" not in cfg:
        raise UserError(f"{args.config} is no search config: it has no `space` or no `search`.")
    if not args.out:
        name = f"{Path(args.config).stem}_{args.budget_ms:g}ms_seed{args.seed}"
        cfg.work_dir = str(Path("work_dirs") / "search" / name)
    loader = cfg.search_dataloader
    if args.data:
        transform = loader.dataset.transform
        loader.dataset = dict(
            type="ImageFolder",
            data_root=args.data,
            split="train",
            transform=transform,
        )
    if args.classes:
        first = args.classes[0]
        only_number = len(args.classes) == 1 and first.isdigit()
        loader.classes = int(first) if only_number else list(args.classes)
    if args.amp:
        cfg.optim_wrapper.type = "AmpSearchOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if args.launcher == "pytorch" and not dist.is_distributed():
        if torch.cuda.is_available():
            dist.init_dist("pytorch", backend="nccl")
        else:
            torch.distributed.init_process_group("gloo")
    return cfg


def check_arguments(args: argparse.Namespace, cfg: Config) -> None:
    """Refuses what no search can be run with, before anything slow starts.

    Raises:
        UserError: The sentence says what.
    """
    if not 0 < args.budget_ms < float("inf"):
        raise UserError(f"--budget-ms must be above 0, got {args.budget_ms:g}.")
    if args.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {args.seed}.")
    if args.amp and not torch.cuda.is_available():
        raise UserError("--amp needs a CUDA device, and there is none here; leave it out.")
    if from_mapping(FinalSettings, cfg.get("finals") or {}, "finals").iterations:
        recipe_of(cfg, args.config)
    search = cfg.search
    if search.get("steps", 0) < 1 or search.get("warmup", 0) < 0:
        raise UserError("the config's search needs steps >= 1 and warmup >= 0.")
    if args.strategy != "search" and (args.fixed_expansions or args.skip_from_start):
        raise UserError(f"--strategy {args.strategy} has no tiers to switch off.")
    if args.strategy != "search" and args.resume:
        raise UserError(f"--strategy {args.strategy} takes seconds: there is nothing to resume.")


def _tiers(args: argparse.Namespace, cfg: Config) -> Tiers:
    tiers = from_mapping(Tiers, cfg.search.pop("tiers", {}), "search.tiers")
    if args.no_pruning:
        return replace(tiers, widths=False, blocks=False, layers=False)
    if args.skip_from_start:
        tiers = replace(tiers, skip_from_start=True)
    if args.no_block_pruning:
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
            print(f"{path} holds no checkpoint yet; the search starts afresh.")
    elif not resume and (has_checkpoint(path) or (out / ARCH_FILE).exists()):
        raise UserError(
            f"{path} holds a search already; go on with it by --resume, or give another --out."
        )
    return out


def _request(
    args: argparse.Namespace,
    cfg: Config,
    command: str,
    costs: SpaceCosts,
    tiers: Tiers,
    data: dict[str, Any],
    data_hash: str,
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
    if args.no_finals or not settings["finals"]:
        settings["finals"] = None
    else:
        settings["recipe"] = recipe_hash(recipe_of(cfg, args.config))
    return Request(
        command,
        args.config,
        costs.budget(args.budget_ms),
        costs.table.kind,
        args.seed,
        args.strategy,
        {
            "config": digest([settings, tiers.__dict__, dist.get_world_size()]),
            "space": costs.space.hash,
            "table": costs.table_hash,
            "data": data_hash,
        },
        data,
        args.name or "",
    )


def _baseline(
    args: argparse.Namespace,
    cfg: Config,
    command: str,
    costs: SpaceCosts,
    pricing: Pricing,
    out: Path,
) -> int:
    if args.strategy == "random":
        repaired = random_repaired(costs, costs.budget(args.budget_ms), args.seed)
    else:
        costs, repaired = scaled_repaired(pricing, costs.budget(args.budget_ms))
    request = _request(args, cfg, command, costs, Tiers(), {}, "none")
    outcome = make_outcome(costs.space, repaired, request)
    outcome = replace(outcome, measured_ms=measure_here(outcome, costs))
    write_outcome(out, outcome, request)
    write_report(out, outcome, request)
    return _report(outcome, out)


def measure_here(outcome: Outcome, costs: SpaceCosts) -> float | None:
    """Median milliseconds of a network on the device of a measured table, where that is here."""
    if costs.table.kind != "measured":
        return None
    from prunet_det.latency.measure import find_device, measure
    from prunet_det.runtime.subject import load_subject

    device = find_device(costs.conditions)
    if device is None:
        return None
    subject = load_subject(outcome.spec, input_size=costs.input_size)
    (found,) = measure([subject], costs.conditions, device=device, seconds=3.0)
    return found.latency.ms


def _found(loop: SearchLoop, costs: SpaceCosts, request: Request) -> Repaired:
    """What the search prefers now, within the budget."""
    architecture = loop.architecture
    return repair(architecture.network(), costs, request.budget, architecture.worth())


def _last_tier(
    args: argparse.Namespace,
    cfg: Config,
    loop: SearchLoop,
    costs: SpaceCosts,
    request: Request,
    out: Path,
) -> LastTier | None:
    """Trains finalists on the search's two halves; those whose scores are on file are not again."""
    settings = from_mapping(FinalSettings, cfg.get("finals") or {}, "finals")
    if args.no_finals or not settings.iterations:
        return None
    repaired = _found(loop, costs, request)
    make_outcome(costs.space, repaired, request).spec.save(out / FOUND_FILE)
    return run_last_tier(
        repaired.network,
        costs,
        request.budget,
        request.seed,
        settings,
        read_config(recipe_of(cfg, args.config)),
        cfg.search_dataloader,
        out / FINALS_FILE,
        progress=not args.quiet,
    )


def _save(
    loop: SearchLoop,
    costs: SpaceCosts,
    request: Request,
    out: Path,
    finals: LastTier | None = None,
    final: bool = False,
) -> Outcome:
    """Writes what the search would answer now; last tier and measurement wait for the end."""
    repaired = _found(loop, costs, request)
    if finals is not None:
        best = finals.best
        repaired = replace(repaired, network=best.network, after_ms=best.latency_ms)
    outcome = make_outcome(costs.space, repaired, request)
    if finals is not None:
        outcome = replace(outcome, last_tier=finals.line)
    net: Any = inherited_network(loop, outcome.spec, repaired.network)
    extra: dict[str, Any] = {
        "weights": "inherited",
        "iterations": loop.iter,
        "of_iterations": loop.max_iters,
        "search_seconds": round(loop.seconds, 2),
    }
    if finals is not None:
        extra["final_seconds"] = round(finals.seconds, 2)
    if final:
        outcome = replace(outcome, measured_ms=measure_here(outcome, costs))
        extra["inherited_top1"] = score(loop, net)
    if finals is not None and finals.best.scores[0] > extra["inherited_top1"]:
        # Blocks that the supernet never had inherit nothing: a short training does better.
        net = finals.train(repaired.network, 0).net
        extra["weights"] = "trained briefly in the last tier"
    save_weights(out, net)
    write_outcome(out, outcome, request, extra)
    ended = final or loop.interrupted  # until then its plots would be drawn for nobody
    write_report(out, outcome, request, loop if ended else None, extra)
    return outcome


def _report(outcome: Outcome, out: Path) -> int:
    print("\n".join(outcome.lines()))
    print(f"{out / ARCH_FILE} and report.md beside it")
    if outcome.accepted:
        return 0
    print("the result does not meet its budget.")
    return 1
