"""Evaluate a detector or a classifier: python tools/test.py CONFIG weights.safetensors."""

import argparse

from _flags import add_config_flags, load_config, output_file

from prunet_det.utils.errors import run_tool
from prunet_det.utils.io import write_json
from prunet_det.utils.package import find_checkpoint
from prunet_det.zoo.weights import read_state_dict


def main() -> None:
    from mmengine.dist import is_main_process

    from prunet_det.training import evaluate, launch

    parser = argparse.ArgumentParser(description=__doc__)
    add_config_flags(parser)
    parser.add_argument(
        "checkpoint", type=find_checkpoint, help="weights: *.safetensors, or tensors saved by torch"
    )
    parser.add_argument(
        "--out", type=output_file, help="write a record with the metrics to this JSON file"
    )
    args = parser.parse_args()
    cfg = load_config(args)
    read_state_dict(args.checkpoint)  # refused now, not once the data are read
    classes = evaluate.read_classes(args.checkpoint)
    runner = launch.build_evaluation_runner(cfg, classes)
    record = evaluate.evaluate(runner, cfg, args.config, args.checkpoint)
    if args.out and is_main_process():
        write_json(args.out, record)


if __name__ == "__main__":
    run_tool(main)
