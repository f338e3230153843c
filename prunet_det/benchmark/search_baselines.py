"""The networks of a study: those of searches, and what a search has to beat at one latency."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from prunet_det.arch.scaling import scale_compound
from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.benchmark.search_study import (
    FOUND,
    MACS,
    RANDOM,
    SCALED,
    SEARCHED,
    SURROGATE,
    UNIFORM,
    WIDTHS,
    Entry,
    SearchStudy,
)
from prunet_det.search.costs import Budget, BudgetError, Pricing
from prunet_det.search.evolution import Region, Scored, most_macs, propose
from prunet_det.search.result import LAST_TIER, SearchResult
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace, Shape
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.package import find_config, relative_path
from prunet_det.zoo.models import load_spec

# EfficientNet's compound scaling, without its resolution: depth and width for one more step.
_DEPTH, _WIDTH = 1.2, 1.1
_STEPS_PER_UNIT = 8
_MOST_UNITS = 12
_HIDDEN_STEP, _MOST_EXPANSION = 32, 8


def scaled_frame(units: float, name: str = "prunet_p0") -> tuple[SearchSpace, Shape]:
    """A published network scaled in width and depth, as a point of a space of its own operators.

    Args:
        units: Steps of compound scaling, each depth times 1.2 and width times 1.1; may be below 0.
        name: Name of the network.

    Raises:
        SpaceError: The network is no point of a search space, such as one with two stem
            convolutions.
    """
    spec = scale_compound(
        load_spec(name), _WIDTH**units, _DEPTH**units, _HIDDEN_STEP, _MOST_EXPANSION
    )
    stages = [
        dict(
            width=stage.blocks[-1].out_chs,
            depth=len(stage.blocks),
            stride=stage.stride,
            kinds=tuple(dict.fromkeys(block.kind for block in stage.blocks)),
            kernels=tuple(dict.fromkeys(block.kernel for block in stage.blocks)),
        )
        for stage in spec.stages
    ]
    space = SearchSpace.from_config(
        dict(
            stem=spec.stem.widths[-1],
            tail=spec.tail.width,
            stages=stages,
            hidden_step=_HIDDEN_STEP,
            most_expansion=_MOST_EXPANSION,
        )
    )
    return space, space.shape_of(spec)


def scaled_published(
    pricing: Pricing, budget: Budget, name: str = "prunet_p0"
) -> tuple[Shapes, Shape]:
    """A published network, scaled in width and depth until it meets a budget.

    Args:
        pricing: Where milliseconds come from.
        budget: What it may cost.
        name: Name of the network.

    Returns:
        The space of its own frame and operators, priced, and the network in it.

    Raises:
        BudgetError: Scaling does not reach the budget.
    """

    def at(step: int) -> tuple[Shapes, Shape, float]:
        space, shape = scaled_frame(step / _STEPS_PER_UNIT, name)
        shapes = Shapes(pricing.costs(space, budget.input_size))
        return shapes, shape, shapes.ms(shape)

    low, high = -_MOST_UNITS * _STEPS_PER_UNIT, _MOST_UNITS * _STEPS_PER_UNIT
    while high - low > 1:  # the latency rises with the scale, up to a few per mille
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle)[2] <= budget.ms else (low, middle)
    for step in sorted(range(low - 4, low + 6), key=lambda s: abs(s - low)):
        shapes, shape, _ = at(step)
        scaled = shapes.scale(shape, budget.ms)
        if scaled is not None:
            return shapes, scaled
    raise BudgetError(
        f"{name} scaled by {_WIDTH} in width and {_DEPTH} in depth a step, {-_MOST_UNITS} to "
        f"{_MOST_UNITS} steps, does not reach {budget.ms:g} ms."
    )


class Rows:
    """Makes the networks of a study: those of searches, and what they have to beat.

    Args:
        config: Config of the search, for its space.
        pricing: Source of the milliseconds.
        budget_ms: Budget that all networks are filled to.
        input_size: Side of the images of the budget, in pixels.

    Raises:
        UserError: It is no config of a search, or its space does not reach the budget.
    """

    def __init__(self, config: str, pricing: Pricing, budget_ms: float, input_size: int) -> None:
        cfg = read_config(config)
        if "space" not in cfg:
            raise InputError(f"{config} is no search config: it has no `space`.")
        costs = pricing.costs(SearchSpace.from_config(cfg.space), input_size)
        self.pricing, self.budget = pricing, costs.budget(budget_ms)
        self.shapes = Shapes(costs)
        self.shapes.check(budget_ms)
        self.region = Region(shapes=self.shapes, ms=budget_ms)
        self.about = {
            "budget_ms": budget_ms,
            "device": costs.table.title,
            "input_size": input_size,
            "space": costs.space.hash,
            "table": costs.table_hash,
            "config": relative_path(find_config(config)),
        }

    def entry(
        self,
        group: str,
        shape: Shape,
        *,
        seed: int | None = None,
        name: str = "",
        shapes: Shapes | None = None,
    ) -> Entry:
        """A network to compare.

        Args:
            group: What it stands for.
            shape: The network, on the budget.
            seed: Seed of the search that it belongs to, if any.
            name: Its own; by default the group and the seed.
            shapes: Shapes of another space than the study's, where it is of another one.
        """
        shapes, name = shapes or self.shapes, name or f"{group} {seed}"
        reason = Provenance("hand-written", {"reason": f"{name}, what a search is compared with"})
        spec = shapes.space.to_spec(shape, name.replace(" ", "_"), reason, self.budget.input_size)
        ms = shapes.ms(shape)
        return Entry(group=group, name=name, spec=spec, latency_ms=ms, search_seed=seed)

    def by_chance(self, count: int, known: Collection[str]) -> Iterator[Entry]:
        """Random networks, the one with the most multiply-accumulates, and the scaled P0.

        Args:
            count: Number of random networks.
            known: Names of those that need not be made again.
        """
        for i in range(count):
            shape = self.shapes.random(np.random.default_rng((i, 0)), self.budget.ms)
            yield self.entry(RANDOM, shape, name=f"{RANDOM} {i}")
        if MACS not in known:
            yield self.entry(MACS, most_macs(self.region, 0), name=MACS)
        if SCALED not in known:
            shapes, shape = scaled_published(self.pricing, self.budget)
            yield self.entry(SCALED, shape, name=SCALED, shapes=shapes)

    def by_surrogate(self, study: SearchStudy, seed: int) -> Entry:
        """What a ridge regression thinks best, told by short trainings of random networks alone.

        It has as many of them, up to the first mark, as the last tier of the search of this seed
        made steps for; all of them where there is no such search. Seconds do not count, so that a
        busy machine gives the same network.

        Args:
            study: With the random networks' trainings.
            seed: Seed of the search, and of what is drawn.
        """
        random, mark = study.group(RANDOM), study.marks[0]
        own = [c.entry for c in study.group(SEARCHED) if c.entry.search_seed == seed]
        steps = max((entry.search_steps for entry in own), default=0)
        count = min(max(1, steps // mark), len(random)) if steps else len(random)
        trained = []
        for i in np.random.default_rng((seed, 3)).permutation(len(random))[:count]:
            _, loss = random[i].runs[0].figures["curve"][str(mark)]
            shape = self._shape(random[i].entry.spec)
            trained.append(Scored(shape, math.inf if loss is None else loss))
        best = propose(self.region, trained, seed, count=1)[0]
        return replace(self.entry(SURROGATE, best, seed=seed), told=count)

    def of_search(self, folder: Path, group: str) -> Iterator[Entry]:
        """A search's network, that of its tiers, and its operators and depths with other widths.

        Args:
            folder: Result of a search, for this budget among others.
            group: SEARCHED, or what an ablation did without, which has its network alone.

        Raises:
            UserError: The search was for other budgets, or has not ended for this one.
        """
        result, ms = SearchResult.load(folder), self.budget.ms
        found, run = result.networks.get(ms), result.run
        if found is None:
            budgets = ", ".join(f"{other:g}" for other in result.networks)
            raise UserError(f"{folder} holds a search for {budgets} ms, not {ms:g} ms.")
        if not found.final:
            raise UserError(f"the search of {folder} has not chosen for {ms:g} ms yet; resume it.")
        seed, whole = int(run["seed"]), group == SEARCHED
        shared = sum(run["seconds"].values()) - run["seconds"].get(LAST_TIER, 0.0)
        seconds = shared / len(result.networks) + found.figures.get("seconds", 0.0)
        finalists = found.figures.get("finalists", ())
        steps = sum(int(mark) for finalist in finalists for mark in finalist["scores"])
        for name, spec in ((group, found.spec), (FOUND, found.tiers if whole else None)):
            if spec is not None:
                yield Entry(
                    group=name,
                    name=f"{name} {seed}",
                    spec=spec,
                    latency_ms=self.shapes.ms(self._shape(spec)),
                    search_seed=seed,
                    search_seconds=seconds,
                    search_machine=run.get("machine", ""),
                    search_steps=steps,
                )
        if not whole:
            return
        shape, rng = self._shape(found.spec), np.random.default_rng((seed, 2))
        for name, other in (
            (UNIFORM, self.shapes.uniform(shape, ms)),
            (WIDTHS, self.shapes.random_widths(rng, shape, ms)),
        ):
            if other is not None:
                yield self.entry(name, other, seed=seed)

    def _shape(self, spec: ArchSpec) -> Shape:
        return self.shapes.space.shape_of(spec)
