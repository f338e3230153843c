"""Release trained weights: FP16 safetensors with a JSON card that states what they reach.

    python tools/convert_weights.py CONFIG weights.safetensors checkpoints/NAME.safetensors \\
        --command "the training command"
"""

import argparse

from prunet_det.errors import UserError, run_tool


def main() -> None:
    from prunet_det.detection import launch
    from prunet_det.detection.release import git_commit, release

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config that the weights were trained with")
    parser.add_argument("checkpoint", help="trained weights")
    parser.add_argument("out", help="file to write, *.safetensors")
    parser.add_argument("--command", required=True, help="the training command, for the card")
    parser.add_argument("--commit", help="the commit that it ran on [the checkout's]")
    args = parser.parse_args()
    launch.require_file(args.config, "config file")
    launch.require_file(args.checkpoint, "checkpoint")
    if not args.out.endswith(".safetensors"):
        raise UserError(f"the file to write must end in .safetensors, got {args.out}.")
    commit = args.commit or git_commit()
    card = release(args.config, args.checkpoint, args.out, args.command, commit)
    print(f"{args.out}: {card['metrics']}")


if __name__ == "__main__":
    run_tool(main)
