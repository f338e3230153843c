"""What a study of searches says: sentences, tables and figures, all from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prunet_det.benchmark import analysis
from prunet_det.benchmark.search_study import ENOUGH, GROUPS, RANDOM, SEARCHED, SearchStudy
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import text_table
from prunet_det.utils.plots import COLOURS, DARK, GREY, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Titles of the columns, and the rows: arguments of `markdown_table`, the last ones of `text_table`.
Table = tuple[list[str], list[list[str]]]


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    """A table of rows by the titles of their columns, in the first row's order."""
    return [*rows[0]] if rows else [], [[*row.values()] for row in rows]


def spread_sentence(study: SearchStudy) -> str:
    """How far the judge tells networks apart."""
    s = study.spread()
    return (
        f"The random networks spread by {s.between:.3f} (standard deviation of their means), the "
        f"trainings of one network by {s.noise:.3f}: a ratio of {s.ratio:.1f}."
    )


def judge_sentence(study: SearchStudy) -> str:
    """The same without the noise that is left in the means, against what is asked for."""
    ratio = study.spread().corrected_ratio
    met = f"{ENOUGH:g} is asked for" if ratio >= ENOUGH else f"less than the {ENOUGH:g} asked for"
    return f"Without the noise that is left in the means it is {ratio:.1f}; {met}."


def marks_table(study: SearchStudy) -> Table:
    """Spread over noise after each number of steps, and how its order agrees with the last one."""
    rows, end = [], study.means(RANDOM)
    for mark in study.marks:
        s, losses, means = (
            study.spread(mark),
            study.spread_of_losses(mark),
            study.means(RANDOM, mark),
        )
        tau = None if mark == study.end else analysis.rank_agreement(means, end)
        rows.append(
            {
                "steps": str(mark),
                "median of random": f"{np.median(means):.3f}",
                "spread": f"{s.between:.3f}",
                "noise": f"{s.noise:.3f}",
                "ratio": f"{s.ratio:.1f}",
                "corrected": f"{s.corrected_ratio:.1f}",
                "by loss": f"{losses.corrected_ratio:.1f}" if losses else "-",
                "tau with end": "{:.2f} ({:.2f} to {:.2f})".format(*tau) if tau else "-",
            }
        )
    return _table(rows)


def curves_table(study: SearchStudy) -> Table:
    """Mean top-1 of each group after each number of steps."""
    curves = {g: {m: study.means(g, m).mean() for m in study.marks} for g in study.groups}
    return _table(
        [
            {"group": group, **{f"{mark} steps": f"{top1:.3f}" for mark, top1 in curve.items()}}
            for group, curve in curves.items()
        ]
    )


def groups_table(study: SearchStudy) -> Table:
    """Group, networks, trainings, top-1 of the group's networks, latency, blocks, cost."""
    rows = []
    for group in study.groups:
        own, means = study.group(group), study.means(group)
        half = analysis.half_width(means.tolist())
        seconds = [c.entry.search_seconds for c in own if c.entry.search_seconds]
        ms = [c.entry.latency_ms for c in own]
        rows.append(
            {
                "group": group,
                "networks": str(len(own)),
                "trainings each": str(min(len(c.runs) for c in own)),
                "mean top-1": f"{means.mean():.3f}" + (f" ± {half:.3f}" if len(own) > 1 else ""),
                "least to most": f"{means.min():.3f} to {means.max():.3f}",
                "ms": f"{min(ms):.3f} to {max(ms):.3f}",
                "blocks": f"{np.mean([len(c.entry.spec.blocks) for c in own]):.1f}",
                "search seconds": f"{np.mean(seconds):.0f}" if seconds else "-",
            }
        )
    return _table(rows)


def searched_table(study: SearchStudy) -> Table:
    """Every searched network: its percentile and what it beats."""
    found = sorted(study.group(SEARCHED), key=lambda c: c.entry.search_seed or 0)
    checked = [(c, study.checks(c)) for c in found]
    names = dict.fromkeys(name for _, checks in checked for name in checks)
    said = {True: "yes", False: "**no**", None: "-"}
    rows = []
    for c, checks in checked:
        same = "-"
        if replay := study.random_search(c):
            steps = f" for {replay.mark} steps" if replay.mark < study.end else ""
            same = f"{c.entry.search_seconds:.0f} s; {replay.count} random networks{steps}, "
            same += f"the best {replay.top1:.3f}"
        shares = (100 * share for share in study.percentile(c))
        rows.append(
            {
                "search seed": str(c.entry.search_seed),
                "top-1": f"{study.mean(c):.3f}",
                "percentile of random": "{:.0f} ({:.0f} to {:.0f})".format(*shares),
                **{name: said[checks.get(name)] for name in names},
                "the same time would train": same,
            }
        )
    return _table(rows)


def verdict(study: SearchStudy) -> list[str]:
    """Sentences on what the study has shown, whatever that is."""
    found = []
    others = [group for group in study.groups if group != RANDOM]
    for group in others if study.group(RANDOM) else ():
        own = study.group(group)
        shares = ", ".join(f"{100 * study.percentile(c)[0]:.0f}" for c in own)
        above = sum(study.mean(c) >= study.top_tenth for c in own)
        found.append(
            f"{group}: {above} of {len(own)} at or above the 90th percentile of random networks "
            f"(percentiles {shares})"
        )
    for other in others:
        group, without, _ = other.partition(", without")
        whole = group if without else SEARCHED
        if other != whole and (compared := study.against(whole, other)):
            found.append(f"{whole} against {other}: {compared}")
    replays = [(study.mean(c), study.random_search(c)) for c in study.group(SEARCHED)]
    if gains := [own - replay.top1 for own, replay in replays if replay]:
        gained = analysis.Difference(float(np.mean(gains)), study.noise / len(gains) ** 0.5)
        found.append(
            f"{SEARCHED} against the best of n random networks by the same compute: {gained}"
        )
    return found


def printed(study: SearchStudy) -> str:
    """What the command prints: what the judge is worth first, then curves, then networks."""
    try:
        parts = [
            f"{spread_sentence(study)} {judge_sentence(study)}",
            text_table("the judge, by random networks", *marks_table(study)),
        ]
    except UserError as e:
        parts = [str(e)]
    parts.append(text_table("learning curves: mean top-1", *curves_table(study)))
    parts.append(text_table("networks of one latency", *groups_table(study)))
    if study.group(SEARCHED) and study.group(RANDOM):
        parts.append(text_table("searched networks", *searched_table(study)))
    return "\n".join([*parts, *verdict(study)])


def draw_comparison(study: SearchStudy) -> Figure:
    """A strip a group: a dot a network, a line over its trainings."""
    groups, end = study.groups, study.end
    figure, (axes,) = plots.figure(8.0, 0.9 + 0.48 * len(groups))
    rng = np.random.default_rng(0)
    for row, group in enumerate(groups):
        own = sorted(study.group(group), key=study.mean)
        shifts = np.linspace(-0.28, 0.28, len(own)) if len(own) > 1 else np.zeros(1)
        shifts = rng.permutation(shifts) if group == RANDOM else shifts
        for c, shift in zip(own, shifts, strict=True):
            scores, colour = c.scores(end), _colour(study, group)
            axes.plot([min(scores), max(scores)], [row + shift] * 2, color=colour, alpha=0.45)
            axes.plot(study.mean(c), row + shift, "o", color=colour, markersize=5)
    random = study.means(RANDOM)
    if len(random):
        for value, style, what in (
            (float(np.median(random)), ":", "median of random"),
            (study.top_tenth, "--", "90th percentile of random"),
        ):
            axes.axvline(value, color=DARK, linestyle=style, linewidth=1, label=what)
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlabel(f"top-1 from scratch after {end} steps (dot: mean, line: over trainings)")
    axes.set_title(title(study), fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    return figure


def draw_curves(study: SearchStudy) -> Figure:
    """Top-1 over the steps of a training, a line a network; random ones behind the others."""
    figure, (axes,) = plots.figure(9.0, 4.2)
    for group in study.groups:
        behind = group == RANDOM
        curves = np.array([study.means(group, mark) for mark in study.marks])
        axes.plot(
            study.marks,
            curves,
            "o-",
            color=_colour(study, group),
            linewidth=1.0 if behind else 1.8,
            zorder=1 if behind else 2,
            markersize=3,
            label=[group, *[None] * (curves.shape[1] - 1)],
        )
    axes.set(xlabel="steps", ylabel="top-1 (mean over trainings)", xticks=study.marks)
    axes.set_title(title(study), fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.3)
    return figure


def _colour(study: SearchStudy, group: str) -> str:
    """The group's own; ablations have what the usual groups of a study leave over."""
    colours = {**PALETTE, "grey": GREY, "dark": DARK}
    if group in GROUPS:
        return colours[GROUPS[group]]
    taken = {colours[GROUPS[g]] for g in study.groups if g in GROUPS}
    free = [DARK, *(colour for colour in COLOURS if colour not in taken)]
    others = [g for g in study.groups if g not in GROUPS]
    return free[others.index(group) % len(free)]


def title(study: SearchStudy) -> str:
    """What is compared, under what."""
    about = study.about
    return f"{about['budget_ms']:g} ms, {about['device']}, {about['data']}"
