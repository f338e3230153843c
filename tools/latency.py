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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _calibrate import add_calibrate, run_calibrate
from _flags import above_zero, at_least, output_file
from _measure import (
    asked_conditions,
    failed,
    measure_all,
    run_measure,
    torch_device,
    write_records,
)

from prunet_det.utils.errors import InputError, run_tool
from prunet_det.utils.extras import require
from prunet_det.utils.io import text_table

EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(4))


def predict_any(name: str, args: argparse.Namespace) -> Any:
    """A network's prediction as the flags ask for it."""
    from prunet_det.latency.predict import predict_named

    return predict_named(name, args.device, args.batch, args.input_size, args.scope)


def run_predict(args: argparse.Namespace) -> int:
    """Predicted milliseconds, with their band and what they are made of."""
    from prunet_det.latency.device import BYTES, COMPONENTS, load_device
    from prunet_det.latency.kernels import totals
    from prunet_det.latency.plots import draw_breakdown, draw_roofline, roofline
    from prunet_det.latency.record import Failure
    from prunet_det.utils import plots

    device, found = load_device(args.device), predict_all(args, args.model)
    predictions = [p for p in found if not isinstance(p, Failure)]
    if args.json:
        for p in found:
            if isinstance(p, Failure):
                print(json.dumps(p.to_dict()))
                continue
            counts = totals(p.kernels, BYTES[p.latency.conditions.precision])
            print(json.dumps({**p.latency.to_dict(), **counts, "breakdown": p.breakdown}))
    else:
        rows = [
            [
                p.model,
                str(p.input_size or "-"),
                *["-"] * (3 + len(COMPONENTS)),
                f"failed: {p.reason}",
            ]
            if isinstance(p, Failure)
            else [
                p.latency.model,
                str(p.latency.input_size),
                f"{p.latency.ms:.3f}",
                f"{p.latency.low:.3f} to {p.latency.high:.3f}",
                str(len(p.kernels)),
                *(f"{p.breakdown[c]:.3f}" for c in COMPONENTS),
                "",
            ]
            for p in found
        ]
        title = f"predicted for {device.at(args.batch)}, scope {args.scope}, in ms"
        header = ["model", "px", "latency", "between", "kernels", *COMPONENTS, ""]
        print(text_table(title, header, rows))
        for p in predictions:
            for warning in p.warnings:
                print(f"warning: {p.latency.model} is {warning}")
    if args.plots:
        for p in predictions:
            name, size, scope = p.latency.model, p.latency.input_size, p.latency.scope
            how = f"{device.conditions.precision}, batch {args.batch}"
            where = f"{device.title}, {how}, {size} px, {scope}"
            base = Path(args.plots) / f"{name}_{device.name}_{size}"
            parts, shown = {name: p.breakdown}, roofline(p.kernels, device, args.batch)
            title = f"{name}, {where}"
            plots.save(draw_breakdown(parts, title), f"{base}_time.png", [parts, title])
            plots.save(draw_roofline(shown, title), f"{base}_roofline.png", [shown, title])
    return int(len(predictions) < len(found))


def predict_all(args: argparse.Namespace, names: Sequence[str]) -> list[Any]:
    """Predictions, or rows that say why there is none."""
    from prunet_det.latency.device import load_device
    from prunet_det.latency.measure import failure
    from prunet_det.runtime.subject import check_names

    check_names(names)
    conditions, found = load_device(args.device).at(args.batch), []
    for name in names:
        try:
            found.append(predict_any(name, args))
        except InputError as e:
            found.append(
                failure(e, name, conditions, args.scope, args.input_size, kind="predicted")
            )
    return found


def run_compare(args: argparse.Namespace) -> int:
    """Published, predicted and measured classifiers side by side, at their own resolution."""
    from prunet_det.latency.calibrate import published_devices, published_points
    from prunet_det.latency.measure import local_device
    from prunet_det.latency.record import Failure
    from prunet_det.zoo.models import model_names

    points = published_points(args.device) if args.device in published_devices() else []
    published = {p.network: p for p in points if p.batch == args.batch}
    names = args.model or [*model_names(), *EFFICIENTNETS]
    predicted = [getattr(p, "latency", p) for p in predict_all(args, names)]
    measured = [] if args.no_measure else measure_all(args, names, local_device())
    owns = [getattr(m, "latency", m) for m in measured] or [None] * len(names)
    rows, records = [], []
    for latency, own in zip(predicted, owns, strict=True):
        point, failures = published.get(latency.model), []
        cells = [latency.model, str(latency.input_size or "-")]
        if point is not None and point.input_size != latency.input_size:
            point = None
        if point:
            figures = dict.fromkeys(("ms", "low", "high"), point.ms)
            records.append(replace(latency, kind="published", note="", **figures).to_dict())
        records += [{"failed": "", **r.to_dict()} for r in (latency, own) if r is not None]
        cells.append(f"{point.ms:.2f}" if point else "-")
        if isinstance(latency, Failure):
            failures.append(latency.reason)
            cells += ["-", "-", ""]
        else:
            between = f"{latency.low:.2f} to {latency.high:.2f}"
            error = f"{latency.ms / point.ms - 1:+.1%}" if point else ""
            cells += [f"{latency.ms:.2f}", between, error]
        if isinstance(own, Failure):
            failures.append(own.reason)
        known = own is not None and not isinstance(own, Failure)
        cells.append(f"{own.ms:.2f}{' (unstable)' if own.note else ''}" if known else "-")
        rows.append([*cells, f"failed: {' '.join(failures)}" if failures else ""])
    if args.json:
        for record in records:
            print(json.dumps(record))
        return int(any(record.get("failed") for record in records))
    header = ["model", "px", "published", "predicted", "between", "error", "measured here", ""]
    print(text_table(f"{args.device}, FP16, batch {args.batch}, classifier, in ms", header, rows))
    if measured:
        print(f"measured here: {asked_conditions(args, local_device())}")
    return int(any(record.get("failed") for record in records))


def run_table(args: argparse.Namespace) -> int:
    """A table of blocks, predicted for a named device or measured here; resumes."""
    from prunet_det.latency.block_timer import BlockTimer, measure_table
    from prunet_det.latency.device import device_names
    from prunet_det.latency.table import Table, network_blocks, predict_table, variants
    from prunet_det.zoo.models import resolve_spec

    require("scipy.optimize", "det")  # by which a table is added up: missed now, not after minutes
    size = args.input_size or 512
    specs = [resolve_spec(name) for name in args.model]
    keys = [key for spec in specs for key in network_blocks(spec, size)]
    if args.variants:
        keys = variants(keys, args.variants)
    failures: dict[Any, str] = {}
    if args.device in device_names() or args.device.endswith(".json"):
        if Path(args.out).exists():
            Table.load(args.out, force=True)  # something else is not overwritten
        table = predict_table(keys, args.device, args.batch)
        table.save(args.out)
    else:
        device = torch_device(args.device)
        timer = BlockTimer(asked_conditions(args, device), device, args.seconds)
        table = measure_table(keys, args.out, timer, not args.json, failures)
    rows = [
        {"block": block.to_dict(), "size": size, "failed": why}
        for (block, size), why in failures.items()
    ]
    if args.json:
        about = {"conditions": table.title, "blocks": len(table.entries)}
        print(json.dumps({**about, **({"failed": rows} if rows else {})}))
        return int(bool(rows))
    print(f"{len(table.entries)} blocks, {table.title}: {args.out}")
    for (block, at), why in failures.items():
        print(f"failed: {block.kind} {block.in_chs}->{block.out_chs} at {at}: {why}")
    for spec in specs:
        lacking = [key for key in network_blocks(spec, size) if key not in table.entries]
        ms = (
            f"{len(lacking)} blocks failed" if lacking else f"{table.network_ms(spec, size):.3f} ms"
        )
        print(f"{spec.name} at {size} px, scope backbone: {ms}")
    return int(bool(rows))


def run_check(args: argparse.Namespace) -> int:
    """Random networks of a table's blocks, measured whole beside the sums of their blocks."""
    from prunet_det.latency import load_device
    from prunet_det.latency.check import check_table, random_networks, summaries
    from prunet_det.latency.measure import find_device
    from prunet_det.latency.table import Table, TableError
    from prunet_det.utils.env import device_title

    table = Table.load(args.table, force=args.force)
    fitted = load_device(args.fitted) if args.fitted else None
    own = find_device(table.conditions) if args.device == "here" else None
    device = own or torch_device(args.device)
    title = device_title(device)
    if table.kind == "measured" and title != table.conditions.device and not args.force:
        raise TableError(
            f"{args.table} was measured on {table.conditions.device}, {args.device} is {title}; "
            "give the table's device, or pass --force."
        )
    checks = check_table(
        table,
        random_networks(table, args.networks, args.seed),
        device=device,
        fitted=fitted,
        seconds=args.seconds,
        progress="" if args.json else "timing",
    )
    records = [c.to_dict() for c in checks]
    write_records(args.out, records)
    kinds = {"table": "table_ms", **({"fitted model": "model_ms"} if fitted else {})}
    sums = summaries(checks)
    if args.json:
        for record in records:
            print(json.dumps(record))
        figures = ("mean", "worst", "bias", "kendall_tau")
        print(json.dumps({kind: {k: getattr(e, k) for k in figures} for kind, e in sums.items()}))
        return failed(records)
    rows = []
    for r in records:
        cells = [f"failed: {r['failed']}", *(f"{r[key]:.3f}" for key in kinds.values())]
        if not r["failed"]:
            whole = r["latency_ms"]
            parts = [f"{r[key]:.3f} ({r[key] / whole - 1:+.1%})" for key in kinds.values()]
            cells = [f"{whole:.3f}", *parts]
        rows.append([r["model"], str(r["blocks"]), *cells])
    print(text_table(table.title, ["network", "blocks", "measured ms", *kinds], rows))
    for kind, e in sums.items():
        print(
            f"{kind}: mean error {e.mean:.1%}, worst {e.worst:.1%}, bias {e.bias:+.1%}, "
            f"Kendall's tau {e.kendall_tau:.3f}"
        )
    return failed(records)


def build_parser() -> argparse.ArgumentParser:
    from prunet_det.latency.device import device_names
    from prunet_det.runtime import PRECISIONS, RUNTIMES
    from prunet_det.runtime.subject import Scope

    scopes = [scope.value for scope in Scope]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function: Any, device: str | None, what: str) -> argparse.ArgumentParser:
        name = function.__name__.removeprefix("run_")
        made = verbs.add_parser(name, help=function.__doc__, description=function.__doc__)
        made.set_defaults(run=function)
        made.add_argument("--device", default=device, help=f"{what} [{device}]" if device else what)
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
            "--seconds",
            type=above_zero,
            default=seconds,
            help=f"to spend on each at most [{seconds}]",
        )

    known = f"{', '.join(device_names())} or a device file"
    predict = verb(run_predict, "v100", known)
    networks(predict)
    predict.add_argument("--scope", choices=scopes[:3], default="backbone")
    predict.add_argument("--plots", metavar="DIR", help="draw time and roofline here")

    measure = verb(run_measure, "here", "here, cpu or cuda")
    networks(measure)
    running(measure, 3.0)
    measure.add_argument("--scope", choices=scopes, default="backbone")
    measure.add_argument("--checkpoint", help="weights, for all models")
    measure.add_argument(
        "--beside-mmdet",
        action="store_true",
        help="also time mmdet.apis.inference_detector on each detector (scope e2e)",
    )
    measure.add_argument("--picture", metavar="IMAGE", help="what detectors look at [noise]")
    measure.add_argument(
        "--out", type=output_file, metavar="FILE.csv", help="also write the figures here"
    )

    compare = verb(run_compare, "v100", known)
    networks(compare, required=False)
    running(compare, 1.0)
    compare.add_argument("--no-measure", action="store_true", help="leave this machine out")
    compare.set_defaults(scope="classifier")

    table = verb(run_table, "here", f"here, cpu or cuda; or {known}")
    networks(table)
    running(table, 0.15)
    table.add_argument(
        "--variants",
        type=at_least(0),
        default=0,
        help="also other kinds, kernels and so many widths [0]",
    )
    table.add_argument(
        "--out",
        type=output_file,
        metavar="FILE.json",
        required=True,
        help="an existing one resumes",
    )

    check = verb(run_check, "here", "here (the table's own), cpu or cuda")
    check.add_argument("table", help="a table that was measured here")
    check.add_argument("--networks", type=at_least(2), default=20, help="how many [20]")
    check.add_argument("--seed", type=at_least(0), default=0, help="of the random networks [0]")
    check.add_argument("--fitted", metavar="FILE.json", help="check this device file as well")
    check.add_argument("--force", action="store_true", help="also a table of another device")
    check.add_argument("--seconds", type=above_zero, default=2.0, help="at most, on each [2.0]")
    check.add_argument(
        "--out", type=output_file, metavar="FILE.csv", help="also write the figures here"
    )

    whose = "whose constants [v100]; with --from, whose peaks [this machine's, measured]"
    calibrate = verb(run_calibrate, None, whose)
    add_calibrate(calibrate)
    return parser


def main() -> int | None:
    args = build_parser().parse_args()
    return args.run(args)


if __name__ == "__main__":
    run_tool(main)
