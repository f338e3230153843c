"""Which networks a comparison is about: what searches found, and what they have to beat."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.search.baselines import random_repaired, scaled_repaired
from prunet_det.search.costs import Budget, BudgetError, Pricing, SpaceCosts
from prunet_det.search.finals import uniform
from prunet_det.search.repair import repair
from prunet_det.search.results import ARCH_FILE, FOUND_FILE, RUN_FILE
from prunet_det.search.space import Network
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import write_json

ENTRIES = "entries.json"
# Group to the flags of a search with one tier off, in the order of the tables. They have no last
# tier, which would hide what the others are worth: they stand beside the group FOUND.
ABLATIONS = {
    "tier 1 off: expansions 1, 3, 6": ["--no-finals", "--fixed-expansions", "1", "3", "6"],
    "tier 2 off: candidates stay": ["--no-finals", "--no-block-pruning"],
    "tier 3 off: skip from the start": ["--no-finals", "--skip-from-start"],
}
SEARCHED, FOUND, UNIFORM, WIDTHS = (
    "searched",
    "before the last tier",
    "uniform widths",
    "random widths",
)
RANDOM, SCALED = "random", "scaled P0"
_WIDTH_DRAWS = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network that is compared.

    Attributes:
        group: What it stands for, such as `random`.
        name: Its own, unique.
        spec: The network.
        latency_ms: As priced.
        search_seed: Of the search that it belongs to, if any.
        search_seconds: What that search took, last tier included.
    """

    group: str
    name: str
    spec: ArchSpec
    latency_ms: float
    search_seed: int | None = None
    search_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For entries.json; blocks as stage, kind, kernel, input and inner width."""
        values = {k: v for k, v in self.__dict__.items() if k != "spec"}
        blocks = [
            [i, b.kind, b.kernel, b.in_chs, b.hidden]
            for i, stage in enumerate(self.spec.stages)
            for b in stage.blocks
        ]
        return {**values, "network": self.spec.digest, "blocks": blocks}


def searched_entries(
    folder: Path, group: str, seed: int, costs: SpaceCosts, budget: Budget
) -> Iterator[Entry]:
    """The result of a search, what it was before the last tier, and, of the whole search, its
    operators with other widths.

    Args:
        folder: Of the search.
        group: SEARCHED, or an ablation.
        seed: Of the search.
        costs: Of the space with free widths.
        budget: To fill to.
    """
    run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    spec = ArchSpec.load(folder / ARCH_FILE)
    ms, seconds = run["after_repair_ms"], run["search_seconds"] + run.get("final_seconds", 0.0)
    yield Entry(
        group=group,
        name=f"{group} {seed}",
        spec=spec,
        latency_ms=ms,
        search_seed=seed,
        search_seconds=seconds,
    )
    if group != SEARCHED:
        return
    found = ArchSpec.load(folder / FOUND_FILE)
    network = costs.space.network_of(found)
    yield Entry(
        group=FOUND,
        name=f"{FOUND} {seed}",
        spec=found,
        latency_ms=costs.network_ms(network),
        search_seed=seed,
        search_seconds=run["search_seconds"],
    )
    final = costs.space.network_of(spec)
    try:
        even = uniform(final, costs, budget)
        yield _entry(UNIFORM, f"{UNIFORM} {seed}", even, costs, seed)
    except BudgetError:
        pass
    for draw in range(_WIDTH_DRAWS):
        other = _random_widths(final, costs, budget, seed * _WIDTH_DRAWS + draw)
        if other is not None:
            yield _entry(WIDTHS, f"{WIDTHS} {seed}.{draw}", other, costs, seed)


def _random_widths(
    network: Network, costs: SpaceCosts, budget: Budget, seed: int, tries: int = 100
) -> Network | None:
    chosen = random.Random(seed)
    for _ in range(tries):
        drawn = tuple(
            layer.block(layer.operator_of(b), chosen.choice(layer.widths_of(layer.operator_of(b))))
            if b
            else None
            for layer, b in zip(costs.space.layers, network, strict=True)
        )
        try:
            return repair(drawn, costs, budget, change_layers=False, fill=True).network
        except BudgetError:
            continue
    return None


def _entry(
    group: str, name: str, network: Network, costs: SpaceCosts, seed: int | None = None
) -> Entry:
    reason = f"{name}, what a search is compared with"
    spec = costs.space.to_spec(
        network, "compared", Provenance("hand-written", {"reason": reason}), costs.input_size
    )
    ms = costs.network_ms(network)
    return Entry(group=group, name=name, spec=spec, latency_ms=ms, search_seed=seed)


def baseline_entries(
    pricing: Pricing, costs: SpaceCosts, budget: Budget, count: int
) -> Iterator[Entry]:
    """Random networks of the space, and the published P0 scaled to the budget."""
    for i in range(count):
        yield _entry(RANDOM, f"{RANDOM} {i}", random_repaired(costs, budget, i).network, costs)
    scaled_costs, repaired = scaled_repaired(pricing, budget)
    yield _entry(SCALED, SCALED, repaired.network, scaled_costs)


def check_about(out: Path, about: dict[str, Any]) -> None:
    """Takes a folder for a comparison, before the first search.

    Raises:
        UserError: The folder holds another comparison.
    """
    path = out / ENTRIES
    if not path.is_file():
        write_json(path, {"about": about, "entries": []})
    else:
        before = json.loads(path.read_text(encoding="utf-8"))["about"]
        for key in ("space", "table", "budget_ms", "recipe"):
            if before.get(key) != about[key]:
                raise UserError(
                    f"{out} holds a comparison with another {key} ({before.get(key)}, not "
                    f"{about[key]}); give another --out."
                )


def write_entries(out: Path, entries: Sequence[Entry], about: dict[str, Any]) -> None:
    """Writes which networks are compared, and under what; records refer to them."""
    write_json(out / ENTRIES, {"about": about, "entries": [e.to_dict() for e in entries]})
    for entry in entries:
        entry.spec.save(out / "networks" / f"{entry.spec.digest}.json")
