"""The verbs `gate` and `prices` of tools/search_backbone.py: what the search rests on."""

import argparse
import shlex
import sys
from typing import Any

from _flags import add_budgets, at_least, output_file, settings_action

PRICES = {
    "removed_alone": "ms left unused",
    "removed_at_equal_ms": "ms given to the other widths",
}


def add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="a config of configs/search/, whose supernet is trained without tiers")
    add_budgets(parser, "of the search, whose paths are of these latencies")
    add("--seed", type=at_least(0), help="of the supernet [0]")
    add("--supernet", required=True, metavar="DIR", help="the supernet's folder; it goes on there")
    add("--cfg-options", nargs="+", action=settings_action(), metavar="KEY=VALUE", help="override")
    add("--out", type=output_file, metavar="FILE.json", help="also write the figures here")
    add("--quiet", action="store_true", help="no progress bar")


def add_gate(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    parser.add_argument(
        "--study", required=True, metavar="DIR", help="of compare: networks that are judged"
    )


def add_prices(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    parser.add_argument("--count", type=at_least(2), default=16, help="networks [16]")


def search_config(args: argparse.Namespace) -> Any:
    """A search whose supernet has all candidates at its end."""
    from prunet_det.search import SearchConfig

    given = {name: getattr(args, name) for name in ("device", "batch", "input_size", "seed")}
    return SearchConfig.from_file(
        args.config,
        budget_ms=args.budget_ms,
        options={**(args.cfg_options or {}), "search.tiers": 0},
        out=args.supernet,
        off=("evolution", "finalists"),
        resume=True,
        progress=not args.quiet,
        **{name: value for name, value in given.items() if value is not None},
    )


def write(args: argparse.Namespace, budget_ms: float, figures: dict[str, Any]) -> None:
    """Writes figures of networks of one latency with the command that they come from."""
    from prunet_det.utils.env import environment
    from prunet_det.utils.io import write_json
    from prunet_det.utils.package import relative_path

    if args.out:
        command = shlex.join(["python", *map(relative_path, sys.argv)])
        about = {"command": command, "budget_ms": budget_ms, "seed": args.seed or 0}
        write_json(args.out, {**about, **figures, **environment()})


def run_gate(args: argparse.Namespace) -> None:
    """Does a supernet rank networks as their trainings from scratch do?"""
    from prunet_det.benchmark.search_gate import rank_networks
    from prunet_det.benchmark.search_study import SearchStudy
    from prunet_det.utils.io import text_table

    study = SearchStudy.load(args.study)
    found = rank_networks(search_config(args), study)
    keys = ("judged", "loss", "top1")
    networks = sorted(found["networks"].items(), key=lambda item: -item[1]["judged"])
    rows = [[name, *(f"{row[key]:.3f}" for key in keys)] for name, row in networks]
    header = ["network", "top-1 from scratch", "loss in the supernet", "top-1 in it"]
    print(text_table("networks of one latency", header, rows))
    for what in ("loss", "top-1"):
        if rank := found[f"tau_{what.replace('-', '')}"]:
            tau, low, high = rank
            print(f"Kendall's tau of the supernet's {what}: {tau:.2f} ({low:.2f} to {high:.2f})")
    write(args, study.about["budget_ms"], found)


def run_prices(args: argparse.Namespace) -> None:
    """What latency and layers are worth, at their own latency and at equal latency."""
    from prunet_det.benchmark.search_gate import price_layers
    from prunet_det.utils.io import text_table

    config = search_config(args)
    found = price_layers(config, args.count)
    stages = {f"stage {stage}": row for stage, row in found["stages"].items()}
    rows = [
        [name, *("{:+.3f} +- {:.3f}".format(*row[key]) for key in PRICES)]
        for name, row in {**stages, "all stages": found}.items()
    ]
    title = "change of the loss when half of a stage's skippable layers go"
    print(text_table(title, ["", *PRICES.values()], rows))
    slope, error = found["loss_per_log_ms"]
    print(f"change of the loss with the logarithm of the latency: {slope:+.2f} +- {error:.2f}")
    write(args, config.budgets_ms[0], found)
