"""What a study of searches says: sentences, tables and figures, all from its records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prunet_det.benchmark import analysis
from prunet_det.benchmark.search_study import (
    ENOUGH,
    FOUND,
    MACS,
    RANDOM,
    SCALED,
    SEARCHED,
    SURROGATE,
    UNIFORM,
    WIDTHS,
    SearchStudy,
)
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import markdown_table, text_table
from prunet_det.utils.plots import DARK, GREY, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[list[str], list[list[str]]]
_COLOURS = {
    SEARCHED: PALETTE["blue"],
    FOUND: PALETTE["sky"],
    UNIFORM: PALETTE["vermilion"],
    WIDTHS: PALETTE["orange"],
    SURROGATE: PALETTE["green"],
    MACS: PALETTE["pink"],
    SCALED: PALETTE["black"],
    RANDOM: GREY,
}


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
        s, means, losses = (
            study.spread(mark),
            study.means(RANDOM, mark),
            study.spread_of_losses(mark),
        )
        tau = None if mark == study.end else analysis.rank_agreement(means, end)
        rows.append(
            [
                str(mark),
                *(f"{value:.3f}" for value in (np.median(means), s.between, s.noise)),
                *(f"{ratio:.1f}" for ratio in (s.ratio, s.corrected_ratio)),
                f"{losses.corrected_ratio:.1f}" if losses else "-",
                f"{tau[0]:.2f} ({tau[1]:.2f} to {tau[2]:.2f})" if tau else "-",
            ]
        )
    header = ["steps", "median of random", "spread", "noise", "ratio", "corrected", "by loss"]
    return [*header, "tau with end"], rows


def curves_table(study: SearchStudy) -> Table:
    """Mean top-1 of each group after each number of steps."""
    rows = [
        [group, *(f"{study.means(group, mark).mean():.3f}" for mark in study.marks)]
        for group in study.groups
    ]
    return ["group", *(f"{mark} steps" for mark in study.marks)], rows


def groups_table(study: SearchStudy, shown: Sequence[str] | None = None) -> Table:
    """Group, networks, trainings, top-1 of the group's networks, latency, blocks, cost.

    Args:
        study: The study.
        shown: Groups to show; all by default.
    """
    rows = []
    for group in [g for g in study.groups if shown is None or g in shown]:
        own, means = study.group(group), study.means(group)
        half = analysis.half_width(means.tolist())
        seconds = [c.entry.search_seconds for c in own if c.entry.search_seconds]
        ms = [c.entry.latency_ms for c in own]
        rows.append(
            [
                group,
                str(len(own)),
                str(min(len(c.runs) for c in own)),
                f"{means.mean():.3f}" + (f" ± {half:.3f}" if half == half else ""),
                f"{means.min():.3f} to {means.max():.3f}",
                f"{min(ms):.3f} to {max(ms):.3f}",
                f"{np.mean([len(c.entry.spec.blocks) for c in own]):.1f}",
                f"{np.mean(seconds):.0f}" if seconds else "-",
            ]
        )
    header = ["group", "networks", "trainings each", "mean top-1", "least to most", "ms", "blocks"]
    return [*header, "search seconds"], rows


def searched_table(study: SearchStudy) -> Table:
    """Every searched network: its percentile and what it beats."""
    checked = study.checks()
    names = list(dict.fromkeys(name for _, checks in checked for name in checks))
    said = {True: "yes", False: "**no**", None: "-"}
    rows = []
    for c, checks in checked:
        point, low, high = study.percentile(c)
        replay = study.random_search(c)
        same = "-"
        if replay:
            steps = f" for {replay.mark} steps" if replay.mark < study.end else ""
            same = f"{c.entry.search_seconds:.0f} s; {replay.count} random networks{steps}, "
            same += f"the best {replay.top1:.3f}"
        rows.append(
            [
                str(c.entry.search_seed),
                f"{study.mean(c):.3f}",
                f"{100 * point:.0f} ({100 * low:.0f} to {100 * high:.0f})",
                *(said[checks.get(name)] for name in names),
                same,
            ]
        )
    header = ["search seed", "top-1", "percentile of random", *names]
    return [*header, "the same time would train"], rows


def verdict(study: SearchStudy) -> list[str]:
    """Sentences on what the study has shown, whatever that is."""
    found = []
    for group in [g for g in study.groups if g != RANDOM and len(study.group(RANDOM))]:
        own = study.group(group)
        shares = [study.percentile(c)[0] for c in own]
        above = sum(study.mean(c) >= study.top_tenth for c in own)
        found.append(
            f"{group}: {above} of {len(own)} at or above the 90th percentile of random networks "
            f"(percentiles {', '.join(f'{100 * s:.0f}' for s in shares)})"
        )
    for other in [g for g in study.groups if g not in (RANDOM, SEARCHED)]:
        compared = study.against(SEARCHED, other)
        if compared:
            found.append(f"{SEARCHED} against {other}: {_difference(*compared)}")
    replays = [(study.mean(c), study.random_search(c)) for c in study.group(SEARCHED)]
    gains = [own - replay.top1 for own, replay in replays if replay]
    if gains:
        found.append(
            f"{SEARCHED} against the best of n random networks by the same compute: "
            + _difference(float(np.mean(gains)), study.noise / len(gains) ** 0.5)
        )
    return found


def _difference(value: float, error: float) -> str:
    if not error:
        return f"{value:+.3f}; one training each does not say how sure that is"
    told = "not told apart" if abs(value) <= 2 * error else "better" if value > 0 else "worse"
    return f"{value:+.3f} ± {2 * error:.3f} (two standard errors of the trainings), {told}"


def printed(study: SearchStudy) -> str:
    """What the command prints: what the judge is worth first, then curves, then networks."""
    parts = []
    try:
        parts += [f"{spread_sentence(study)} {judge_sentence(study)}"]
        parts.append(text_table("the judge, by random networks", *marks_table(study)))
    except UserError as e:
        parts.append(str(e))
    parts.append(text_table("learning curves: mean top-1", *curves_table(study)))
    parts.append(text_table("networks of one latency", *groups_table(study)))
    if study.group(SEARCHED) and study.group(RANDOM):
        parts.append(text_table("searched networks", *searched_table(study)))
    return "\n".join([*parts, *verdict(study)])


def markdown(table: Table) -> str:
    """A table of a page."""
    return markdown_table(*table)


def draw_comparison(study: SearchStudy) -> Figure:
    """A strip a group: a dot a network, a line over its trainings."""
    groups, end = study.groups, study.end
    figure, (axes,) = plots.figure(8.0, 0.9 + 0.48 * len(groups))
    rng = np.random.default_rng(0)
    for row, group in enumerate(groups):
        own = sorted(study.group(group), key=study.mean)
        shifts = np.linspace(-0.28, 0.28, len(own)) if len(own) > 1 else np.zeros(1)
        shifts = rng.permutation(shifts) if group == RANDOM else shifts
        colour = _COLOURS.get(group, DARK)
        for c, shift in zip(own, shifts, strict=True):
            scores = c.scores(end)
            axes.plot([min(scores), max(scores)], [row + shift] * 2, color=colour, alpha=0.45)
            axes.plot(study.mean(c), row + shift, "o", color=colour, markersize=5)
    random = study.means(RANDOM)
    if len(random):
        for value, style, what in (
            (np.median(random), ":", "median of random"),
            (study.top_tenth, "--", "90th percentile of random"),
        ):
            axes.axvline(float(value), color=DARK, linestyle=style, linewidth=1, label=what)
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
        for i, c in enumerate(study.group(group)):
            axes.plot(
                study.marks,
                [study.mean(c, mark) for mark in study.marks],
                color=_COLOURS.get(group, DARK),
                linewidth=1.0 if behind else 1.8,
                zorder=1 if behind else 2,
                marker="o",
                markersize=3,
                label=group if i == 0 else None,
            )
    axes.set(xlabel="steps", ylabel="top-1 (mean over trainings)", xticks=study.marks)
    axes.set_title(title(study), fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.3)
    return figure


def title(study: SearchStudy) -> str:
    """What is compared, under what."""
    about = study.about
    return f"{about['budget_ms']:g} ms, {about['device']}, {about['data']}"
