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
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import _flags  # noqa: F401 (Ctrl-C ends the tool while it imports)
import _latency_report
import _metafile
import _search_report

import prunet_det
from prunet_det.benchmark import report
from prunet_det.benchmark.fronts import axes
from prunet_det.benchmark.gpu import tables as gpu_tables
from prunet_det.benchmark.judge import judge
from prunet_det.latency.kernels import spec_kernels, totals
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.io import markdown_table, read_csv, write_text
from prunet_det.utils.package import find_config, relative_path
from prunet_det.zoo.card import draw_network, model_card

ROOT = Path(__file__).resolve().parent.parent
DOCS, RESULTS = ROOT / "docs", ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
CARD_SIZES = (224, 512)  # pixels
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
    starts = {
        start: [r for _, r in read_records(sorted((RESULTS / "finetune").glob(f"{start}_*.json")))]
        for start in ("prunet_from_digits", "prunet_from_nothing")
    }
    tuned, fresh = (mean(r["metrics"]["bbox_mAP"] for r in own) for own in starts.values())
    (iterations,) = {r["training"]["iterations"] for own in starts.values() for r in own}
    suite = report.suites(RESULTS / "benchmark")["digits"]
    compared = judge(suite, only=axes(suite)[:1])
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
            "; ".join(_search_report.budgets_met(RESULTS / "search")),
            "[search](docs/method.md#does-it-meet-the-budget)",
        ],
        [
            "networks of one latency, trained from scratch on crops of 90 glyphs",
            "; ".join(_search_report.judged_in_short(RESULTS / "search")),
            "[search](docs/method.md#by-the-long-judge)",
        ],
        [
            "the shipped detector of the embedded digits, from random weights",
            f"mAP {card['metrics']['bbox_mAP']:.3f}, trained in {card['training']['minutes']:.0f} "
            "minutes on 2 cores",
            "[training](docs/training.md#the-recipe-on-the-digits)",
        ],
        [
            "small relatives in one detector, trained on these digits by one recipe, three times",
            "; ".join(c.sentence().rstrip(".") for c in compared),
            "[benchmark](docs/benchmark.md#results)",
        ],
        [
            "fine-tuning it on 200 images of ten other characters",
            f"mAP {tuned:.3f} in {iterations} iterations, {fresh:.3f} from random weights",
            "[fine-tuning](docs/finetuning.md)",
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


TABLES = {
    "shown": shown,
    "zoo": zoo,
    "digits": digits,
    "classifiers": classifiers,
    "finetuned": finetuned,
    "calibration": _latency_report.calibration,
    "predictions": _latency_report.predictions,
    "measured": _latency_report.measured,
    "checks": _latency_report.checks,
    "gpu": partial(gpu_tables.runs, RESULTS / "gpu"),
    "throughput": partial(gpu_tables.throughput, RESULTS / "gpu"),
    "benchmark_full": partial(report.full, RESULTS / "benchmark"),
    "imagenet": partial(report.imagenet, RESULTS / "benchmark"),
    "published": partial(report.quoted, RESULTS / "benchmark"),
    **{name: partial(of, RESULTS / "search") for name, of in _search_report.TABLES.items()},
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
    found[ROOT / "configs" / "metafile.yml"] = _metafile.metafile()
    for name in prunet_det.model_names():
        spec = prunet_det.load_spec(name)
        found[DOCS / "networks" / f"{name}.md"] = model_card(spec, costs(spec), f"{name}.svg")
    for name, text in report.csv_files(RESULTS / "benchmark").items():
        found[DOCS / "benchmark" / name] = text
    return found


def figures() -> dict[Path, tuple[Any, ...]]:
    """Path of every figure to a function that draws it, and its arguments."""
    specs = {name: prunet_det.load_spec(name) for name in prunet_det.model_names()}
    rooms = {
        "networks": {f"{name}.svg": (draw_network, spec) for name, spec in specs.items()},
        "latency": _latency_report.figures(),
        "search": _search_report.figures(RESULTS / "search"),
        "benchmark": report.figures(RESULTS / "benchmark"),
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
