"""Latency: predict it for a named device, measure it here, compare, tabulate, calibrate.

python tools/latency.py predict --model prunet_p0 --device v100 --input-size 512
python tools/latency.py measure --model prunet_p0 --model efficientnet_b0 --threads 1
python tools/latency.py compare --device v100
python tools/latency.py table --model prunet_p0 --variants 4 --device here --out table.json
python tools/latency.py check table.json
python tools/latency.py calibrate --from table.json --out my_machine.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _calibrate import add_calibrate, run_calibrate
from _flags import above_zero, at_least

from prunet_det.utils.errors import run_tool
from prunet_det.utils.io import text_table

EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(4))


def write_records(path: str, records: Sequence[dict[str, Any]]) -> None:
    """A CSV file that knows this command and this machine."""
    from prunet_det.utils.io import write_csv

    write_csv(path, records, " ".join(["python", *sys.argv]))
    print(f"written: {path}", file=sys.stderr)


def torch_device(name: str) -> str:
    """A torch device from `here`, `cpu`, `cuda` or `cuda:1`."""
    from prunet_det.latency.measure import local_device
    from prunet_det.utils.env import check_device

    return local_device() if name == "here" else check_device(name)


def asked_conditions(args: argparse.Namespace, device: str) -> Any:
    """Conditions that were asked for, with the device's usual runtime and precision."""
    from prunet_det.latency.measure import local_conditions

    return local_conditions(device, args.runtime, args.precision, args.batch, args.threads)


def predict_any(name: str, args: argparse.Namespace) -> Any:
    """Our own networks by formula; timm's and whole detectors by tracing."""
    import torch

    from prunet_det.latency import predict, predict_module
    from prunet_det.runtime.subject import is_ours, load_subject, timm_network

    if name.endswith(".py"):
        subject = load_subject(name, args.scope, args.input_size, settle=False)
        size = subject.input_size
        return predict_module(
            subject.module, subject.name, args.device, args.batch, size, args.scope
        )
    if is_ours(name):
        return predict(name, args.device, args.batch, args.input_size, args.scope)
    with torch.device("meta"):
        module, own = timm_network(name, args.scope)
    size = own if args.input_size is None else args.input_size
    return predict_module(module, name, args.device, args.batch, size, args.scope)


def run_predict(args: argparse.Namespace) -> None:
    """Predicted milliseconds, with their band and what they are made of."""
    from prunet_det.latency.device import BYTES, COMPONENTS, load_device
    from prunet_det.latency.kernels import totals
    from prunet_det.latency.plots import draw_breakdown, draw_roofline, roofline
    from prunet_det.utils import plots

    predictions = [predict_any(name, args) for name in args.model]
    if args.json:
        for p in predictions:
            counts = totals(p.kernels, BYTES[p.latency.conditions.precision])
            print(json.dumps({**p.latency.to_dict(), **counts, "breakdown": p.breakdown}))
    else:
        rows = [
            [
                p.latency.model,
                str(p.latency.input_size),
                f"{p.latency.ms:.3f}",
                f"{p.latency.low:.3f} to {p.latency.high:.3f}",
                str(len(p.kernels)),
                *(f"{p.breakdown[c]:.3f}" for c in COMPONENTS),
            ]
            for p in predictions
        ]
        one = predictions[0].latency
        title = f"predicted for {one.conditions}, scope {one.scope}, in ms"
        header = ["model", "px", "latency", "between", "kernels", *COMPONENTS]
        print(text_table(title, header, rows))
        for p in predictions:
            for warning in p.warnings:
                print(f"warning: {p.latency.model} is {warning}")
    if args.plots:
        device = load_device(args.device)
        for p in predictions:
            name, size, scope = p.latency.model, p.latency.input_size, p.latency.scope
            how = f"{device.conditions.precision}, batch {args.batch}"
            where = f"{device.title}, {how}, {size} px, {scope}"
            base = Path(args.plots) / f"{name}_{device.name}_{size}"
            parts, shown = {name: p.breakdown}, roofline(p.kernels, device, args.batch)
            title = f"{name}, {where}"
            plots.save(draw_breakdown(parts, title), f"{base}_time.png", [parts, title])
            plots.save(draw_roofline(shown, title), f"{base}_roofline.png", [shown, title])


def measure_all(args: argparse.Namespace, names: Sequence[str], device: str) -> Sequence[Any]:
    """The networks, timed interleaved on a torch device of this machine."""
    from prunet_det.latency.measure import measure
    from prunet_det.runtime.subject import load_subject

    checkpoint = getattr(args, "checkpoint", None)
    subjects = [load_subject(name, args.scope, args.input_size, checkpoint) for name in names]
    return measure(
        subjects,
        asked_conditions(args, device),
        device=device,
        seconds=args.seconds,
        progress="" if args.json else "timing",
    )


def run_measure(args: argparse.Namespace) -> None:
    """Milliseconds on this machine, all models interleaved in one run."""
    found = measure_all(args, args.model, torch_device(args.device))
    if args.json:
        for m in found:
            print(json.dumps(m.to_dict()))
    else:
        one = found[0].latency
        title = f"measured on {one.conditions}, scope {one.scope}, in ms"
        percentiles = ["median", "p10", "p90", "p99"]
        header = ["model", "px", *percentiles, "spread", "images/s", "MB", "difference", "verdict"]
        rows = [
            [
                m.latency.model,
                str(m.latency.input_size),
                *(f"{m.timing.percentile(q):.3f}" for q in (50, 10, 90, 99)),
                f"{m.timing.spread:.1%}",
                f"{m.to_dict()['images_per_s']:.1f}",
                "-" if m.timing.peak_memory_mb is None else f"{m.timing.peak_memory_mb:.0f}",
                f"{m.difference:.0e}",
                m.latency.note or "stable",
            ]
            for m in found
        ]
        print(text_table(title, header, rows))
    if args.out:
        write_records(args.out, [m.to_dict() for m in found])


def run_compare(args: argparse.Namespace) -> None:
    """Published, predicted and measured classifiers side by side, at their own resolution."""
    from prunet_det.latency.calibrate import published_points
    from prunet_det.latency.measure import local_device
    from prunet_det.zoo.models import model_names

    published = {p.network: p for p in published_points(args.device) if p.batch == args.batch}
    names = args.model or [*model_names(), *EFFICIENTNETS]
    predicted = [predict_any(name, args).latency for name in names]
    measured: Sequence[Any] = []
    if not args.no_measure:
        measured = [m.latency for m in measure_all(args, names, local_device())]
    rows = []
    for i, latency in enumerate(predicted):
        point = published.get(latency.model)
        if point is not None and point.input_size != latency.input_size:
            point = None
        own = measured[i] if measured else None
        if args.json:
            published_row = []
            if point:
                figures = dict.fromkeys(("ms", "low", "high"), point.ms)
                published_row = [replace(latency, kind="published", note="", **figures)]
            for record in [*published_row, latency, *([own] if own else [])]:
                print(json.dumps(record.to_dict()))
        rows.append(
            [
                latency.model,
                str(latency.input_size),
                f"{point.ms:.2f}" if point else "-",
                f"{latency.ms:.2f}",
                f"{latency.low:.2f} to {latency.high:.2f}",
                f"{latency.ms / point.ms - 1:+.1%}" if point else "",
                f"{own.ms:.2f}{' (unstable)' if own.note else ''}" if own else "-",
            ]
        )
    if args.json:
        return
    header = ["model", "px", "published", "predicted", "between", "error", "measured here"]
    print(text_table(f"{args.device}, FP16, batch {args.batch}, classifier, in ms", header, rows))
    if measured:
        print(f"measured here: {measured[0].conditions}")


def run_table(args: argparse.Namespace) -> None:
    """A table of blocks, predicted for a named device or measured here; resumes."""
    from prunet_det.latency.device import device_names
    from prunet_det.latency.measure import BlockTimer, measure_table
    from prunet_det.latency.table import network_blocks, predict_table, variants
    from prunet_det.zoo.models import resolve_spec

    size = args.input_size or 512
    specs = [resolve_spec(name) for name in args.model]
    keys = [key for spec in specs for key in network_blocks(spec, size)]
    if args.variants:
        keys = variants(keys, args.variants)
    if args.device in device_names() or args.device.endswith(".json"):
        table = predict_table(keys, args.device, args.batch)
        table.save(args.out)
    else:
        device = torch_device(args.device)
        timer = BlockTimer(asked_conditions(args, device), device, args.seconds)
        table = measure_table(keys, args.out, timer, progress=not args.json)
    if args.json:
        print(json.dumps({"conditions": table.title, "blocks": len(table.entries)}))
        return
    print(f"{len(table.entries)} blocks, {table.title}: {args.out}")
    for spec in specs:
        print(f"{spec.name} at {size} px, scope backbone: {table.network_ms(spec, size):.3f} ms")


def run_check(args: argparse.Namespace) -> None:
    """Random networks of a table's blocks, measured whole beside the sums of their blocks."""
    from prunet_det.latency import load_device
    from prunet_det.latency.check import check_table, random_networks, summarize
    from prunet_det.latency.table import Table

    table = Table.load(args.table, force=args.force)
    fitted = load_device(args.fitted) if args.fitted else None
    device = torch_device(args.device)
    checks = check_table(
        table,
        random_networks(table, args.networks, args.seed),
        device=device,
        fitted=fitted,
        seconds=args.seconds,
        progress="" if args.json else "timing",
    )
    records = [
        {
            **c.measured.latency.to_dict(),
            "blocks": len(c.spec.blocks),
            "table_ms": c.table_ms,
            "model_ms": c.model_ms,
        }
        for c in checks
    ]
    measured = [r["latency_ms"] for r in records]
    kinds = {"table": "table_ms", **({"fitted model": "model_ms"} if fitted else {})}
    sums = {kind: summarize(measured, [r[key] for r in records]) for kind, key in kinds.items()}
    if args.json:
        for record in records:
            print(json.dumps(record))
        print(json.dumps(sums))
    else:
        rows = [
            [r["model"], str(r["blocks"]), f"{r['latency_ms']:.3f}"]
            + [f"{r[key]:.3f} ({r[key] / r['latency_ms'] - 1:+.1%})" for key in kinds.values()]
            for r in records
        ]
        print(text_table(table.title, ["network", "blocks", "measured ms", *kinds], rows))
        for kind, s in sums.items():
            print(
                f"{kind}: mean error {s['mean_error']:.1%}, worst {s['worst_error']:.1%}, bias "
                f"{s['bias']:+.1%}, Kendall's tau {s['kendall_tau']:.3f}"
            )
    if args.out:
        write_records(args.out, records)


def build_parser() -> argparse.ArgumentParser:
    from prunet_det.runtime import PRECISIONS, RUNTIMES
    from prunet_det.runtime.subject import Scope

    scopes = [scope.value for scope in Scope]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function: Any, device: str, what: str) -> argparse.ArgumentParser:
        name = function.__name__.removeprefix("run_")
        made = verbs.add_parser(name, help=function.__doc__, description=function.__doc__)
        made.set_defaults(run=function)
        made.add_argument("--device", default=device, help=f"{what} [{device}]")
        made.add_argument("--json", action="store_true", help="one JSON object per line")
        return made

    def networks(made: argparse.ArgumentParser, required: bool = True) -> None:
        made.add_argument(
            "--model",
            action="append",
            required=required,
            help="a network of the zoo or of timm, a spec file, or a detector's config; repeatable",
        )
        made.add_argument("--batch", type=at_least(1), default=1, help="images at once [1]")
        made.add_argument("--input-size", type=at_least(1), help="pixels [512; a classifier's own]")

    def running(made: argparse.ArgumentParser, seconds: float) -> None:
        made.add_argument("--runtime", choices=list(RUNTIMES), help="[the device's usual one]")
        made.add_argument("--precision", choices=list(PRECISIONS), help="[the device's usual one]")
        made.add_argument("--threads", type=at_least(1), help="of a CPU [all]")
        made.add_argument(
            "--seconds", type=above_zero, default=seconds, help=f"to spend on each [{seconds}]"
        )

    known = "v100, a100 or a device file"
    predict = verb(run_predict, "v100", known)
    networks(predict)
    predict.add_argument("--scope", choices=scopes[:3], default="backbone")
    predict.add_argument("--plots", metavar="DIR", help="draw time and roofline here")

    measure = verb(run_measure, "here", "here, cpu or cuda")
    networks(measure)
    running(measure, 3.0)
    measure.add_argument("--scope", choices=scopes, default="backbone")
    measure.add_argument("--checkpoint", help="weights, for all models")
    measure.add_argument("--out", metavar="FILE.csv", help="also write the figures here")

    compare = verb(run_compare, "v100", "v100 or a100")
    networks(compare, required=False)
    running(compare, 1.0)
    compare.add_argument("--no-measure", action="store_true", help="leave this machine out")
    compare.set_defaults(scope="classifier")

    table = verb(run_table, "here", f"here, cpu or cuda; or {known}")
    networks(table)
    running(table, 0.3)
    table.add_argument(
        "--variants",
        type=at_least(0),
        default=0,
        help="also other kinds, kernels and so many widths [0]",
    )
    table.add_argument("--out", metavar="FILE.json", required=True, help="an existing one resumes")

    check = verb(run_check, "here", "here, cpu or cuda")
    check.add_argument("table", help="measured here")
    check.add_argument("--networks", type=at_least(2), default=20, help="how many [20]")
    check.add_argument("--seed", type=at_least(0), default=0, help="of the random networks [0]")
    check.add_argument("--fitted", metavar="FILE.json", help="check this device file as well")
    check.add_argument("--force", action="store_true", help="also a table of another device")
    check.add_argument("--seconds", type=above_zero, default=2.0, help="to spend on each [2.0]")
    check.add_argument("--out", metavar="FILE.csv", help="also write the figures here")

    calibrate = verb(run_calibrate, "v100", "v100 or a100, to its published figures")
    add_calibrate(calibrate)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    args.run(args)


if __name__ == "__main__":
    run_tool(main)
