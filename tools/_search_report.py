"""Tables and figures of searches, which tools/report.py writes into docs/."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from _gate import PRICES

from prunet_det.benchmark import search_tables
from prunet_det.benchmark.records import load_records
from prunet_det.benchmark.search_study import ENTRIES, RANDOM, SEARCHED, SearchStudy
from prunet_det.latency import predict
from prunet_det.search.result import RUN_FILE, SearchResult
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import markdown_table, read_csv, read_json
from prunet_det.utils.plots import MARKERS, PALETTE

# What `prices` says of a supernet, by its key in the record.
CHANGES = {
    **{key: f"layers go, {title}" for key, title in PRICES.items()},
    "loss_per_log_ms": "e times the ms",
}
LOSS = "on the detector's loss"  # a group of detector_study.py
JUDGE = "judge"  # the studies' folder, and what their figures' names begin with


def budgets(results: Path) -> str:
    """Searches against their budgets."""
    rows = [
        [
            Path(r["config"]).stem,
            f"{r['device']}, {r['kind']}",
            f"{r['budget_ms']:g}",
            r["seed"],
            f"{r['latency_ms']:.4g}",
            f"**{r['of_budget']:.1%}**",
            r["blocks"],
            r["chooser"],
            f"{r['search_seconds']:.0f}",
        ]
        for r in _met(results)
    ]
    header = ["config", "device", "budget ms", "seed", "ms", "of budget", "blocks", "chosen by"]
    return markdown_table([*header, "seconds of the whole search"], rows)


def budgets_met(results: Path) -> list[str]:
    """A clause for each device, predicted or measured: which shares of a budget its results are."""
    shares: dict[str, list[float]] = {}
    for r in _met(results):
        shares.setdefault(f"{r['device'].upper()}, {r['kind']}", []).append(r["of_budget"])
    spans = {what: {f"{end:.1%}": None for end in (min(s), max(s))} for what, s in shares.items()}
    return [
        f"{len(shares[what])} results ({what}) lie at {' to '.join(span)} of it"
        for what, span in spans.items()
    ]


def _met(results: Path) -> Iterator[dict[str, Any]]:
    """A record a network, of results of searches; predicted milliseconds are predicted anew."""
    for path in sorted(results.glob(f"found/*/{RUN_FILE}")):
        found = SearchResult.load(path.parent)
        for network in found.networks.values():
            conditions, size = network.budget.conditions, network.budget.input_size
            ms = network.measured_ms or network.ms
            if network.kind == "predicted":
                ms = predict(network.spec, conditions.device, conditions.batch, size).latency.ms
            yield {
                "config": found.run["config"],
                "device": conditions.device,
                "kind": network.kind,
                "budget_ms": network.budget.ms,
                "seed": str(found.run["seed"]),
                "latency_ms": ms,
                "of_budget": ms / network.budget.ms,
                "blocks": str(len(network.spec.blocks)),
                "chooser": network.chooser,
                "search_seconds": sum(found.run["seconds"].values()),
            }


def supernet_cost(results: Path) -> str:
    """Steps of supernets by the number of widths."""
    comments, records = read_csv(results / "supernet_cost.csv")
    rows = []
    for r in records:
        fits = r["fits"] == "True"
        kept = f"{float(r['saved_mb']):.0f}"
        rows.append(
            [
                {"prunode": "Prunodes", "explicit": "a candidate a width"}[r["kind"]],
                r["widths"],
                f"{int(r['parameters']):,}",
                f"{int(r['flops']) / 1e9:.1f}" if fits else "-",
                kept if fits else f"over {kept}",
                f"{float(r['step_ms']):.0f}" if fits else "does not fit",
            ]
        )
    header = ["supernet", "widths", "parameters", "GFLOPs a step", "kept for backward, MiB"]
    ratio = float(records[0]["prunode_of_plain"])
    return (
        markdown_table([*header, "ms a step"], rows)
        + f"\nA Prunode's step takes {ratio:.2f} times that of a plain block of its larger width "
        f"({comments['machine']}).\n"
    )


def rule(results: Path) -> str:
    """The Prunodes' rule on known preferences."""
    rows = []
    for r in read_csv(results / "prunode_rule.csv")[1]:
        losses = [f"{float(r[key]):.3f}" for key in ("before", "after")]
        shares = [f"{float(r[key]):.1%}" for key in ("near", "worse", "moved")]
        rows.append([f"{float(r['noise']):g}", *losses, *shares])
    header = ["noise of a path", "loss at uniform widths", "loss at the end", "near the best"]
    return markdown_table([*header, "worse than uniform", "moved without preference"], rows)


def gate(results: Path) -> str:
    """How supernets rank networks, and what they say of layers."""
    ranks, prices = [], []
    for path in sorted((results / "gate").glob("*.json")):
        record = read_json(path, "record of gate or prices")
        about = [f"{record['budget_ms']:g}", str(record["seed"])]
        if "networks" in record:
            taus = (record["tau_loss"], record["tau_top1"])
            shown = ["{:.2f} ({:.2f} to {:.2f})".format(*tau) if tau else "-" for tau in taus]
            ranks.append([*about, str(len(record["networks"])), *shown])
        else:
            shown = ["{:+.3f} ± {:.3f}".format(*record[key]) for key in CHANGES]
            prices.append([*about, str(record["count"]), *shown])
    head = ["budget ms", "seed", "networks"]
    parts = [
        ([*head, "tau of the supernet's loss", "tau of its top-1"], ranks),
        ([*head, *(f"change of the loss: {change}" for change in CHANGES.values())], prices),
    ]
    return "\n".join(markdown_table(*p) for p in parts if p[1]) or "None are published yet.\n"


def studies(results: Path) -> dict[str, SearchStudy]:
    """The studies by the long judge, by the names of their folders."""
    paths = sorted((results / JUDGE).rglob(ENTRIES))
    return {path.parent.name: SearchStudy.load(path.parent) for path in paths}


def judged(results: Path) -> str:
    """What the studies by the long judge say: first what it is worth, then curves and networks."""
    parts = [_judged(name, study) for name, study in studies(results).items()]
    return "\n".join(parts) or "No study by it is published yet.\n"


def judged_in_short(results: Path) -> list[str]:
    """What searched networks reach beside random ones, a clause a study."""
    said = []
    for study in studies(results).values():
        own, random = study.means(SEARCHED), study.means(RANDOM)
        if len(own) and len(random):
            said.append(
                f"{study.about['budget_ms']:g} ms: mean top-1 {own.mean():.3f} of {len(own)} "
                f"searched networks, {random.mean():.3f} of {len(random)} random ones, whose best "
                f"has {random.max():.3f}"
            )
    return said


def _judged(name: str, study: SearchStudy) -> str:
    pictures = [
        f"![{what}](docs/search/{JUDGE}_{name}{end}.svg)\n"
        for what, end in (("Learning curves", "_curves"), ("Networks of one latency", ""))
    ]
    try:
        worth = [
            f"{search_tables.spread_sentence(study)} {search_tables.judge_sentence(study)}\n",
            markdown_table(*search_tables.marks_table(study)),
        ]
    except UserError:
        worth = ["One training of each network, or hardly a random one: no spread over noise.\n"]
    groups = markdown_table(*search_tables.groups_table(study))
    shown = [f"**{name}** ({search_tables.title(study)})\n", *worth, pictures[0], groups]
    shown.append(pictures[1])
    if study.group(SEARCHED):
        shown.append(markdown_table(*search_tables.searched_table(study)))
    shown.append("".join(f"* {sentence}.\n" for sentence in search_tables.verdict(study)))
    return "\n".join(shown)


def detectors(results: Path) -> str:
    """Detectors of one latency by what chose their backbones (detector_study.py)."""
    found: dict[str, dict[float, list[float]]] = {}
    for record in load_records(results / "detectors"):
        details = (record.arch or {})["provenance"]["details"]
        own = found.setdefault(details["stands_for"], {})
        own.setdefault(details["at_ms"], []).append(float(record.metrics["mAP"] or 0.0))
    budgets = sorted({ms for own in found.values() for ms in own})
    rows = []
    for group, own in found.items():
        row = [group]
        for every in (sorted(own.get(ms, [])) for ms in budgets):
            middle = f" (median **{median(every):.3f}**)" if every else ""
            row.append(", ".join(f"{v:.3f}" for v in every) + middle)
        rows.append(row)
    ours, crops, chance = (found[g] for g in (LOSS, "on crops", "random"))
    above = sum(v > median(chance[ms]) for ms in budgets for v in ours[ms])
    total = sum(len(ours[ms]) for ms in budgets)
    lead = mean(mean(ours[ms]) - mean(crops[ms]) for ms in budgets)
    said = (
        f"Of the {total} detectors that were searched on their own loss {above} are above the "
        f"median of the random ones; on average they are {abs(lead):.3f} mAP "
        f"{'above' if lead > 0 else 'below'} those that were searched on crops.\n"
    )
    header = ["backbone", *(f"mAP at {ms:g} ms" for ms in budgets)]
    return f"{said}\n{markdown_table(header, rows)}"


def draw_costs(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Memory and time over the number of widths, both axes logarithmic."""
    figure, panels = plots.figure(7.5, 3.2, columns=2)
    counts = sorted({r["widths"] for r in rows})
    styles = {"prunode": ("Prunodes", "blue"), "explicit": ("a candidate a width", "vermilion")}
    for axis, key, label in zip(
        panels, ("saved_mb", "step_ms"), ("kept for the backward, MiB", "ms a step"), strict=True
    ):
        top = 4 * max((r[key] for r in rows if r["fits"]), default=1.0)
        for marker, (kind, (name, colour)) in zip(MARKERS, styles.items(), strict=False):
            own = [r for r in rows if r["kind"] == kind]
            fitting = [(r["widths"], r[key]) for r in own if r["fits"]] or [(math.nan, math.nan)]
            x, y = zip(*fitting, strict=True)
            axis.plot(x, y, color=PALETTE[colour], marker=marker, label=name)
            for r in own:
                if not r["fits"]:
                    axis.plot(r["widths"], top, "x", color=PALETTE[colour])
                    axis.annotate(
                        "does not fit",
                        (r["widths"], top),
                        (-5, 0),
                        textcoords="offset points",
                        ha="right",
                        va="center",
                        size=8,
                    )
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, labels=[f"{count:g}" for count in counts])
        plots.log_scale(axis, "y")
        axis.set(xlabel="inner widths to choose from", ylabel=label)
        axis.grid(alpha=0.25)
    panels[0].legend(frameon=False, loc="center right")
    return figure


# Name to the table, given the folder of the records.
TABLES: dict[str, Callable[[Path], str]] = {
    "budgets": budgets,
    "supernet_cost": supernet_cost,
    "rule": rule,
    "gate": gate,
    "judged": judged,
    "detectors": detectors,
}


def figures(results: Path) -> dict[str, tuple[Any, ...]]:
    """Name of each figure of docs/search to a function that draws it, and its arguments."""
    costs = [
        {
            "kind": r["kind"],
            "fits": r["fits"] == "True",
            **{key: float(r[key]) for key in ("widths", "saved_mb", "step_ms")},
        }
        for r in read_csv(results / "supernet_cost.csv")[1]
    ]
    found: dict[str, tuple[Any, ...]] = {
        "supernet_cost.svg": (draw_costs, costs),
    }
    for name, study in studies(results).items():
        found[f"{JUDGE}_{name}.svg"] = search_tables.draw_comparison, study
        found[f"{JUDGE}_{name}_curves.svg"] = search_tables.draw_curves, study
    return found
