"""Release trained weights: FP16 safetensors with a JSON card that states what they reach.

python tools/convert_weights.py CONFIG work_dirs/X/weights.safetensors checkpoints/X.safetensors
"""

import argparse

from prunet_det.errors import UserError, run_tool


def main() -> None:
    from prunet_det.detection import launch
    from prunet_det.detection.release import release

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config that the weights were trained with")
    parser.add_argument("checkpoint", help="trained weights")
    parser.add_argument("out", help="file to write, *.safetensors")
    args = parser.parse_args()
    launch.require_file(args.config, "config file")
    launch.require_file(args.checkpoint, "checkpoint")
    if not args.out.endswith(".safetensors"):
        raise UserError(f"the file to write must end in .safetensors, got {args.out}.")
    card = release(args.config, args.checkpoint, args.out)
    print(f"{args.out}: {card['metrics']}")


if __name__ == "__main__":
    run_tool(main)
