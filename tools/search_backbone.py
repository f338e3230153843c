"""Search backbones for latency budgets.

python tools/search_backbone.py configs/search/quick.py --budget-ms 0.5 0.65 --device v100 --out DIR
python tools/search_backbone.py configs/search/effdet.py --detector configs/prunet_effdet.py \\
    --scope detector --budget-ms 1.2
python tools/search_backbone.py gate ...          # does the supernet rank networks?
python tools/search_backbone.py prices ...        # what removing layers costs, at equal latency
python tools/search_backbone.py compare ...       # is it better than chance?
"""

from __future__ import annotations

import argparse
import os
import sys

from _compare import add_compare, run_compare
from _flags import add_budgets, at_least, parse_verbs, settings_action
from _gate import add_gate, add_prices, run_gate, run_prices

from prunet_det.utils.errors import run_tool


def add_search(parser: argparse.ArgumentParser) -> None:
    """The flags, under the names that `SearchConfig.from_file` has for them."""
    add = parser.add_argument
    add("config", help="a config of configs/search/")
    add_budgets(parser, "latencies to meet: a network for each")
    add("--detector", metavar="CONFIG", help="learn this detector's loss on its data, not crops")
    add("--scope", choices=["backbone", "detector", "e2e"], help="of the budgets [backbone]")
    add(
        "--input-sizes",
        type=at_least(1),
        nargs="+",
        metavar="PX",
        help="choose among these as well",
    )
    add(
        "--supernet",
        metavar="FILE",
        help="search.pth of a search on crops with search.tiers=0, to start from",
    )
    add("--threads", type=at_least(1), help="of a CPU that is measured [all]")
    add("--seed", type=at_least(0), help="of everything random [0]")
    add("--names", nargs="+", metavar="NAME", help="of the networks, one for each budget")
    add("--out", help="folder of the result [work_dirs/search/CONFIG_seedSEED]")
    add("--jobs", type=at_least(1), help="trainings of the last tier at once, on a CPU [cores]")
    add("--resume", action="store_true", help="go on with the search that --out holds")
    add("--data", metavar="DIR", help="an ImageFolder instead; the data root of a detector")
    add("--classes", nargs="+", help="keep these classes only; a number keeps the first ones")
    add("--off", nargs="+", metavar="PART", help="leave out widths, candidates, layers, ...")
    add("--amp", action="store_true", help="mixed precision in bfloat16, on CUDA")
    add("--force", action="store_true", help="use a table of another device all the same")
    add("--tables", help="where `here` keeps its tables [work_dirs/tables]")
    add("--launcher", choices=["none", "pytorch"], help="pytorch: under torchrun [none]")
    add(
        "--cfg-options",
        dest="options",
        nargs="+",
        action=settings_action(),
        metavar="KEY=VALUE",
        help="override",
    )
    add(
        "--detector-options",
        nargs="+",
        action=settings_action(),
        metavar="KEY=VALUE",
        help="override settings of --detector",
    )
    add("--quiet", dest="progress", action="store_false", help="no progress bar")
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def run_search(args: argparse.Namespace) -> int:
    """Searches; what the command is for without a verb."""
    from prunet_det.search import SearchConfig, search
    from prunet_det.utils.env import usable_cores

    # A flag that is not given leaves the package's default.
    given = {name: value for name, value in vars(args).items() if value is not None}
    os.environ.setdefault("LOCAL_RANK", str(given.pop("local_rank")))
    del given["run"]
    given.setdefault("jobs", usable_cores())
    result = search(SearchConfig.from_file(given.pop("config"), **given))
    if not result.networks:  # another process has them
        return 0
    print("\n".join(result.lines))
    print(f"{result.folder}/: report.md, and a folder for each network")
    if not result.accepted:
        print("the result does not meet its budget.")
    return int(not result.accepted)


VERBS = {
    "search": (add_search, run_search),
    "gate": (add_gate, run_gate),
    "prices": (add_prices, run_prices),
    "compare": (add_compare, run_compare),
}


def main() -> int | None:
    args = parse_verbs(__doc__, VERBS, "search", sys.argv[1:])
    return args.run(args)


if __name__ == "__main__":
    run_tool(main)
