"""The verb `calibrate` of tools/latency.py: fits to published figures, or to a table."""

import argparse

from prunet_det.utils.errors import UserError
from prunet_det.utils.io import text_table


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """Its flags beside those of every verb."""
    add = parser.add_argument
    add("--write", action="store_true", help="keep the package's constants")
    add("--from", dest="source", metavar="TABLE.json", help="fit to this table")
    add("--out", metavar="FILE.json", help="device file of a fit to a table")


def run_calibrate(args: argparse.Namespace) -> None:
    """Fits the analytic model to published figures, or to a table measured here."""
    if args.source:
        calibrate_to_table(args)
    else:
        calibrate_to_published(args)


def calibrate_to_table(args: argparse.Namespace) -> None:
    from prunet_det.latency.calibrate import calibrate_to_table as fit
    from prunet_det.latency.calibrate import measure_peaks
    from prunet_det.latency.device import FITTED
    from prunet_det.latency.measure import require_device
    from prunet_det.latency.table import Table
    from prunet_det.utils.io import atomic_path

    if not args.out:
        raise UserError("say with --out FILE.json where the device file goes.")
    table = Table.load(args.source)
    c = table.conditions
    device = fit(measure_peaks(c, require_device(c)), table, args.source)
    with atomic_path(args.out) as temporary:
        temporary.write_text(device.to_json(), encoding="utf-8")
    if args.json:
        print(device.to_json().replace("\n", ""))
        return
    p = device.provenance
    rows = [[k.replace("_", " "), *(f"{v:.1%}" for v in p[k].values())] for k in FITS]
    print(text_table(f"{table.title}: errors on {p['blocks']} blocks", ["", "mean", "worst"], rows))
    print(text_table("constants", list(FITTED), [[f"{getattr(device, k):.4g}" for k in FITTED]]))
    print(f"written: {args.out}; use it as --device {args.out}")


FITS = ("in_sample", "cross_validated")


def calibrate_to_published(args: argparse.Namespace) -> None:
    from prunet_det.latency import calibrate as c
    from prunet_det.latency.device import DEVICE_DIR, FITTED, load_device
    from prunet_det.utils.io import atomic_path

    points = c.published_points(args.device)
    old = load_device(args.device)
    left_out = c.leave_one_out(old, points)
    source = old.provenance.get("source", c.PUBLISHED.name)
    device = c.calibrate(old, points, source, left_out)
    inside = c.errors(device, points)
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
        print(text_table(f"{device.title}: errors of {len(points)} published points", header, rows))
        batches = sorted({p.batch for p in points})
        rows = []
        for batch in batches:
            at = c.errors(device, [p for p in points if p.batch == batch])
            rows.append([str(batch), f"{at.mean:.1%}", f"{at.worst:.1%}", f"{at.kendall_tau:.2f}"])
        rows.append(
            ["all", f"{inside.mean:.1%}", f"{inside.worst:.1%}", f"{inside.kendall_tau:.2f}"]
        )
        print(text_table("in-sample, by batch", ["batch", "mean", "worst", "tau"], rows))
        print(
            text_table("constants", list(FITTED), [[f"{getattr(device, k):.4g}" for k in FITTED]])
        )
    if args.write:
        with atomic_path(DEVICE_DIR / f"{device.name}.json") as temporary:
            temporary.write_text(device.to_json(), encoding="utf-8")
