"""Export to ONNX: python tools/export.py prunet_p0 --out prunet_p0.onnx.

The file is written only after ONNX Runtime has reproduced the network's own outputs with it, or the
detector's own detections: --scope e2e goes from pixels to boxes, see docs/export.md.
"""

import argparse
from pathlib import Path
from typing import Any

from _flags import at_least, output_file

from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.package import find_checkpoint

E2E_FLAGS = (
    *("nms", "input_name", "input_type", "output_names", "score_thr", "nms_iou"),
    *("max_per_img", "classes"),
)


def parse_batch(text: str) -> int | None:
    """A number of images, or None for `dynamic`."""
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"--batch must be a positive integer or dynamic, got {text!r}.")
    return int(text)


def parse_flags() -> argparse.Namespace:
    """The command line."""
    from prunet_det.runtime import PRECISIONS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", help="a network of the zoo or of timm, a spec file, or a config")
    add("checkpoint", nargs="?", type=find_checkpoint, help="weights; random ones without it")
    add("--out", required=True, type=output_file, metavar="FILE.onnx")
    add(
        "--scope",
        choices=["classifier", "backbone", "detector", "e2e"],
        help="[a config's detector, a network's backbone]",
    )
    add("--batch", default="1", help="images at once, or dynamic [1]")
    add("--input-size", type=at_least(1), help="pixels [a config's own; 512]")
    add("--precision", choices=list(PRECISIONS), default="fp32")
    add("--opset", type=at_least(1), help="version of ONNX's operators [the exporter's own]")
    add = parser.add_argument_group("--scope e2e, from pixels to boxes").add_argument
    add(
        "--nms",
        choices=["onnx", "efficientnms"],
        help="ONNX's operator, or TensorRT's plugin, which nothing else can run [onnx]",
    )
    add("--score-thr", type=float, help="score that a detection exceeds [the config's]")
    add("--nms-iou", type=float, help="overlap above which the lower score goes [the config's]")
    add("--max-per-img", type=int, help="rows of the outputs [the config's]")
    add("--input-type", choices=["uint8", "float32", "float16"], help="0..255 in all [uint8]")
    add("--input-name", help="[images]")
    add("--output-names", nargs=3, metavar=("BOXES", "SCORES", "LABELS"), help="[as they are]")
    add("--classes", nargs="+", help="class names [as the card or train.json says]")
    return parser.parse_args()


def main() -> None:
    args = parse_flags()
    batch = parse_batch(args.batch)
    if not args.out.endswith(".onnx"):
        raise UserError(f"--out must end in .onnx, got {args.out}.")
    given = [flag for flag in E2E_FLAGS if getattr(args, flag) is not None]
    if args.scope == "e2e":
        return export_detector(args, batch)
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is for --scope e2e.")
    return export_network(args, batch)


def export_network(args: argparse.Namespace, batch: int | None) -> None:
    """A network up to its raw outputs."""
    from prunet_det.latency.subject import load_named
    from prunet_det.runtime.onnx import export_onnx, trtexec_command

    scope = args.scope or ("detector" if args.model.endswith(".py") else "backbone")
    subject = load_named(args.model, scope, args.input_size, args.checkpoint)
    shape = (3, subject.input_size, subject.input_size)
    names = subject.output_names or None
    difference = export_onnx(
        subject.module, args.out, shape, batch, args.precision, names, opset=args.opset
    )
    count = "any batch" if batch is None else f"batch {batch}"
    print(
        f"{args.out}: {subject.name}, {scope}, {args.precision}, {count}, {subject.input_size} px; "
        f"ONNX Runtime differs from eager by a relative L2 error of {difference:.1e}."
    )
    if args.checkpoint is None:
        print("note: no checkpoint was given, so the weights are random.")
    print(f"outputs: {', '.join(subject.output_names) or 'unnamed'}")
    print(f"TensorRT: {trtexec_command(args.out, shape, batch, args.precision)}")


def export_detector(args: argparse.Namespace, batch: int | None) -> None:
    """A detector from pixels to boxes."""
    from prunet_det.detection.end_to_end import Selection
    from prunet_det.detection.export import FileOptions, export_end_to_end
    from prunet_det.detection.letterbox import Letterbox
    from prunet_det.latency.subject import load_named
    from prunet_det.runtime.onnx import trtexec_command
    from prunet_det.utils.io import file_digest, make_folder

    make_folder(Path(args.out).parent)
    subject = load_named(args.model, "e2e", args.input_size, args.checkpoint)
    given = dict(
        input_name=args.input_name,
        input_type=args.input_type,
        output_names=args.output_names and tuple(args.output_names),
    )
    options = FileOptions(
        batch=batch,
        precision=args.precision,
        opset=args.opset,
        plugin=args.nms == "efficientnms",
        **{name: value for name, value in given.items() if value is not None},
    )
    selection = Selection.of_head(
        subject.detector.bbox_head,
        score_thr=args.score_thr,
        nms_iou=args.nms_iou,
        max_per_img=args.max_per_img,
    )
    metadata = {
        "classes": find_classes(subject.detector, args),
        "config": Path(args.model).name,
        "weights": file_digest(args.checkpoint) if args.checkpoint else None,
    }
    letterbox = Letterbox.from_config(subject.detector.cfg, args.input_size)
    checked = export_end_to_end(subject.detector, args.out, letterbox, selection, options, metadata)
    count = "any batch" if batch is None else f"batch {batch}"
    how = "up to the plugin's inputs " if options.plugin else ""
    lower = "" if checked.score_thr == selection.score_thr else ", at a threshold of 0,"
    print(
        f"{args.out}: {subject.name}, e2e, {args.precision}, {count}, {letterbox.size} px; ONNX "
        f"Runtime {how}finds the same {checked.detections} detections{lower} as Python, its raw "
        f"outputs differ by a relative L2 error of {checked.error:.1e}."
    )
    if args.checkpoint is None:
        print("note: no checkpoint was given, so the weights are random.")
    print(f"input: {options.input_name}; outputs: {', '.join(options.output_names)}")
    shape = (3, letterbox.size, letterbox.size)
    command = trtexec_command(args.out, shape, batch, args.precision, options.input_name)
    print(f"TensorRT: {command}")


def find_classes(detector: Any, args: argparse.Namespace) -> list[str]:
    """The class names, in the order of the labels."""
    from prunet_det.inference.load import find_training

    count = detector.bbox_head.num_classes
    names = args.classes or [f"class {i}" for i in range(count)]
    if args.checkpoint:
        names = find_training(args.checkpoint, args.model, args.classes).classes
    if len(names) != count:
        raise UserError(f"the detector has {count} classes, but {len(names)} names were given.")
    return list(names)


if __name__ == "__main__":
    run_tool(main)
