"""Make an embedded data set: python tools/make_data.py digits [--crops]."""

import argparse

from _flags import at_least

from prunet_det.utils.errors import run_tool


def main() -> None:
    from prunet_det.datasets import SETS, data_hash, ensure, ensure_crops

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help=f"one of {', '.join(SETS)}")
    parser.add_argument("--out", help="folder [data/NAME]")
    parser.add_argument("--workers", type=at_least(1), help="processes [one a core]")
    parser.add_argument(
        "--crops", action="store_true", help="also its objects as crops for classification"
    )
    args = parser.parse_args()
    root = ensure(args.name, args.out or f"data/{args.name}", args.workers)
    if args.crops:
        print(f"{ensure_crops(args.name, root, args.workers)}: complete")
    print(f"{root}: complete, data hash {data_hash(root)}; look at {root / 'contact_sheet.png'}")


if __name__ == "__main__":
    run_tool(main)
