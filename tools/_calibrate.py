"""The verb `calibrate` of tools/latency.py: fits to published figures, or to a table."""

import argparse
from typing import Any

import _flags  # noqa: F401 (Ctrl-C may come while the next line imports)
from _flags import output_file

from prunet_det.utils.errors import UserError
from prunet_det.utils.io import text_table


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """Its flags beside those of every verb."""
    add = parser.add_argument
    add("--write", action="store_true", help="keep the package's constants")
    add("--from", dest="source", metavar="TABLE.json", help="fit to this table")
    add("--networks", metavar="FILE.csv", help="judge the fit to a table on these, measured whole")
    add("--out", type=output_file, metavar="FILE.json", help="device file of a fit to a table")


def run_calibrate(args: argparse.Namespace) -> None:
    """Fits the analytic model to published figures, or to a table of this or a named device."""
    if args.networks and not args.source:
        raise UserError("--networks judges a fit to a table: name that with --from TABLE.json.")
    if args.source:
        calibrate_to_table(args)
    else:
        calibrate_to_published(args)


def calibrate_to_table(args: argparse.Namespace) -> None:
    from prunet_det.latency.calibrate import calibrate_to_table as fit
    from prunet_det.latency.calibrate import judge
    from prunet_det.latency.device import load_device
    from prunet_det.latency.measure import require_device
    from prunet_det.latency.peaks import measure_peaks
    from prunet_det.latency.record import read_latencies
    from prunet_det.latency.table import Table
    from prunet_det.utils.io import read_csv

    if not (args.out or args.device):  # a named device may be compared alone
        raise UserError("say with --out FILE.json where the device file goes.")
    table = Table.load(args.source, force=bool(args.device))
    if args.device:
        peaks = load_device(args.device)
    else:
        peaks = measure_peaks(table.conditions, require_device(table.conditions))
    networks = read_latencies(read_csv(args.networks)[1]) if args.networks else []
    device = fit(peaks, table, args.source, networks)
    if not args.json:
        p = device.provenance
        rows = [[k.replace("_", " "), *percents(p[k])] for k in ("in_sample", "cross_validated")]
        title = f"{table.title}: errors on {p['blocks']} blocks"
        print(text_table(title, ["", "mean", "worst"], rows))
    if networks and not args.json:
        predictions, errors = judge(device, networks)
        rows = [
            [p.latency.model, f"{m.ms:.3f}", f"{p.latency.ms:.3f}", f"{error:+.1%}"]
            for m, p, error in zip(networks, predictions, errors.relative, strict=True)
        ]
        s = device.provenance["networks"]
        rows.append(["all: mean, worst, tau", *percents(s), f"{s['kendall_tau']:.2f}"])
        title = f"{len(networks)} networks measured whole, in ms"
        print(text_table(title, ["network", "measured", "predicted", "error"], rows))
    finish(args, device)


def percents(error: dict[str, float]) -> list[str]:
    """Mean and worst error as cells."""
    return [f"{error[k]:.1%}" for k in ("mean", "worst")]


def finish(args: argparse.Namespace, device: Any) -> None:
    """Prints a device's constants, and writes its file where that was asked for."""
    from prunet_det.latency.device import DEVICE_DIR, FITTED
    from prunet_det.utils.io import atomic_path

    if args.json:
        print(device.to_json().replace("\n", ""))
    else:
        constants = [[f"{getattr(device, k):.4g}" for k in FITTED]]
        print(text_table("constants", list(FITTED), constants))
    kept = DEVICE_DIR / f"{device.name}.json" if args.write else None
    for path in filter(None, (args.out, kept)):
        with atomic_path(path) as temporary:
            temporary.write_text(device.to_json(), encoding="utf-8")
    if args.out and not args.json:
        print(f"written: {args.out}; use it as --device {args.out}")


def calibrate_to_published(args: argparse.Namespace) -> None:
    from prunet_det.latency import calibrate as c
    from prunet_det.latency.device import load_device

    name = args.device or "v100"
    points = c.published_points(name)
    old = load_device(name)
    device = c.calibrate(old, points, old.provenance.get("source", c.PUBLISHED.name))
    if not args.json:
        p = device.provenance
        rows = []
        for network, error in p["leave_one_out"].items():
            own = c.errors(device, [point for point in points if point.network == network])
            rows.append([network, f"{own.mean:.1%}", f"{own.worst:.1%}", *percents(error)])
        rows += [[f, "", "", *percents(e)] for f, e in p["leave_family_out"].items()]
        header = ["network", "mean", "worst", "left out: mean", "worst"]
        print(text_table(f"{device.title}: errors of {len(points)} published points", header, rows))
        rows = []
        for batch in sorted({point.batch for point in points}):
            at = c.errors(device, [point for point in points if point.batch == batch])
            rows.append([str(batch), f"{at.mean:.1%}", f"{at.worst:.1%}", f"{at.kendall_tau:.2f}"])
        rows.append(["all", *percents(p["in_sample"]), f"{p['kendall_tau']:.2f}"])
        print(text_table("in-sample, by batch", ["batch", "mean", "worst", "tau"], rows))
    finish(args, device)
