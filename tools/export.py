"""Export to ONNX: python tools/export.py prunet_p0 --out prunet_p0.onnx.

The file is written only after ONNX Runtime has reproduced the network's own outputs with it.
"""

import argparse

from _flags import at_least

from prunet_det.utils.errors import UserError, run_tool


def parse_batch(text: str) -> int | None:
    """A number of images, or None for `dynamic`."""
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"--batch must be a positive integer or dynamic, got {text!r}.")
    return int(text)


def main() -> None:
    from prunet_det.runtime import PRECISIONS
    from prunet_det.runtime.onnx import export_onnx, trtexec_command
    from prunet_det.runtime.subject import load_subject

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a network of the zoo or of timm, a spec file, or a config")
    parser.add_argument("checkpoint", nargs="?", help="weights; random ones without it")
    parser.add_argument("--out", required=True, metavar="FILE.onnx")
    parser.add_argument(
        "--scope",
        choices=["classifier", "backbone", "detector"],
        help="[a config's detector, a network's backbone]",
    )
    parser.add_argument("--batch", default="1", help="images at once, or dynamic [1]")
    parser.add_argument("--input-size", type=at_least(1), help="pixels [a config's own; 512]")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    args = parser.parse_args()
    batch = parse_batch(args.batch)
    if not args.out.endswith(".onnx"):
        raise UserError(f"--out must end in .onnx, got {args.out}.")
    scope = args.scope or ("detector" if args.model.endswith(".py") else "backbone")
    subject = load_subject(args.model, scope, args.input_size, args.checkpoint)
    shape = (3, subject.input_size, subject.input_size)
    names = subject.output_names or None
    difference = export_onnx(subject.module, args.out, shape, batch, args.precision, names)
    count = "any batch" if batch is None else f"batch {batch}"
    print(
        f"{args.out}: {subject.name}, {scope}, {args.precision}, {count}, {subject.input_size} px; "
        f"ONNX Runtime differs from eager by a relative L2 error of {difference:.1e}."
    )
    if args.checkpoint is None:
        print("note: no checkpoint was given, so the weights are random.")
    print(f"outputs: {', '.join(subject.output_names) or 'unnamed'}")
    print(f"TensorRT: {trtexec_command(args.out, shape, batch, args.precision)}")


if __name__ == "__main__":
    run_tool(main)
