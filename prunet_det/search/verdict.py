"""What a study of searches says: spreads, percentiles with intervals, and a strip plot."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunet_det.search.entries import (
    ENTRIES,
    FOUND,
    RANDOM,
    SCALED,
    SEARCHED,
    UNIFORM,
    WIDTHS,
)
from prunet_det.search.trainings import read_records
from prunet_det.utils import plots
from prunet_det.utils.errors import UserError
from prunet_det.utils.plots import DARK, GREY, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS = 2000
_ORDER = (SEARCHED, FOUND, UNIFORM, WIDTHS, SCALED, RANDOM)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A network and the top-1 of its trainings, in the order of their seeds."""

    group: str
    name: str
    search_seed: int | None
    latency_ms: float
    search_seconds: float
    blocks: tuple[tuple[Any, ...], ...]
    scores: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class SearchStudy:
    """What searches found beside what they have to beat, with the trainings of all.

    Attributes:
        about: What it was made under.
        contestants: Those with at least one training.
    """

    about: dict[str, Any]
    contestants: list[Contestant]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> SearchStudy:
        """From entries.json and records.jsonl.

        Raises:
            UserError: They are missing or damaged.
        """
        path = Path(folder) / ENTRIES
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            about, entries = data["about"], data["entries"]
        except (OSError, ValueError, KeyError) as e:
            raise UserError(f"{path} holds no study of searches: {e}.") from e
        scores: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
        for r in read_records(Path(folder)):
            if r["recipe"] == about["recipe"]:
                scores[r["network"]][r["train_seed"]] = r["top1"], r["seconds"]
        contestants = []
        for entry in entries:
            own = scores[entry["network"]]
            if own:
                every = [own[seed] for seed in sorted(own)]
                contestants.append(
                    Contestant(
                        group=entry["group"],
                        name=entry["name"],
                        search_seed=entry["search_seed"],
                        latency_ms=entry["latency_ms"],
                        search_seconds=entry["search_seconds"],
                        blocks=tuple(tuple(b) for b in entry["blocks"]),
                        scores=tuple(top1 for top1, _ in every),
                        seconds=sum(seconds for _, seconds in every) / len(every),
                    )
                )
        return cls(about, contestants)

    def group(self, name: str) -> list[Contestant]:
        """The contestants of a group."""
        return [c for c in self.contestants if c.group == name]

    @property
    def groups(self) -> list[str]:
        """Those that have contestants: the usual ones first, then the ablations."""
        names = list(dict.fromkeys(c.group for c in self.contestants))
        return sorted(names, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))

    def spread(self) -> tuple[float, float]:
        """Standard deviation of the random networks' means, and of one network's trainings.

        Raises:
            UserError: There are too few trainings.
        """
        random = self.group(RANDOM)
        several = [c.scores for c in random if len(c.scores) > 1]
        if len(random) < 3 or not several:
            raise UserError(
                "the spread needs at least 3 random networks and 2 trainings of each; train more."
            )
        between = float(np.std([c.mean for c in random], ddof=1))
        within = float(np.sqrt(np.mean([np.var(s, ddof=1) for s in several])))
        return between, within

    def percentile(self, one: Contestant, draws: int = _DRAWS) -> tuple[float, float, float]:
        """Share of random networks that a network beats, ties half, with a 95 % interval.

        The interval is a bootstrap's over the random networks and over the trainings of all.
        """
        random = [np.array(c.scores) for c in self.group(RANDOM)]
        if not random:
            raise UserError("there are no random networks to compare with.")
        rng = np.random.default_rng(0)

        def resampled(scores: np.ndarray) -> np.ndarray:
            return rng.choice(scores, (draws, len(scores))).mean(1)

        own = resampled(np.array(one.scores))
        others = np.stack([resampled(s) for s in random])
        chosen = rng.integers(len(random), size=(len(random), draws))
        drawn = others[chosen, np.arange(draws)]
        low, high = np.quantile(_share(own, drawn), [0.025, 0.975])
        point = _share(np.array([one.mean]), np.array([[c.mean] for c in self.group(RANDOM)]))
        return float(point[0]), float(low), float(high)

    def checks(self) -> list[tuple[Contestant, dict[str, bool]]]:
        """Whether each searched network beats what it has to."""
        means = np.array([c.mean for c in self.group(RANDOM)])
        scaled = self.group(SCALED)
        even = {c.search_seed: c.mean for c in self.group(UNIFORM)}
        found = []
        for c in self.group(SEARCHED):
            checks = {
                "above the median of random": bool(c.mean > np.median(means)),
                "at or above their 90th percentile": bool(c.mean >= np.quantile(means, 0.9)),
            }
            if scaled:
                checks["above scaled P0"] = bool(c.mean > scaled[0].mean)
            if c.search_seed in even:
                checks["not below uniform widths"] = bool(c.mean >= even[c.search_seed])
            found.append((c, checks))
        return found

    def random_search(self, seconds: float) -> tuple[int, float]:
        """How many random networks could be trained in a time, and the expected top-1 of the best.

        Networks are drawn without replacement from those that there are and judged by the very
        scores that are reported: this flatters random search.
        """
        random = self.group(RANDOM)
        each = float(np.mean([c.seconds for c in random]))
        count = max(1, min(len(random), int(seconds / each)))
        rng = np.random.default_rng(0)
        means = np.array([c.mean for c in random])
        best = [rng.choice(means, count, replace=False).max() for _ in range(_DRAWS)]
        return count, float(np.mean(best))


def _share(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    return ((others < own).mean(0) + 0.5 * (others == own).mean(0)).astype(float)


def interval(values: list[float]) -> float:
    """Half the width of the 95 % interval of a mean, by Student's t; nan for one value."""
    from scipy.stats import t

    if len(values) < 2:
        return float("nan")
    scale = np.std(values, ddof=1) / len(values) ** 0.5
    return float(t.ppf(0.975, len(values) - 1) * scale)


def group_rows(study: SearchStudy) -> list[list[str]]:
    """Group, networks, trainings, top-1 of the group's networks, latency, blocks, cost."""
    rows = []
    for group in study.groups:
        own = study.group(group)
        means = [c.mean for c in own]
        half = interval(means)
        seconds = [c.search_seconds for c in own if c.search_seconds]
        low, high = min(c.latency_ms for c in own), max(c.latency_ms for c in own)
        rows.append(
            [
                group,
                str(len(own)),
                str(min(len(c.scores) for c in own)),
                f"{np.mean(means):.3f}" + (f" ± {half:.3f}" if half == half else ""),
                f"{min(means):.3f} to {max(means):.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{np.mean([len(c.blocks) for c in own]):.1f}",
                f"{np.mean(seconds):.0f}" if seconds else "-",
            ]
        )
    return rows


GROUP_HEADER = [
    "group",
    "networks",
    "trainings each",
    "mean top-1",
    "least to most",
    "ms",
    "blocks",
    "search seconds",
]


def searched_rows(study: SearchStudy) -> list[list[str]]:
    """Every searched network: its percentile and what it beats."""
    rows = []
    for c, checks in study.checks():
        point, low, high = study.percentile(c)
        count, best = study.random_search(c.search_seconds)
        rows.append(
            [
                str(c.search_seed),
                f"{c.mean:.3f}",
                f"{100 * point:.0f} ({100 * low:.0f} to {100 * high:.0f})",
                *("yes" if ok else "**no**" for ok in checks.values()),
                f"{c.search_seconds:.0f} s; {count} random networks, the best {best:.3f}",
            ]
        )
    return rows


def searched_header(study: SearchStudy) -> list[str]:
    """Of `searched_rows`."""
    checks = study.checks()[0][1] if study.checks() else {}
    return ["search seed", "top-1", "percentile of random", *checks, "the same time would train"]


AGREEMENT_HEADER = [
    "group",
    "search seeds",
    "layers a stage",
    "same kind",
    "same kernel",
    "inner widths differ by a factor of",
]


def agreement(study: SearchStudy) -> list[list[str]]:
    """How alike the networks of two search seeds are; layers are matched by stage and place."""
    rows = []
    for group in (FOUND, SEARCHED):
        for a, b in combinations(study.group(group), 2):
            pairs = list(_matched(a, b))
            wide = [(x, y) for x, y in pairs if x[4] and y[4]]
            factor = np.exp(np.mean([abs(np.log(x[4] / y[4])) for x, y in wide])) if wide else 1.0
            depths = ", ".join("-".join(map(str, _depths(c))) for c in (a, b))
            rows.append(
                [
                    group,
                    f"{a.search_seed}, {b.search_seed}",
                    depths,
                    *(f"{np.mean([x[i] == y[i] for x, y in pairs]):.0%}" for i in (1, 2)),
                    f"{factor:.2f}",
                ]
            )
    return rows


def _depths(one: Contestant) -> list[int]:
    stages = [block[0] for block in one.blocks]
    return [stages.count(stage) for stage in range(max(stages) + 1)]


def _matched(a: Contestant, b: Contestant) -> Iterator[tuple[Any, Any]]:
    for stage in range(max(block[0] for block in a.blocks) + 1):
        own = [[block for block in c.blocks if block[0] == stage] for c in (a, b)]
        yield from zip(*own, strict=False)


def draw_comparison(study: SearchStudy) -> Figure:
    """A strip a group: a dot a network, a line over its trainings."""
    groups = study.groups
    figure, (axes,) = plots.figure(8.0, 0.9 + 0.48 * len(groups))
    rng = np.random.default_rng(0)
    colours = {SEARCHED: PALETTE["blue"], RANDOM: GREY}
    for row, group in enumerate(groups):
        own = sorted(study.group(group), key=lambda c: c.mean)
        spread = np.linspace(-0.28, 0.28, len(own)) if len(own) > 1 else [0.0]
        spread = rng.permutation(spread) if group == RANDOM else spread
        colour = colours.get(group, PALETTE["vermilion"])
        for c, shift in zip(own, spread, strict=True):
            axes.plot([min(c.scores), max(c.scores)], [row + shift] * 2, color=colour, alpha=0.45)
            axes.plot(c.mean, row + shift, "o", color=colour, markersize=5)
    random = [c.mean for c in study.group(RANDOM)]
    if random:
        for value, style, what in (
            (np.median(random), ":", "median of random"),
            (np.quantile(random, 0.9), "--", "90th percentile of random"),
        ):
            axes.axvline(float(value), color=DARK, linestyle=style, linewidth=1, label=what)
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    about = study.about
    axes.set_xlabel("top-1 from scratch (dot: mean, line: over trainings)")
    title = f"{about['budget_ms']:g} ms, {about['device']}, {about['data']}"
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    return figure
