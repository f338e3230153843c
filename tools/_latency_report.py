"""Tables and figures of latencies, which tools/report.py writes into docs/."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import prunet_det
from prunet_det.benchmark.fronts import counted
from prunet_det.latency import device_names, load_device, plots, predict
from prunet_det.latency.calibrate import errors, judge, published_devices, published_points
from prunet_det.latency.device import Device
from prunet_det.latency.errors import Errors
from prunet_det.latency.record import Latency, read_latencies
from prunet_det.runtime.subject import Scope
from prunet_det.utils.io import markdown_table, read_csv

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
MEASURED, GPU = RESULTS / "latency", RESULTS / "gpu"


def calibration() -> str:
    """Errors of the devices' constants, as calibration noted them."""
    rows = []
    for name in device_names():
        device = load_device(name)
        p = device.provenance
        points = f"{p['points']} times of whole networks" if "points" in p else ""
        points = points or f"{p['blocks']} measured blocks"
        found = {f"{points}, in sample": p["in_sample"]}
        if "cross_validated" in p:
            found["blocks left out"] = p["cross_validated"]
        for key, what in (("leave_one_out", ""), ("leave_family_out", " together")):
            for networks, error in p.get(key, {}).items():
                found[f"{networks} left out{what}"] = error
        if "networks" in p:
            s = p["networks"]
            whole = f"{len(s['names'])} whole networks, none of them fitted to"
            found[f"{whole}; Kendall's tau {s['kendall_tau']:.2f}"] = s
        title = f"`{name}`: {device.title}, {device.conditions.runtime}"
        rows += [[title, w, f"{e['mean']:.1%}", f"{e['worst']:.1%}"] for w, e in found.items()]
    return markdown_table(["device", "errors on", "mean", "worst"], rows)


def predictions() -> str:
    """The zoo's backbones at 512 px on the V100."""
    rows = []
    for name in prunet_det.model_names():
        found = predict(name)
        latency = found.latency
        rows.append(
            [
                f"`{name}`",
                str(len(found.kernels)),
                f"**{latency.ms:.3f}**",
                f"{latency.low:.3f} to {latency.high:.3f}",
                "extrapolated" if found.warnings else "",
            ]
        )
    header = ["network", "kernels", "predicted ms", "between", ""]
    return markdown_table(header, rows)


def measured() -> str:
    """Networks measured, a table for each set of conditions but their threads."""
    groups: dict[str, dict[str, dict[str, Latency]]] = {}
    for path in [*sorted(MEASURED.glob("*.csv")), *sorted(GPU.glob("*/latency.csv"))]:
        if path.stem.endswith("_check"):
            continue
        header, records = read_csv(path)
        for latency in read_latencies(records):
            c = latency.conditions
            title = f"{replace(c, threads=0)}, {header['date']}"
            size = "" if latency.scope is Scope.CLASSIFIER else f" {latency.input_size} px"
            threads = f", {counted('thread', c.threads)}" if c.threads else ""
            columns = groups.setdefault(title, {})
            columns.setdefault(f"{latency.scope}{size}{threads}", {})[latency.model] = latency
    parts = []
    for title, columns in groups.items():
        names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
        rows = [[_linked(n), *(str(c.get(n, "")) for c in columns.values())] for n in names]
        latencies = [latency for c in columns.values() for latency in c.values()]
        shaky = sum(bool(latency.note) for latency in latencies)
        parts.append(
            f"{title}: median ms (10th to 90th percentile); {shaky} of {len(latencies)} figures "
            "are unstable (~).\n\n" + markdown_table(["network", *columns], rows)
        )
    return "\n".join(parts)


KINDS = {"sum of the table": "table_ms", "fitted model": "model_ms"}


def read_checks() -> dict[str, tuple[list[Latency], dict[str, list[float]]]]:
    """Name of a check of a table to its latencies, and the milliseconds that were added up."""
    paths = {p.stem.removesuffix("_check"): p for p in sorted(MEASURED.glob("*_check.csv"))}
    paths |= {p.parent.name: p for p in sorted(GPU.glob("*/check.csv"))}
    found = {}
    for name, path in paths.items():
        records = [r for r in read_csv(path)[1] if not r.get("failed")]
        sums = {
            kind: [float(r[key]) for r in records] for kind, key in KINDS.items() if records[0][key]
        }
        found[name] = read_latencies(records), sums
    return found


def checks() -> str:
    """How tables of blocks, and models fitted to them, add up to whole networks."""
    rows = []
    for name, (latencies, sums) in read_checks().items():
        where = str(replace(latencies[0].conditions, threads=0))
        whole = [latency.ms for latency in latencies]
        for kind, values in sums.items():
            e = Errors.of(whole, values)
            what = f"{kind} against {len(whole)} networks measured whole"
            cells = [f"{e.mean:.1%}", f"{e.worst:.1%}", f"{e.bias:+.1%}", f"{e.kendall_tau:.3f}"]
            rows.append([where, what, *cells])
        own = GPU / name / "device.json"
        device = own if own.is_file() else MEASURED / f"{name}_device.json"
        if device.is_file():
            p = load_device(str(device)).provenance
            for key in ("in_sample", "cross_validated"):
                what = f"fitted model on the table's {p['blocks']} blocks, {key.replace('_', ' ')}"
                cells = [f"{p[key][k]:.1%}" for k in ("mean", "worst")]
                rows.append([where, what, *cells, "", ""])
    header = ["conditions", "what", "mean error", "worst", "bias", "Kendall's tau"]
    return markdown_table(header, rows)


def figures() -> dict[str, tuple[Any, ...]]:
    """Name of each figure of docs/latency to a function that draws it, and its arguments."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in published_devices():
        device, points = load_device(name), published_points(name)
        e = errors(device, points)
        title = f"{device.title}, classifiers: mean error {e.mean:.1%}, worst {e.worst:.1%}"
        axes = ("published, FP16, batch 1 to 64", "predicted")
        pairs = _by_name([p.network for p in points], e)
        found[f"calibration_{name}.svg"] = (plots.draw_pairs, pairs, *axes, title)
    latencies = read_latencies(read_csv(MEASURED / "h100_backbone.csv")[1])
    found["networks_h100.svg"] = _judged(load_device("h100"), latencies)
    device = load_device("v100")
    predicted = {name: predict(name) for name in prunet_det.model_names()}
    where = f"{device.title}, TensorRT FP16, batch 1, 512 px, scope backbone"
    parts = {name: p.breakdown for name, p in predicted.items()}
    found["time_v100.svg"] = (plots.draw_breakdown, parts, where)
    shown = plots.roofline(predicted["prunet_p0"].kernels, device, 1)
    found["roofline_v100.svg"] = (plots.draw_roofline, shown, f"prunet_p0, {where}")
    for name, (latencies, sums) in read_checks().items():
        whole, first = [latency.ms for latency in latencies], latencies[0]
        pairs = {kind: list(zip(whole, ms, strict=True)) for kind, ms in sums.items()}
        title = (
            f"{replace(first.conditions, threads=0)}, {first.input_size} px, scope {first.scope}"
        )
        axes = ("measured whole", "added up")
        found[f"check_{name}.svg"] = (plots.draw_pairs, pairs, *axes, title)
    return found


def _linked(network: str) -> str:
    """A measured network's name; one that is not in the zoo links to its spec file."""
    if not network.endswith(".json"):
        return f"`{network}`"
    return f"[`{Path(network).stem}`]({network})"


def _judged(device: Device, measured: Sequence[Latency]) -> tuple[Any, ...]:
    predictions, e = judge(device, measured)
    pairs = _by_name([p.latency.model.split("_")[0] for p in predictions], e)
    title = f"{device.title}, backbones: mean error {e.mean:.1%}, worst {e.worst:.1%}"
    axes = ("measured, FP16, batch 1, CUDA graph", "predicted from blocks")
    return plots.draw_pairs, pairs, *axes, title


def _by_name(names: Sequence[str], errors: Errors) -> dict[str, list[tuple[float, float]]]:
    """Name to (what it should be, predicted) milliseconds, as `draw_pairs` takes them."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for name, pair in zip(
        names, zip(errors.expected_ms, errors.predicted_ms, strict=True), strict=True
    ):
        groups.setdefault(name, []).append(pair)
    return groups
