"""Latency of networks: predict, compare with published figures, calibrate a device.

python tools/latency.py predict --model prunet_p0 --device v100 --input-size 512
python tools/latency.py compare --device v100
python tools/latency.py calibrate --device v100
"""

import argparse
import json
from pathlib import Path
from typing import Any

from prunet_det.errors import run_tool

EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(4))
CONDITIONS = ("device", "runtime", "precision", "batch", "input_size", "scope", "kind")


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A readable table, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    columns = zip(header, *rows, strict=True)
    width = 4 + sum(max(map(len, column)) + 3 for column in columns)
    Console(width=max(80, width)).print(table)


def timm_module(name: str, scope: str) -> tuple[Any, int]:
    """A timm network as `scope` has it, without weights, and its own resolution."""
    import timm
    import torch

    with torch.device("meta"):
        full = timm.create_model(name)
        size = full.pretrained_cfg["input_size"][-1]
        if scope == "backbone":
            full = timm.create_model(name, features_only=True, feature_cls="getter")
    return full, size


def predict_any(name: str, args: argparse.Namespace) -> Any:
    """A network of the zoo or of a spec file by formula, any other of timm's by tracing."""
    import timm

    from prunet_det.latency import predict, predict_module
    from prunet_det.zoo.registry import ALIASES, model_names

    ours = name.endswith(".json") or name in (*model_names(), *ALIASES)
    if ours or not timm.is_model(name):
        return predict(name, args.device, args.batch, args.input_size, args.scope)
    module, size = timm_module(name, args.scope)
    if args.input_size is None:
        args_size = size if args.scope == "classifier" else 512
    else:
        args_size = args.input_size
    return predict_module(module, name, args.device, args.batch, args_size, args.scope)


def run_predict(args: argparse.Namespace) -> None:
    """Predicted milliseconds, with their band and what they are made of."""
    from prunet_det.latency.plots import plot_breakdown, plot_roofline
    from prunet_det.latency.roofline import COMPONENTS, load_device

    predictions = [predict_any(name, args) for name in args.model]
    if args.json:
        for p in predictions:
            record = {**p.latency.to_dict(), "kernels": len(p.kernels), "breakdown": p.breakdown}
            print(json.dumps(record))
    else:
        rows = [
            [
                p.latency.model,
                str(p.latency.input_size),
                f"{p.latency.latency_ms:.3f}",
                f"{p.latency.low_ms:.3f} to {p.latency.high_ms:.3f}",
                str(len(p.kernels)),
                *(f"{p.breakdown[c]:.3f}" for c in COMPONENTS),
            ]
            for p in predictions
        ]
        one = predictions[0].latency
        title = (
            f"predicted for {one.device}, {one.runtime} {one.precision}, batch {one.batch}, "
            f"scope {one.scope}, in ms"
        )
        header = ["model", "px", "latency", "between", "kernels", *COMPONENTS]
        print_table(title, header, rows)
        for p in predictions:
            for warning in p.warnings:
                print(f"warning: {p.latency.model} is {warning}")
    if args.plots:
        device = load_device(args.device)
        for p in predictions:
            name, size, scope = p.latency.model, p.latency.input_size, p.latency.scope
            title = f"{name}, {device.title}, FP16, batch {args.batch}, {size} px, {scope}"
            base = Path(args.plots) / f"{name}_{device.name}_{size}"
            plot_breakdown({name: p.breakdown}, title, f"{base}_time.png")
            plot_roofline(p.kernels, device, args.batch, title, f"{base}_roofline.png")


def run_compare(args: argparse.Namespace) -> None:
    """Published and predicted classifiers side by side, at their own resolution."""
    from prunet_det.latency.calibrate import published_points
    from prunet_det.zoo.registry import model_names

    published = {p.network: p for p in published_points(args.device) if p.batch == args.batch}
    rows = []
    for name in (*(args.model or (*model_names(), *EFFICIENTNETS)),):
        latency = predict_any(name, args).latency
        point = published.get(name)
        known = point is not None and point.input_size == latency.input_size
        if args.json:
            record = {**latency.to_dict(), "published_ms": point.ms if known else None}
            print(json.dumps(record))
        error = f"{latency.latency_ms / point.ms - 1:+.1%}" if known else ""
        between = f"{latency.low_ms:.2f} to {latency.high_ms:.2f}"
        shown = f"{point.ms:.2f}" if known else "-"
        size = str(latency.input_size)
        rows.append([name, size, shown, f"{latency.latency_ms:.2f}", between, error])
    if not args.json:
        title = f"{args.device}, FP16, batch {args.batch}, scope classifier, in ms"
        print_table(title, ["model", "px", "published", "predicted", "between", "error"], rows)


def run_calibrate(args: argparse.Namespace) -> None:
    """Refits a device to the published figures and prints the errors."""
    from prunet_det.files import atomic_path
    from prunet_det.latency import calibrate as c
    from prunet_det.latency.roofline import DEVICE_DIR, FITTED, load_device

    points = c.published_points(args.device)
    old = load_device(args.device)
    device = c.calibrate(old, points, old.provenance.get("source", str(c.PUBLISHED.name)))
    inside, left_out = c.errors(device, points), c.leave_one_out(device, points)
    if args.json:
        print(device.to_json().replace("\n", ""))
    else:
        rows = []
        for name, errors in left_out.items():
            own = c.errors(device, [p for p in points if p.network == name])
            rows.append(
                [
                    name + (" (its family)" if name in c.FAMILIES_OF_ONE else ""),
                    *(f"{v:.1%}" for v in (own.mean, own.worst, errors.mean, errors.worst)),
                    f"{errors.kendall_tau:.2f}",
                ]
            )
        header = ["network", "mean", "worst", "left out: mean", "worst", "tau over batches"]
        print_table(f"{device.title}: errors of {len(points)} published points", header, rows)
        batches = sorted({p.batch for p in points})
        rows = []
        for batch in batches:
            at = c.errors(device, [p for p in points if p.batch == batch])
            rows.append([str(batch), f"{at.mean:.1%}", f"{at.worst:.1%}", f"{at.kendall_tau:.2f}"])
        rows.append(
            ["all", f"{inside.mean:.1%}", f"{inside.worst:.1%}", f"{inside.kendall_tau:.2f}"]
        )
        print_table("in-sample, by batch", ["batch", "mean", "worst", "tau"], rows)
        print_table("constants", list(FITTED), [[f"{getattr(device, k):.4g}" for k in FITTED]])
    if args.write:
        with atomic_path(DEVICE_DIR / f"{device.name}.json") as temporary:
            temporary.write_text(device.to_json(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="predict|compare|calibrate")
    for function in (run_predict, run_compare, run_calibrate):
        name = function.__name__.removeprefix("run_")
        verb = verbs.add_parser(name, help=function.__doc__)
        verb.set_defaults(run=function)
        verb.add_argument("--device", default="v100", help="a name, or a device file [v100]")
        verb.add_argument("--json", action="store_true", help="one JSON object per line")
        if name == "calibrate":
            verb.add_argument("--write", action="store_true", help="keep the constants")
            continue
        verb.add_argument(
            "--model",
            action="append",
            required=name == "predict",
            help="a network of the zoo or of timm, or a spec file; may be repeated",
        )
        verb.add_argument("--batch", type=int, default=1, help="images at once [1]")
        verb.add_argument("--input-size", type=int, help="pixels [512; a classifier's own]")
        if name == "predict":
            verb.add_argument("--scope", choices=["backbone", "classifier"], default="backbone")
            verb.add_argument("--plots", metavar="DIR", help="draw time and roofline here")
        else:
            verb.set_defaults(scope="classifier")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    run_tool(main)
