"""What each tier is worth: the networks of all three and of two of them, for `compare` to judge.

    python tools/experiments/tiers.py configs/search/study.py --budget-ms 0.5 0.83 --seed 0 \\
        --supernet work_dirs/supernet_0 --out work_dirs/tiers_0
    python tools/search_backbone.py compare --networks work_dirs/tiers_0 --out work_dirs/tiers

The supernet is that of `gate`, whose weights stay, as they do for a budget that is asked for after
a search. All rows of a seed see the same weights, and those of a draw begin with the same networks.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _flags import at_least
from _gate import add_shared, search_config

from prunet_det.utils.errors import run_tool

GROUP = "tiers alone"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    add_shared(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="list of the networks")
    parser.add_argument("--draws", type=at_least(1), default=3, help="networks of each row [3]")
    args = parser.parse_args()
    from prunet_det.benchmark.gpu.search import ABLATIONS
    from prunet_det.benchmark.search_baselines import Rows
    from prunet_det.benchmark.search_study import write_entries
    from prunet_det.search.api import train_supernet
    from prunet_det.search.architecture import Architecture
    from prunet_det.search.config import SearchConfig
    from prunet_det.utils.io import make_folder

    config, ms = search_config(args), args.budget_ms[0]
    whole = SearchConfig.from_file(args.config, budget_ms=ms, options=args.cfg_options)
    rows = Rows(args.config, config.pricing, ms, config.input_size)
    loop = train_supernet(config)
    loop.settings = whole.search
    without = {row: off for row, (off, _) in ABLATIONS.items() if row.startswith("without tier ")}
    entries = []
    for draw in range(args.draws):
        seed = config.seed + 1000 * draw
        for row, off in {"": (), **without}.items():
            tiers = replace(whole, off=off).active_tiers
            architecture = Architecture(loop.shapes, ms, tiers, whole.rule, seed)
            loop.add(architecture)
            group = f"{GROUP}, {row}" if row else GROUP
            entries.append(rows.entry(group, architecture.shape(), seed=seed))
            print(f"{entries[-1].name}: {entries[-1].latency_ms:.3f} ms", flush=True)
    write_entries(make_folder(args.out), rows.about, entries)


if __name__ == "__main__":
    run_tool(main)
