"""Write what is generated in README.md and docs/: python tools/report.py [--check | --redraw].

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. Tables and figures come from
docs/results/ and from the cards in checkpoints/, counts from the specs; docs/networks/ holds a page
and a drawing of every network. A figure is drawn anew where its data have changed: another CPU or
other fonts would write other bytes of the same figure.
"""

import argparse
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import prunet_det
from prunet_det.benchmark import publish
from prunet_det.benchmark.fronts import counted
from prunet_det.benchmark.gpu import tables as gpu_tables
from prunet_det.benchmark.published import metafile
from prunet_det.latency import device_names, load_device, predict
from prunet_det.latency import plots as latency_plots
from prunet_det.latency.calibrate import errors, judge, published_devices, published_points
from prunet_det.latency.device import Device
from prunet_det.latency.errors import Errors
from prunet_det.latency.kernels import spec_kernels, totals
from prunet_det.latency.record import Latency, read_latencies
from prunet_det.runtime.subject import Scope
from prunet_det.search import tables as search_tables
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.io import markdown_table, read_csv, write_text
from prunet_det.utils.package import find_config, relative_path
from prunet_det.zoo.card import draw_network, model_card

ROOT = Path(__file__).resolve().parent.parent
DOCS, RESULTS = ROOT / "docs", ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
CARD_SIZES = (224, 512)  # pixels
MEASURED, GPU = RESULTS / "latency", RESULTS / "gpu"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:)([^)]+)")  # to a file


def read_records(paths: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Records that may stand in one table: all measured on the same data."""
    records = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    if len({record["data_hash"] for _, record in records}) > 1:
        where = ", ".join(f"{path.name}: {record['data_hash']}" for path, record in records)
        raise UserError(f"the records are of different data, evaluate them anew ({where}).")
    return records


def count(spec: Any, size: int, scope: str = "classifier") -> tuple[int, int]:
    """Parameters and multiply-accumulates of a network for one image of size x size."""
    found = totals(spec_kernels(spec, size, scope))
    return found["params"], found["macs"]


def costs(spec: Any) -> str:
    """What a network costs as a classifier of 1,000 classes, and as the backbone of a detector."""
    sizes = sorted({*CARD_SIZES, spec.input_size})
    rows = []
    for scope in ("classifier", "backbone"):
        counted = [count(spec, size, scope) for size in sizes]
        macs = [f"{m / 1e9:.3f}" for _, m in counted]
        rows.append([scope, f"{counted[0][0] / 1e6:.2f}", *macs])
    return markdown_table(["", "parameters (M)", *(f"GMACs at {s} px" for s in sizes)], rows)


def zoo() -> str:
    """Every network: counts at its own resolution."""
    rows = []
    for name in prunet_det.model_names():
        spec = prunet_det.load_spec(name)
        parameters, macs = count(spec, spec.input_size)
        features = list(spec.feature_stages())
        rows.append(
            [
                f"[`{name}`](docs/networks/{name}.md)",
                spec.provenance.kind,
                str(spec.input_size),
                f"{parameters / 1e6:.2f}",
                f"{macs / 1e9:.3f}",
                ", ".join(str(stride) for _, _, stride in features),
                ", ".join(str(chs) for _, chs, _ in features),
            ]
        )
    header = ["network", "provenance", "px", "parameters (M)", "GMACs", "strides", "channels"]
    return markdown_table(header, rows)


def trained(paths: Sequence[Path], metrics: Mapping[str, str], minutes: str) -> str:
    """Records of trainings on the same data, the best first.

    Args:
        paths: The records.
        metrics: Key to heading; the first says what is best.
        minutes: Format of the minutes that a training took.
    """
    rows = []
    for path, record in read_records(paths):
        first, *others = (f"{record['metrics'][key]:.3f}" for key in metrics)
        rows.append(
            [
                f"[{path.stem}]({path.relative_to(ROOT)})",
                f"`{relative_path(find_config(record['config']))}`",
                f"{record['parameters'] / 1e6:.2f}",
                str(record["training"]["iterations"]),
                format(record["training"]["minutes"], minutes),
                f"**{first}**",
                *others,
            ]
        )
    rows.sort(key=lambda row: row[5], reverse=True)
    header = ["record", "config", "parameters (M)", "iterations", "minutes on 2 cores"]
    return markdown_table([*header, *metrics.values()], rows)


def digits() -> str:
    """Detectors on the 300 val images of the embedded digits."""
    folders = (ROOT / "checkpoints", RESULTS / "digits")
    names = {"": "mAP", "_50": "AP50", "_75": "AP75", "_s": "AP small", "_m": "AP medium"}
    metrics = {f"bbox_mAP{key}": name for key, name in names.items()}
    return trained([p for f in folders for p in sorted(f.glob("*.json"))], metrics, ".0f")


def shown() -> str:
    """What the front page says is shown to work: a claim, its figure, and where it comes from."""
    published = sum(
        prunet_det.load_spec(name).provenance.kind == "published"
        for name in prunet_det.model_names()
    )
    blind = [
        abs(float(r["predicted_ms"]) / float(r["published_ms"]) - 1)
        for r in read_csv(RESULTS / "predictions" / "blind.csv")[1]
        if r["device"] == "v100"
    ]
    card = json.loads((ROOT / "checkpoints" / "prunet_demo_digits.json").read_text("utf-8"))
    paths = sorted((RESULTS / "finetune").glob("prunet_from_digits_seed*.json"))
    records = [record for _, record in read_records(paths)]
    tuned = mean(record["metrics"]["bbox_mAP"] for record in records)
    (iterations,) = {record["training"]["iterations"] for record in records}
    rows = [
        [
            f"{published} published networks",
            "parameters, MACs and logits are those of NVIDIA's own builder, bit for bit",
            "[networks](docs/networks.md#the-zoo)",
        ],
        [
            "EfficientDet",
            "outputs, targets and losses of D0 and D1 are those of effdet with the same weights",
            "[networks](docs/networks.md#released-checkpoints)",
        ],
        [
            "V100 latency of two networks whose times were held back",
            f"predicted with a mean error of {mean(blind):.1%}, at worst {max(blind):.1%}",
            "[latency](docs/latency.md#how-sure)",
        ],
        [
            "a budget in milliseconds",
            "; ".join(search_tables.budgets_met(RESULTS / "search")),
            "[search](docs/method.md#does-it-meet-the-budget)",
        ],
        [
            "the shipped detector of the embedded digits, from random weights",
            f"mAP {card['metrics']['bbox_mAP']:.3f}, trained in {card['training']['minutes']:.0f} "
            "minutes on 2 cores",
            "[training](docs/training.md#the-recipe-on-the-digits)",
        ],
        [
            "fine-tuning it on 200 images of ten other characters",
            f"mAP {tuned:.3f} in {iterations} iterations",
            "[training](docs/training.md#fine-tuning)",
        ],
    ]
    return markdown_table(["what", "figure", "more"], rows)


def classifiers() -> str:
    """Classifiers of the digits' crops."""
    paths = sorted((RESULTS / "digits_crops").glob("*.json"))
    return trained(paths, {"top1": "top-1", "top5": "top-5"}, ".1f")


def finetuned() -> str:
    """Detectors of the ten capitals, 200 training images, from other weights or from none."""
    rows = []
    for path, record in read_records(sorted((RESULTS / "finetune").glob("*.json"))):
        training = record["training"]
        start = training.get("started_from")
        came = f"{start['loaded']} of {start['tensors']} tensors" if start else "none"
        rows.append(
            [
                f"`{record['config']}`",
                f"[{path.stem}]({path.relative_to(ROOT)})",
                f"`{start['file']}`" if start else "random weights",
                came,
                str(training["iterations"]),
                f"**{record['metrics']['bbox_mAP']:.3f}**",
                f"{record['metrics']['bbox_mAP_50']:.3f}",
            ]
        )
    header = ["config", "record", "from", "came along", "iterations", "mAP", "AP50"]
    return markdown_table(header, rows)


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
        rows = [[f"`{n}`", *(str(c.get(n, "")) for c in columns.values())] for n in names]
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


TABLES = {
    "shown": shown,
    "zoo": zoo,
    "digits": digits,
    "classifiers": classifiers,
    "finetuned": finetuned,
    "calibration": calibration,
    "predictions": predictions,
    "measured": measured,
    "checks": checks,
    "gpu": partial(gpu_tables.runs, GPU),
    "throughput": partial(gpu_tables.throughput, GPU),
    "benchmark_full": partial(publish.full, RESULTS / "benchmark"),
    "imagenet": partial(publish.imagenet, RESULTS / "benchmark"),
    "published": partial(publish.quoted, RESULTS / "benchmark"),
    **{name: partial(of, RESULTS / "search") for name, of in search_tables.TABLES.items()},
}


def fill_tables(page: Path) -> str:
    """The text of a page with its tables written anew, and their links, made for the root."""

    def link(match: re.Match[str]) -> str:
        return f"]({posixpath.relpath(match[1], page.parent.relative_to(ROOT).as_posix())}"

    def fill(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise UserError(f"{page.name} asks for the table {match[2]!r}, which is unknown.")
        return match[1] + LINK.sub(link, TABLES[match[2]]()) + match[3]

    return BLOCK.sub(fill, page.read_text(encoding="utf-8"))


def texts() -> dict[Path, str]:
    """Path to content of every page, CSV file and the index of models."""
    found = {page: fill_tables(page) for page in PAGES}
    found[ROOT / "configs" / "metafile.yml"] = metafile()
    for name in prunet_det.model_names():
        spec = prunet_det.load_spec(name)
        found[DOCS / "networks" / f"{name}.md"] = model_card(spec, costs(spec), f"{name}.svg")
    for name, text in publish.csv_files(RESULTS / "benchmark").items():
        found[DOCS / "benchmark" / name] = text
    return found


def latency_figures() -> dict[str, tuple[Any, ...]]:
    """Name of each figure of docs/latency to a function that draws it, and its arguments."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in published_devices():
        device, points = load_device(name), published_points(name)
        e = errors(device, points)
        title = f"{device.title}, classifiers: mean error {e.mean:.1%}, worst {e.worst:.1%}"
        axes = ("published, FP16, batch 1 to 64", "predicted")
        pairs = _by_name([p.network for p in points], e)
        found[f"calibration_{name}.svg"] = (latency_plots.draw_pairs, pairs, *axes, title)
    latencies = read_latencies(read_csv(MEASURED / "h100_backbone.csv")[1])
    found["networks_h100.svg"] = _judged(load_device("h100"), latencies)
    device = load_device("v100")
    predicted = {name: predict(name) for name in prunet_det.model_names()}
    where = f"{device.title}, TensorRT FP16, batch 1, 512 px, scope backbone"
    parts = {name: p.breakdown for name, p in predicted.items()}
    found["time_v100.svg"] = (latency_plots.draw_breakdown, parts, where)
    shown = latency_plots.roofline(predicted["prunet_p0"].kernels, device, 1)
    found["roofline_v100.svg"] = (latency_plots.draw_roofline, shown, f"prunet_p0, {where}")
    for name, (latencies, sums) in read_checks().items():
        whole, first = [latency.ms for latency in latencies], latencies[0]
        pairs = {kind: list(zip(whole, ms, strict=True)) for kind, ms in sums.items()}
        title = (
            f"{replace(first.conditions, threads=0)}, {first.input_size} px, scope {first.scope}"
        )
        axes = ("measured whole", "added up")
        found[f"check_{name}.svg"] = (latency_plots.draw_pairs, pairs, *axes, title)
    return found


def _judged(device: Device, measured: Sequence[Latency]) -> tuple[Any, ...]:
    e = judge(device, measured)[1]
    pairs = _by_name([m.model.split("_")[0] for m in measured], e)
    title = f"{device.title}, backbones: mean error {e.mean:.1%}, worst {e.worst:.1%}"
    axes = ("measured, FP16, batch 1, CUDA graph", "predicted from blocks")
    return latency_plots.draw_pairs, pairs, *axes, title


def _by_name(names: Sequence[str], errors: Errors) -> dict[str, list[tuple[float, float]]]:
    """Name to (what it should be, predicted) milliseconds, as `draw_pairs` takes them."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for name, pair in zip(
        names, zip(errors.expected_ms, errors.predicted_ms, strict=True), strict=True
    ):
        groups.setdefault(name, []).append(pair)
    return groups


def figures() -> dict[Path, tuple[Any, ...]]:
    """Path of every figure to a function that draws it, and its arguments."""
    specs = {name: prunet_det.load_spec(name) for name in prunet_det.model_names()}
    rooms = {
        "networks": {f"{name}.svg": (draw_network, spec) for name, spec in specs.items()},
        "latency": latency_figures(),
        "search": search_tables.figures(RESULTS / "search"),
        "benchmark": publish.figures(RESULTS / "benchmark"),
    }
    return {DOCS / r / name: data for r, named in rooms.items() for name, data in named.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="write nothing; fail where stale")
    group.add_argument("--redraw", action="store_true", help="every figure, after a new look")
    args = parser.parse_args()
    written, drawn = texts(), figures()
    stale = [p for p, text in written.items() if not p.is_file() or p.read_text("utf-8") != text]
    stale += [p for p, (_, *data) in drawn.items() if args.redraw or not plots.shows(p, data)]
    folders = sorted({path.parent for path in drawn})
    left = [p for f in folders for p in f.glob("*") if p not in written and p not in drawn]
    if not args.check:
        for path in stale:
            if path in written:
                write_text(path, written[path])
            else:
                draw, *data = drawn[path]
                plots.save(draw(*data), path, data)
        for path in left:
            path.unlink()
    names = ", ".join(path.name for path in [*stale, *left]) or "nothing"
    print(f"{'stale' if args.check else 'rewritten'}: {names}")
    return 1 if args.check and (stale or left) else 0


if __name__ == "__main__":
    run_tool(main)
