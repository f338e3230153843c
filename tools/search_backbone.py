"""Search a backbone for a latency budget.

python tools/search_backbone.py configs/search/quick.py --budget-ms 0.65 --device v100 --out DIR
python tools/search_backbone.py cost --out DIR    # what a supernet costs, by number of widths
python tools/search_backbone.py rule              # the Prunodes' rule on known preferences
python tools/search_backbone.py summary DIR...    # finished results side by side
python tools/search_backbone.py compare ...       # is it better than chance?
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from _compare import add_compare, run_compare
from _flags import above_zero, at_least, output_file, parse_verbs, settings_action

from prunet_det.utils.errors import UserError, run_tool

if TYPE_CHECKING:
    from prunet_det.search.session import SearchOptions

STRATEGIES = ("search", "random", "scale")


def add_search(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="a config of configs/search/")
    add("--budget-ms", type=above_zero, required=True, help="latency to meet, of scope backbone")
    add("--device", default="v100", help="v100, a100, h100, here, a table or a device file [v100]")
    add("--batch", type=at_least(1), default=1, help="images at once, of the budget [1]")
    add("--input-size", type=at_least(1), default=512, help="pixels, of the budget [512]")
    add("--threads", type=at_least(1), help="of a CPU that is measured [all]")
    add("--seed", type=at_least(0), default=0, help="of everything random [0]")
    add("--name", help="of the network [prunet_search]")
    add("--out", help="folder of the result [work_dirs/search/CONFIG_BUDGET_SEED]")
    add("--resume", action="store_true", help="go on with the search that --out holds")
    add("--strategy", choices=STRATEGIES, default="search", help="[search]; random and scale are")
    add("--data", metavar="DIR", help="search on this ImageFolder's train/ instead")
    add("--classes", nargs="+", help="keep these classes only; a number keeps the first ones")
    add("--fixed-expansions", type=int, nargs="+", metavar="N", help="no Prunodes: these instead")
    add("--no-block-pruning", action="store_true", help="candidates stay to the end")
    add("--skip-from-start", action="store_true", help="the skip is a candidate like any other")
    add("--no-finals", action="store_true", help="no last tier: no trainings of finalists")
    add("--no-pruning", action="store_true", help="all three tiers off, to see what they save")
    add("--amp", action="store_true", help="automatic mixed precision, on CUDA")
    add("--force", action="store_true", help="use a table of another device all the same")
    add("--tables", default="work_dirs/tables", help="where `here` keeps its tables")
    add("--launcher", choices=["none", "pytorch"], default="none", help="pytorch: under torchrun")
    add("--cfg-options", nargs="+", action=settings_action(), metavar="KEY=VALUE", help="override")
    add("--quiet", action="store_true", help="no progress bar")
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def search_options(args: argparse.Namespace) -> SearchOptions:
    """The command line as the package takes it."""
    from prunet_det.search.session import SearchOptions

    return SearchOptions(**{f.name: getattr(args, f.name) for f in fields(SearchOptions)})


def canonical_command(options: SearchOptions) -> str:
    """The command that gives the same result again, whatever folder and bar this one had."""
    parts = ["python", "tools/search_backbone.py", options.config]
    silent = {"config", "out", "resume", "quiet", "tables", "launcher"}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in silent or value == field.default:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if value is True:
            parts.append(flag)
        elif isinstance(value, dict):
            parts += [flag, *(f"{k}={v}" for k, v in value.items())]
        elif isinstance(value, list):
            parts += [flag, *map(str, value)]
        else:
            parts += [flag, str(value)]
    return shlex.join(parts)


def run_search(args: argparse.Namespace) -> int:
    """Searches; what the command is for without a verb."""
    from prunet_det.search import session
    from prunet_det.search.results import ARCH_FILE

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    options = search_options(args)
    found = session.run_search(options, canonical_command(options))
    if found is None:  # another process has it
        return 0
    result, folder = found
    print("\n".join(result.lines()))
    print(f"{folder / ARCH_FILE} and report.md beside it")
    if not result.accepted:
        print("the result does not meet its budget.")
    return int(not result.accepted)


def add_cost(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", help="folder for supernet_cost.csv")
    add("--memory-gb", type=above_zero, default=4.0, help="a supernet may keep [4]")
    add("--seconds", type=above_zero, default=3.0, help="to spend on each [3]")


def run_cost(args: argparse.Namespace) -> None:
    """What a supernet's step costs, by the number of widths to choose from."""
    from prunet_det.search import cost_check
    from prunet_det.utils.env import environment
    from prunet_det.utils.io import text_table, write_csv

    costs = cost_check.measure_costs(args.memory_gb, args.seconds)
    ratio = cost_check.prunode_ratio(args.seconds)
    rows = [
        [
            c.kind,
            str(c.widths),
            f"{c.parameters:,}",
            f"{c.flops / 1e9:.3f}" if c.fits else "-",
            f"{c.saved_mb:.1f}" if c.fits else f"over {c.saved_mb:.0f}",
            f"{c.step_ms:.1f} ({c.low_ms:.1f} to {c.high_ms:.1f})" if c.fits else "does not fit",
        ]
        for c in costs
    ]
    header = ["supernet", "widths", "parameters", "GFLOPs a step", "kept MiB", "ms a step"]
    print(text_table(f"cost of a supernet's step ({environment()['machine']})", header, rows))
    print(f"a Prunode's step costs {ratio:.2f} times a plain block's of its larger width")
    if args.out:
        records = [{**r, "prunode_of_plain": ratio} for r in cost_check.to_records(costs)]
        command = shlex.join(["python", *sys.argv])
        write_csv(str(Path(args.out) / "supernet_cost.csv"), records, command)


def add_rule(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preferences", type=at_least(1), default=200, help="how many [200]")
    add("--updates", type=at_least(1), default=600, help="of the rule [600]")
    add("--noise", type=float, default=1.0, help="of the gradients [1.0]")
    add("--seed", type=at_least(0), default=0)
    add("--out", type=output_file, metavar="FILE.csv", help="also write the figures here")
    add("--json", action="store_true", help="one JSON object per line")


def run_rule(args: argparse.Namespace) -> None:
    """The Prunodes' rule on random preferences whose best width is known."""
    from dataclasses import asdict

    from prunet_det.search.rule_check import random_preferences
    from prunet_det.search.rule_check import run_rule as run
    from prunet_det.utils.io import text_table, write_csv

    if not 0 <= args.noise < math.inf:
        raise UserError(f"--noise must be a number of at least 0, got {args.noise:g}.")
    preferences = random_preferences(args.preferences, args.seed)
    given = {k: getattr(args, k) for k in ("preferences", "updates", "noise", "seed")}
    records, rows = [], []
    for bias in (0.0, 2.0):
        result = run(preferences, args.updates, args.noise, bias, args.seed)
        records.append({"bias": bias, **given, **asdict(result)})
        shares = (result.within_one, result.clear, result.monotone)
        rows.append([f"{bias:g}", *(f"{s:.1%}" for s in shares), f"{result.mean_regret:.4f}"])
    if args.out:
        write_csv(args.out, records, shlex.join(["python", *sys.argv]))
    if args.json:
        print("\n".join(map(json.dumps, records)))
    else:
        header = ["early bias", "all", "with a clear optimum", "monotone", "mean regret"]
        title = f"{args.preferences} preferences, {args.updates} updates, noise {args.noise:g}: "
        print(text_table(title + "found within one step of the best", header, rows))


def add_summary(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", nargs="+", metavar="DIR", help="of results")
    add("--out", type=output_file, metavar="FILE.csv", help="also write the figures here")


def run_summary(args: argparse.Namespace) -> None:
    """Finished results side by side; the latencies of named devices are predicted anew."""
    from prunet_det.search.results import summarize
    from prunet_det.utils.io import text_table, write_csv

    records = [summarize(folder) for folder in args.folders]
    rows = [
        [
            r["strategy"] + (f" without {r['tiers_off']}" if r["tiers_off"] else ""),
            r["device"],
            f"{r['budget_ms']:g}",
            str(r["seed"]),
            f"{r['before_repair'] - 1:+.1%}",
            f"{r['width_changed']:.1%}",
            f"{r['latency_ms']:.4f}",
            f"{r['of_budget']:.1%}",
            str(r["blocks"]),
            f"{r['search_seconds']:.0f}",
        ]
        for r in records
    ]
    header = ["strategy", "device", "budget ms", "seed", "before repair", "width changed"]
    print(text_table("results", [*header, "ms", "of budget", "blocks", "search s"], rows))
    if args.out:
        write_csv(args.out, records, shlex.join(["python", *sys.argv]))


VERBS = {
    "search": (add_search, run_search),
    "cost": (add_cost, run_cost),
    "rule": (add_rule, run_rule),
    "summary": (add_summary, run_summary),
    "compare": (add_compare, run_compare),
}


def main() -> int | None:
    args = parse_verbs(__doc__, VERBS, "search", sys.argv[1:])
    return args.run(args)


if __name__ == "__main__":
    run_tool(main)
