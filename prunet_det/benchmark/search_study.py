"""Is a search better than chance? Networks of one latency, trained from scratch by one recipe.

A folder holds `entries.json`, the networks and what each stands for, and the runs of a `RunStore`:
the learning curve of each training, top-1 at some marks. Everything here is read from them.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark import analysis
from prunet_det.search.finalists import MACS, RANDOM, UNIFORM
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import read_json, reading, write_text
from prunet_det.utils.runs import Run, RunStore

ENTRIES = "entries.json"
SEARCHED, FOUND = "searched", "before the last tier"
WIDTHS = "random widths"  # on the operators and depths of a search, as UNIFORM is
SURROGATE, SCALED = "surrogate without supernet", "scaled P0"
# Groups in the order of tables, with their colours in figures.
GROUPS = {
    SEARCHED: "blue",
    FOUND: "sky",
    UNIFORM: "vermilion",
    WIDTHS: "orange",
    SURROGATE: "green",
    MACS: "pink",
    SCALED: "black",
    RANDOM: "grey",
}
ENOUGH = 3.0  # spread over noise that a judge needs
_TOP = 0.9  # share of random networks that a search is to be above


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network that is compared.

    Attributes:
        group: What it stands for, such as `random`.
        name: Its own, unique in a study.
        spec: The network.
        latency_ms: Milliseconds as they were priced.
        search_seed: Seed of the search that it belongs to, if any.
        search_seconds: What that search took: its share of what all budgets need, and its own last
            tier; 0 for no search.
        search_machine: Where; empty for the machine of the trainings.
        search_steps: Steps of all trainings of that search's last tier.
        told: Number of short trainings that a surrogate chose the network by.
    """

    group: str
    name: str
    spec: ArchSpec
    latency_ms: float
    search_seed: int | None = None
    search_seconds: float = 0.0
    search_machine: str = ""
    search_steps: int = 0
    told: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry as JSON values."""
        return {**self.__dict__, "network": self.spec.digest, "spec": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Entry:
        """Builds an entry from what `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: It is none, or of another network than it says.
        """
        values = {**data, "spec": ArchSpec.from_dict(data["spec"])}
        network = values.pop("network")
        if values["spec"].digest != network:
            raise InputError(f"{data['name']} is {values['spec'].digest}, not {network}")
        return cls(**values)


def read_entries(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Entry]]:
    """Reads which networks are compared.

    Args:
        path: The file, or its folder.

    Returns:
        What they are compared under, and the networks.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is damaged.
    """
    path = Path(path) / ENTRIES if Path(path).is_dir() else Path(path)
    data = read_json(path, "list of compared networks")
    with reading(path, "list of compared networks"):
        return data["about"], [Entry.from_dict(entry) for entry in data["entries"]]


def write_entries(folder: Path, about: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Writes which networks are compared, one a line, and under what."""
    lines = ",\n".join(f"  {json.dumps(entry.to_dict())}" for entry in entries)
    head = json.dumps(about, indent=1).replace("\n", "\n ")
    write_text(folder / ENTRIES, f'{{\n "about": {head},\n "entries": [\n{lines}\n ]\n}}\n')


@dataclass(frozen=True)
class Contestant:
    """A network and its trainings, in the order of their seeds."""

    entry: Entry
    runs: tuple[Run, ...]

    def scores(self, mark: int) -> list[float]:
        """Top-1 of each training after so many steps."""
        return [run.figures["curve"][str(mark)][0] for run in self.runs]

    def losses(self, mark: int) -> list[float]:
        """Loss of each training that has one, after so many steps."""
        found = (run.figures["curve"][str(mark)][1] for run in self.runs)
        return [loss for loss in found if loss is not None]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What random search would have found in some time, by the records of the random networks.

    Attributes:
        count: Number of networks that there is time for.
        mark: Steps that they are trained for, to choose one.
        top1: Expected top-1 of the one that is chosen, at the end of a whole training.
    """

    count: int
    mark: int
    top1: float


class SearchStudy:
    """Searched networks beside what they have to beat, with the trainings of all.

    Args:
        about: What they are compared under.
        entries: The networks.
        runs: Trainings; those of another recipe do not count.

    Attributes:
        contestants: The networks with at least one training.
        marks: Steps after which all trainings were scored.
        end: The last of them, by which networks are judged.
    """

    def __init__(
        self, about: dict[str, Any], entries: Sequence[Entry], runs: Iterator[Run] | Sequence[Run]
    ) -> None:
        self.about = about
        own: dict[str, list[Run]] = defaultdict(list)
        for run in sorted(runs, key=lambda run: run.seed):
            if run.recipe == about["recipe"]:
                own[run.subject].append(run)
        trained = [Contestant(e, tuple(own[e.spec.digest])) for e in entries]
        self.contestants = [c for c in trained if c.runs]
        if not self.contestants:
            raise UserError("none of the compared networks was trained yet.")
        curves = (set(run.figures["curve"]) for c in self.contestants for run in c.runs)
        self.marks = sorted(map(int, set.intersection(*curves)))
        self.end = self.marks[-1]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> SearchStudy:
        """Reads a folder.

        Raises:
            UserError: Files are missing or damaged, or no network was trained.
        """
        return cls(*read_entries(folder), iter(RunStore(folder)))

    def to_dict(self) -> dict[str, Any]:
        """Returns what figures show."""
        shown = [
            (c.entry.group, c.entry.name, [r.figures for r in c.runs]) for c in self.contestants
        ]
        return {"about": self.about, "contestants": shown}

    def group(self, name: str) -> list[Contestant]:
        """Lists the contestants of a group."""
        return [c for c in self.contestants if c.entry.group == name]

    @property
    def groups(self) -> list[str]:
        """Groups that have contestants: the usual ones first, then others, such as ablations."""
        found = dict.fromkeys(c.entry.group for c in self.contestants)
        return [*(g for g in GROUPS if g in found), *(g for g in found if g not in GROUPS)]

    def mean(self, one: Contestant, mark: int | None = None) -> float:
        """Mean top-1 of a network's trainings, at the end unless another mark is given."""
        return float(np.mean(one.scores(mark or self.end)))

    def means(self, group: str, mark: int | None = None) -> np.ndarray:
        """Mean top-1 of each network of a group."""
        return np.array([self.mean(c, mark) for c in self.group(group)])

    def spread(self, mark: int | None = None) -> analysis.Spread:
        """Compares the spread of the random networks with that of their trainings.

        Raises:
            UserError: There are too few trainings.
        """
        return analysis.spread([c.scores(mark or self.end) for c in self.group(RANDOM)])

    def spread_of_losses(self, mark: int) -> analysis.Spread | None:
        """The same of their losses; None where they were not kept."""
        losses = [c.losses(mark) for c in self.group(RANDOM)]
        return analysis.spread(losses) if all(losses) else None

    @property
    def noise(self) -> float:
        """Standard deviation of one training, 0 where no network was trained twice.

        It is that of the random networks' trainings, or of all networks' where none is random.
        """
        networks = self.group(RANDOM) or self.contestants
        try:
            return analysis.spread([c.scores(self.end) for c in networks]).noise
        except UserError:
            return 0.0

    @property
    def top_tenth(self) -> float:
        """Mean top-1 that a tenth of the random networks reach, interpolated."""
        return float(np.quantile(self.means(RANDOM), _TOP))

    def percentile(self, one: Contestant) -> tuple[float, float, float]:
        """Share of the random networks that a network beats, with its interval."""
        others = [c.scores(self.end) for c in self.group(RANDOM)]
        return analysis.percentile(one.scores(self.end), others)

    def random_search(self, one: Contestant) -> Replay | None:
        """Replays random search with the compute of the search that a network comes from.

        Random networks are trained for the first mark's steps, the best of them is kept, and its
        other trainings say what it is worth. Where there is but one mark, or one training, it is
        judged by the very scores that chose it, which flatters it. Of those marks that leave the
        steps of a training the one is taken at which random search does best.

        Args:
            one: A searched network.
        """
        random = self.group(RANDOM)
        if not random or not one.entry.search_seconds:
            return None
        replays = []
        for mark in self.marks[:-1] or self.marks:
            chosen_by, worth = self._chosen_by(random, mark)
            count = self.affordable(one, mark)
            best = analysis.best_of(count, chosen_by, worth)
            replays.append(Replay(count=count, mark=mark, top1=best))
        return max(replays, key=lambda r: r.top1)

    def affordable(self, one: Contestant, mark: int) -> int:
        """Number of random networks that could be trained in the time of a search.

        Args:
            one: A searched network. Where no training ran on its search's machine, it is all that
                there are.
            mark: Steps that they are trained for.
        """
        random, machine = self.group(RANDOM), one.entry.search_machine
        same = [
            [r.seconds for r in c.runs if machine in ("", r.made.get("machine"))] for c in random
        ]
        each = [np.mean(seconds) for seconds in same if seconds]
        if not each:
            return len(random)
        count = int(one.entry.search_seconds / (np.mean(each) * mark / self.end))
        return max(1, min(len(random), count))

    def _chosen_by(self, random: list[Contestant], mark: int) -> tuple[np.ndarray, np.ndarray]:
        """The score that chooses and the one that is reported, of each network."""
        if mark == self.end or min(len(c.runs) for c in random) < 2:
            return self.means(RANDOM, mark), self.means(RANDOM)
        reported = [np.mean(c.scores(self.end)[1:]) for c in random]
        return np.array([c.scores(mark)[0] for c in random]), np.array(reported)

    def against(self, group: str, other: str) -> analysis.Difference | None:
        """Says how much better a group is in top-1, by the search seeds that both groups have.

        Args:
            group: One group.
            other: The other one; None comes of an empty one.
        """
        sides = [self.group(group), self.group(other)]
        common = set.intersection(*({c.entry.search_seed for c in side} for side in sides))
        if seeds := common - {None}:
            sides = [[c for c in side if c.entry.search_seed in seeds] for side in sides]
        if not all(sides):
            return None
        first, second = ([c.scores(self.end) for c in side] for side in sides)
        return analysis.difference(first, second, self.noise)

    def checks(self, one: Contestant) -> dict[str, bool]:
        """Says whether a searched network beats what it has to, as far as that was trained."""
        own, noise, found = self.mean(one), self.noise, {}
        if len(random := self.means(RANDOM)):
            found["above the median of random"] = own > np.median(random)
            found["at or above their 90th percentile"] = own >= self.top_tenth
        if len(scaled := self.means(SCALED)):
            found["above scaled P0"] = own > scaled[0]
        for c in self.group(UNIFORM):
            if c.entry.search_seed == one.entry.search_seed:
                found["not below uniform widths"] = own >= self.mean(c)
        replay = self.random_search(one)
        if replay and replay.mark < self.end:
            found["not below random search by more than the noise"] = own >= replay.top1 - noise
        if len(surrogate := self.means(SURROGATE)):
            found["not below the surrogate by more than the noise"] = (
                own >= surrogate.mean() - noise
            )
        return {what: bool(ok) for what, ok in found.items()}
