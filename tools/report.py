"""Write what is generated in README.md and docs/: python tools/report.py [--check].

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; figures come from
docs/results/ and from the cards in checkpoints/, and counts from the specs. docs/networks/ holds a
page and a drawing of every network.
"""

import argparse
import json
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.io import atomic_path
from prunet_det.utils.package import find_config, relative_path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARD_SIZES = (224, 512)  # pixels
NETWORKS = ROOT / "docs" / "networks"
LATENCY = ROOT / "docs" / "latency"
MEASURED = ROOT / "docs" / "results" / "latency"
SEARCH = ROOT / "docs" / "results" / "search"
SUITES = ROOT / "docs" / "results" / "benchmark"
BENCHMARK = ROOT / "docs" / "benchmark"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read_records(paths: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Records that may stand in one table: all measured on the same data."""
    records = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    hashes = {record["data_hash"] for _, record in records}
    if len(hashes) > 1:
        where = ", ".join(f"{path.name}: {record['data_hash']}" for path, record in records)
        raise UserError(f"the records are of different data, evaluate them anew ({where}).")
    return records


def count(spec: Any, size: int, scope: str = "classifier") -> tuple[int, int]:
    """Parameters and multiply-accumulates of a network for one image of size x size."""
    from prunet_det.latency.kernels import spec_kernels, totals

    found = totals(spec_kernels(spec, size, scope))
    return found["params"], found["macs"]


def costs(spec: Any) -> str:
    """What a network costs as a classifier of 1,000 classes, and as the backbone of a detector."""
    from prunet_det.utils.io import markdown_table

    sizes = sorted({*CARD_SIZES, spec.input_size})
    rows = []
    for scope in ("classifier", "backbone"):
        counted = [count(spec, size, scope) for size in sizes]
        macs = [f"{m / 1e9:.3f}" for _, m in counted]
        rows.append([scope, f"{counted[0][0] / 1e6:.2f}", *macs])
    return markdown_table(["", "parameters (M)", *(f"GMACs at {s} px" for s in sizes)], rows)


def zoo() -> str:
    """Every network: counts at its own resolution."""
    import prunet_det
    from prunet_det.utils.io import markdown_table

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


def digits() -> str:
    """Detectors on the 300 val images of the embedded digits."""
    from prunet_det.utils.io import markdown_table

    results = ROOT / "docs" / "results" / "digits"
    files = [*sorted((ROOT / "checkpoints").glob("*.json")), *sorted(results.glob("*.json"))]
    rows = []
    for path, record in read_records(files):
        m, training = record["metrics"], record["training"]
        rows.append(
            [
                f"[{path.stem}]({path.relative_to(ROOT)})",
                f"`{relative_path(find_config(record['config']))}`",
                f"{record['parameters'] / 1e6:.2f}",
                str(training["iterations"]),
                f"{training['minutes']:.0f}",
                f"**{m['bbox_mAP']:.3f}**",
                *(f"{m[f'bbox_mAP_{k}']:.3f}" for k in ("50", "75", "s", "m")),
            ]
        )
    rows.sort(key=lambda row: row[5], reverse=True)
    header = ["record", "config", "parameters (M)", "iterations", "minutes on 2 cores"]
    return markdown_table([*header, "mAP", "AP50", "AP75", "AP small", "AP medium"], rows)


def classifiers() -> str:
    """Classifiers of the digits' crops."""
    from prunet_det.utils.io import markdown_table

    rows = []
    files = sorted((ROOT / "docs" / "results" / "digits_crops").glob("*.json"))
    for path, record in read_records(files):
        m, training = record["metrics"], record["training"]
        rows.append(
            [
                f"[{path.stem}]({path.relative_to(ROOT)})",
                f"`{relative_path(find_config(record['config']))}`",
                f"{record['parameters'] / 1e6:.2f}",
                str(training["iterations"]),
                f"{training['minutes']:.1f}",
                f"**{m['top1']:.3f}**",
                f"{m['top5']:.3f}",
            ]
        )
    header = ["record", "config", "parameters (M)", "iterations", "minutes on 2 cores"]
    return markdown_table([*header, "top-1", "top-5"], rows)


def calibration() -> str:
    """Errors of the devices' constants, as calibration noted them."""
    from prunet_det.latency import device_names, load_device
    from prunet_det.latency.calibrate import FAMILIES_OF_ONE
    from prunet_det.utils.io import markdown_table

    rows = []
    for name in device_names():
        device = load_device(name)
        p = device.provenance
        inside = p["in_sample"]
        rows.append(
            [device.title, "all, in-sample", f"{inside['mean']:.1%}", f"{inside['worst']:.1%}"]
        )
        for network, error in p["leave_one_out"].items():
            what = "left out, and so its family" if network in FAMILIES_OF_ONE else "left out"
            rows.append([device.title, f"{network} {what}", *(f"{v:.1%}" for v in error.values())])
    return markdown_table(["device", "networks", "mean error", "worst"], rows)


def predictions() -> str:
    """The zoo's backbones at 512 px on the V100."""
    import prunet_det
    from prunet_det.latency import predict
    from prunet_det.utils.io import markdown_table

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


def conditions(record: dict[str, str]) -> str:
    """What measured milliseconds hold for, whatever the network, scope and threads."""
    keys = ("device", "runtime", "precision")
    return f"{', '.join(record[k] for k in keys)}, batch {record['batch']}"


def measured() -> str:
    """Networks measured, a table for each set of conditions."""
    from prunet_det.utils.io import markdown_table, read_csv

    groups: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for path in sorted(MEASURED.glob("*.csv")):
        if path.stem.endswith("_check"):
            continue
        header, records = read_csv(path)
        for r in records:
            size = "" if r["scope"] == "classifier" else f" {r['input_size']} px"
            threads = {"0": "", "1": ", 1 thread"}.get(r["threads"], f", {r['threads']} threads")
            columns = groups.setdefault(f"{conditions(r)}, {header['date']}", {})
            columns.setdefault(f"{r['scope']}{size}{threads}", {})[r["model"]] = r
    parts = []
    for group, columns in groups.items():
        names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
        rows = [[f"`{n}`", *(_cell(c.get(n)) for c in columns.values())] for n in names]
        figures = [r for c in columns.values() for r in c.values()]
        shaky = sum(bool(r["unstable"]) for r in figures)
        parts.append(
            f"{group}: median ms (10th to 90th percentile); {shaky} of {len(figures)} figures are "
            "unstable (~).\n\n" + markdown_table(["network", *columns], rows)
        )
    return "\n".join(parts)


def _cell(record: dict[str, str] | None) -> str:
    if record is None:
        return ""
    ms, low, high = (f"{float(record[k]):.4g}" for k in ("latency_ms", "low_ms", "high_ms"))
    return f"{ms} ({low} to {high}){' ~' if record['unstable'] else ''}"


KINDS = {"sum of the table": "table_ms", "fitted model": "model_ms"}


def read_checks() -> dict[str, tuple[list[dict[str, str]], dict[str, list[float]]]]:
    """Name of a check of a table to its records, and the milliseconds that were added up."""
    from prunet_det.utils.io import read_csv

    found = {}
    for path in sorted(MEASURED.glob("*_check.csv")):
        records = read_csv(path)[1]
        sums = {
            kind: [float(r[key]) for r in records] for kind, key in KINDS.items() if records[0][key]
        }
        found[path.stem.removesuffix("_check")] = records, sums
    return found


def checks() -> str:
    """How tables of blocks, and models fitted to them, add up to whole networks."""
    from prunet_det.latency import load_device
    from prunet_det.latency.check import summarize
    from prunet_det.utils.io import markdown_table

    rows = []
    for name, (records, sums) in read_checks().items():
        where = conditions(records[0])
        whole = [float(r["latency_ms"]) for r in records]
        for kind, values in sums.items():
            s = summarize(whole, values)
            errors = [f"{s[k]:.1%}" for k in ("mean_error", "worst_error")]
            what = f"{kind} against {len(whole)} networks measured whole"
            rows.append([where, what, *errors, f"{s['bias']:+.1%}", f"{s['kendall_tau']:.3f}"])
        device = MEASURED / f"{name}_device.json"
        if device.is_file():
            p = load_device(str(device)).provenance
            for key in ("in_sample", "cross_validated"):
                what = f"fitted model on the table's {p['blocks']} blocks, {key.replace('_', ' ')}"
                errors = [f"{p[key][k]:.1%}" for k in ("mean", "worst")]
                rows.append([where, what, *errors, "", ""])
    header = ["conditions", "what", "mean error", "worst", "bias", "Kendall's tau"]
    return markdown_table(header, rows)


def benchmark(part: str) -> str:
    """What the benchmark's records say, and published figures beside them."""
    from prunet_det.benchmark import publish

    return str(getattr(publish, part)(SUITES))


TABLES = {
    "zoo": zoo,
    "digits": digits,
    "classifiers": classifiers,
    "calibration": calibration,
    "predictions": predictions,
    "measured": measured,
    "checks": checks,
    "benchmark": lambda: benchmark("summary"),
    "benchmark_full": lambda: benchmark("full"),
    "published": lambda: benchmark("quoted"),
}


def fill_tables(page: Path) -> str:
    """The text of a page with its tables written anew; their links are relative to the root."""

    from prunet_det.search import tables as search_tables

    tables = {**TABLES, **{k: partial(v, SEARCH) for k, v in search_tables.TABLES.items()}}

    def fill(match: re.Match[str]) -> str:
        if match[2] not in tables:
            raise UserError(f"{page.name} asks for the table {match[2]!r}, which is unknown.")
        up = "../" * (len(page.relative_to(ROOT).parts) - 1)
        return match[1] + tables[match[2]]().replace("](", f"]({up}") + match[3]

    return BLOCK.sub(fill, page.read_text(encoding="utf-8"))


def network_pages() -> dict[Path, str]:
    """Path to content of every network's page and drawing."""
    import prunet_det
    from prunet_det.zoo.card import draw_network, model_card

    pages = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in prunet_det.model_names():
            spec = prunet_det.load_spec(name)
            drawing = Path(folder) / f"{name}.svg"
            draw_network(spec, drawing)
            pages[NETWORKS / f"{name}.md"] = model_card(spec, costs(spec), drawing.name)
            pages[NETWORKS / drawing.name] = drawing.read_text(encoding="utf-8")
    return pages


def latency_pictures() -> dict[Path, str]:
    """Path to content of the pictures of docs/latency.md."""
    import prunet_det
    from prunet_det.latency import device_names, load_device, plots, predict
    from prunet_det.latency.calibrate import errors, published_points

    pages = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in device_names():
            found = errors(load_device(name), published_points(name))
            plots.plot_calibration(found, load_device(name), f"{folder}/calibration_{name}.svg")
        device = load_device("v100")
        found = {name: predict(name) for name in prunet_det.model_names()}
        where = f"{device.title}, TensorRT FP16, batch 1, 512 px, scope backbone"
        parts = {name: p.breakdown for name, p in found.items()}
        plots.plot_breakdown(parts, where, f"{folder}/time_v100.svg")
        plots.plot_roofline(
            found["prunet_p0"].kernels,
            device,
            1,
            f"prunet_p0 on {where}",
            f"{folder}/roofline_v100.svg",
        )
        for name, (records, sums) in read_checks().items():
            whole = [float(r["latency_ms"]) for r in records]
            where = f"{conditions(records[0])}, {records[0]['input_size']} px, scope backbone"
            plots.plot_check(whole, sums, where, f"{folder}/check_{name}.svg")
        for path in Path(folder).glob("*.svg"):
            pages[LATENCY / path.name] = path.read_text(encoding="utf-8")
    return pages


def benchmark_files() -> dict[Path, str]:
    """Path to content of the benchmark's pictures and CSV files."""
    from prunet_det.benchmark.publish import files

    return files(SUITES, BENCHMARK)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where stale")
    args = parser.parse_args()
    wanted = {
        **{page: fill_tables(page) for page in PAGES},
        **network_pages(),
        **latency_pictures(),
        **benchmark_files(),
    }
    folders = [NETWORKS, LATENCY, BENCHMARK]
    left = [path for folder in folders for path in folder.glob("*") if path not in wanted]
    stale = [path.name for path in left]
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not args.check:
                with atomic_path(path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
    if not args.check:
        for path in left:
            path.unlink()
    print(f"{'stale' if args.check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    run_tool(main)
