"""Evaluate a detector: python tools/test.py CONFIG weights.safetensors."""

import argparse
import json
from pathlib import Path

from prunet_det.errors import run_tool


def main() -> None:
    from prunet_det.detection import launch
    from prunet_det.zoo.weights import load_all_weights

    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_flags(parser)
    parser.add_argument("checkpoint", help="weights: *.safetensors, or tensors saved by torch")
    parser.add_argument("--out", help="write the metrics to this JSON file")
    args = parser.parse_args()
    cfg = launch.load_config(args)
    launch.require_file(args.checkpoint, "checkpoint")
    runner = launch.build_runner(cfg)
    count = load_all_weights(runner.model, args.checkpoint)
    print(f"{count}/{count} tensors from {args.checkpoint}")
    metrics = runner.test()
    if args.out:
        Path(args.out).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_tool(main)
