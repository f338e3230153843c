"""The verb `compare` of tools/search_backbone.py: is a search better than chance?"""

import argparse
from dataclasses import fields

from _flags import above_zero, at_least


def add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out", required=True, help="folder of networks, trainings and plots; it goes on from them"
    )
    add("--judge", default="search/judge_quick.py", help="recipe of the trainings [%(default)s]")
    add("--networks", nargs="+", default=[], metavar="FILE", help="entries.json of other studies")
    add("--config", help="of a search: also compare random networks and others of its space")
    add("--budget-ms", type=above_zero, help="that these are filled up to")
    add(
        "--searches",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="results of searches with --config for --budget-ms; NAME for ablations",
    )
    add("--device", default="v100", help="whose milliseconds, as of a search [v100]")
    add("--batch", type=at_least(1), default=1, help="of the budget [1]")
    add("--input-size", type=at_least(1), default=512, help="of the budget [512]")
    add("--random", type=at_least(0), metavar="N", help="random networks [20, 0 with --networks]")
    add("--surrogates", type=at_least(0), default=3, metavar="N", help="networks of a ridge [3]")
    add(
        "--trainings",
        type=at_least(0),
        default=4,
        metavar="N",
        help="of each; 0 shows what is there [4]",
    )
    add("--jobs", type=at_least(1), default=1, help="processes at once, on one GPU too [1]")
    add("--train-on", choices=["cpu", "cuda"], help="[cuda where there is a GPU]")
    add("--quiet", action="store_true", help="no progress bar")


def run_compare(args: argparse.Namespace) -> None:
    """Is it better than chance? Searched networks beside others of their latency."""
    from prunet_det.benchmark.search_compare import CompareOptions, compare
    from prunet_det.benchmark.search_tables import printed

    given = {f.name: getattr(args, f.name) for f in fields(CompareOptions) if f.name != "progress"}
    if args.random is None:
        given["random"] = 0 if args.networks else 20
    print(printed(compare(CompareOptions(**given, progress=not args.quiet))))
