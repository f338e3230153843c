"""The tables of docs/method.md, from the records under docs/results/search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunet_det.search import verdict
from prunet_det.search.cost_check import draw_costs
from prunet_det.search.entries import ABLATIONS, FOUND, SEARCHED
from prunet_det.search.results import tiers_off
from prunet_det.utils.io import markdown_table, read_csv


def budgets(results: Path) -> str:
    """Searches against their budgets."""
    rows = []
    for path in sorted(results.glob("budgets*.csv")):
        for r in read_csv(path)[1]:
            before, changed = float(r["before_repair"]) - 1, float(r["width_changed"])
            rows.append(
                [
                    Path(r["config"]).stem + (" + last tier" if r.get("last_tier") else ""),
                    f"{r['device']}, {r['kind']}",
                    f"{float(r['budget_ms']):g}",
                    r["seed"],
                    f"{before:+.1%}",
                    f"{changed:.1%}",
                    f"{float(r['latency_ms']):.4g}",
                    f"**{float(r['of_budget']):.1%}**",
                    r["blocks"],
                    f"{float(r['search_seconds']):.0f}",
                ]
            )
    header = ["config", "device", "budget ms", "seed", "before repair", "inner width changed", "ms"]
    return markdown_table([*header, "of budget", "blocks", "seconds"], rows)


def budgets_met(results: Path) -> list[str]:
    """A clause for predicted and for measured latencies: which shares of a budget they are."""
    shares: dict[str, list[float]] = {}
    for path in sorted(results.glob("budgets*.csv")):
        for r in read_csv(path)[1]:
            what = "V100" if r["device"] == "v100" else "CPU"
            shares.setdefault(f"{what}, {r['kind']}", []).append(float(r["of_budget"]))
    return [
        f"{len(found)} results ({what}) lie at {min(found):.1%} to {max(found):.1%} of it"
        for what, found in shares.items()
    ]


def pruning(results: Path) -> str:
    """The same search with and without pruning, run at the same time."""
    records = read_csv(results / "pruning.csv")[1]
    on, off = (
        next(r for r in records if ("widths" in tiers_off(r)) is without)
        for without in (False, True)
    )
    seconds = [float(r["search_seconds"]) for r in (on, off)]
    rows = [
        [what, r["config"], r["budget_ms"], r["seed"], f"{s:.0f}"]
        for what, r, s in (("with pruning", on, seconds[0]), ("without", off, seconds[1]))
    ]
    table = markdown_table(["search", "config", "budget ms", "seed", "seconds"], rows)
    return table + f"\nA ratio of {seconds[0] / seconds[1]:.2f}.\n"


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
    for r in read_csv(results / "rule.csv")[1]:
        shares = [f"{float(r[key]):.1%}" for key in ("within_one", "clear", "monotone")]
        rows.append([f"{float(r['bias']):g}", *shares, f"{float(r['mean_regret']):.3f}"])
    return markdown_table(
        ["early bias", "all", "with a clear optimum", "monotone", "mean regret"], rows
    )


def study(results: Path) -> verdict.SearchStudy:
    """The published study of what searches found beside what they have to beat."""
    return verdict.SearchStudy.load(results / "compare")


def compared(results: Path) -> str:
    """Groups of networks of one latency."""
    found = study(results)
    rows = [row for row in verdict.group_rows(found) if row[0] not in ABLATIONS]
    between, within = found.spread()
    return (
        markdown_table(verdict.GROUP_HEADER, rows)
        + f"\nThe random networks spread by {between:.3f} (standard deviation of their means), the "
        f"trainings of one network by {within:.3f}: a ratio of {between / within:.1f}.\n"
    )


def searched(results: Path) -> str:
    """Each searched network against what it has to beat."""
    found = study(results)
    return markdown_table(verdict.searched_header(found), verdict.searched_rows(found))


def ablations(results: Path) -> str:
    """Searches with a tier off, beside the whole search before its last tier."""
    shown = (SEARCHED, FOUND, *ABLATIONS)
    rows = [row for row in verdict.group_rows(study(results)) if row[0] in shown]
    return markdown_table(verdict.GROUP_HEADER, rows)


def agreement(results: Path) -> str:
    """How far the search's seeds agree."""
    return markdown_table(verdict.AGREEMENT_HEADER, verdict.agreement(study(results)))


# Name to the table, given the folder of the records.
TABLES: dict[str, Callable[[Path], str]] = {
    "budgets": budgets,
    "pruning": pruning,
    "supernet_cost": supernet_cost,
    "rule": rule,
    "compared": compared,
    "searched": searched,
    "ablations": ablations,
    "agreement": agreement,
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
    return {
        "supernet_cost.svg": (draw_costs, costs),
        "comparison.svg": (verdict.draw_comparison, study(results)),
    }
