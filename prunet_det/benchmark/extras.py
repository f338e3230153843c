"""What else lies in a benchmark's folder: learning rate, repeated timing, training speed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from prunet_det.benchmark.fronts import SCOPES
from prunet_det.benchmark.records import LATENCY, RATE_FILE, REPEAT, Record, load_latencies
from prunet_det.latency.record import Latency
from prunet_det.utils.io import markdown_table, read_csv, read_json, reading


def markdown(folder: str | os.PathLike[str], records: Sequence[Record]) -> str:
    """A part for each that is there: learning_rate.json, repeat/, throughput.csv, profile.csv.

    Args:
        folder: Folder of the benchmark.
        records: Records of the folder.

    Raises:
        InputError: If one of the files is damaged.
    """
    folder, parts = Path(folder), list[str]()
    for name, part in (
        (RATE_FILE, partial(_rate, records=records)),
        (f"{REPEAT}/{LATENCY}", _repeats),
        ("throughput.csv", _throughput),
        ("profile.csv", _profile),
    ):
        if (folder / name).exists():
            with reading(folder / name, "part of a benchmark"):
                parts += part(folder / name)
    return "\n".join(parts)


def _rate(path: Path, records: Sequence[Record]) -> list[str]:
    chosen = read_json(path, "record of a learning rate")
    recipes = {r.config_hash for r in records}
    if recipes - {chosen["config_hash"]}:
        return ["The networks were trained at another learning rate than the one chosen.\n"]
    means = ", ".join(f"{rate}: {mean:.3f}" for rate, mean in chosen["mean_mAP"].items())
    tried = [float(rate) for rate in chosen["mean_mAP"]]
    ends = {max(tried): "highest", min(tried): "lowest"}
    end = ends.get(chosen["learning_rate"])
    note = f"; it is the {end} that was tried" if end else ""
    return [
        f"Learning rate, the same for all: {chosen['learning_rate']:g}, chosen by {chosen['by']} "
        f"(mean mAP by learning rate: {means}){note}.\n"
    ]


def _repeats(folder: Path) -> list[str]:
    """The second measurement against the first one."""
    rows = []
    for scope in reversed(SCOPES):
        first, second = (
            {(x.conditions, x.model, x.input_size): x for x, _ in found if x.scope is scope}
            for found in map(load_latencies, (folder.parents[1], folder.parent))
        )
        if both := [(first[key], x) for key, x in second.items() if key in first]:
            rows.append([scope.label, *compare_timings(both)])
    if not rows:
        return []
    header = ["scope", "second median within the first spread", "largest change"]
    header += ["pairs in another order", "of these, with spreads apart both times"]
    return ["The latencies were measured a second time:\n", markdown_table(header, rows)]


def compare_timings(timed: Sequence[tuple[Latency, Latency]]) -> list[str]:
    """Whether a second measurement gives the same order, and medians within the first spread.

    Args:
        timed: First and second latency of each network.

    Returns:
        Second medians within the first one's spread, largest change of a median, pairs of networks
        in another order, and how many of these no tie explains: spreads apart both times.
    """
    pairs = [(a, b) for a, b in combinations(timed, 2) if a[0].conditions == b[0].conditions]
    swapped = [(a, b) for a, b in pairs if (a[0].ms - b[0].ms) * (a[1].ms - b[1].ms) < 0]
    apart = [
        all(x.high < y.low or y.high < x.low for x, y in zip(a, b, strict=True)) for a, b in swapped
    ]
    within = sum(first.low <= second.ms <= first.high for first, second in timed)
    worst = max(abs(second.ms / first.ms - 1) for first, second in timed)
    of_pairs = f"{len(swapped)} of {len(pairs)}"
    return [f"{within} of {len(timed)}", f"{worst:.1%}", of_pairs, str(sum(apart))]


def _throughput(path: Path) -> list[str]:
    """Training fed from disk and from memory."""
    rows = [
        [
            r["device"],
            f"`{r['model']}`",
            r["input_size"],
            *(f"{float(r[k]):.1f}" for k in ("disk_images_per_s", "memory_images_per_s")),
            f"{float(r['ratio']):.2f}",
        ]
        for r in read_csv(path)[1]
    ]
    header = ["device", "backbone", "px", "from disk, images/s", "from memory, images/s", "ratio"]
    return ["Training speed, by where the images come from:\n", markdown_table(header, rows)]


def _profile(path: Path) -> list[str]:
    """Where the time goes: a row a step, a column a network."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for r in read_csv(path)[1]:
        network = f"`{r['model']}` {r['input_size']}"
        text = f"{float(r['ms']):.1f} ({float(r['share']):.0%})"
        cells.setdefault((f"{r['part']}, per {r['per']}", r["step"]), {})[network] = text
    networks = list(dict.fromkeys(n for row in cells.values() for n in row))
    rows = [[*key, *(row.get(n, "") for n in networks)] for key, row in cells.items()]
    table = markdown_table(["part", "step", *networks], rows)
    return ["Where the time goes in training and evaluation, ms (share of the part):\n", table]
