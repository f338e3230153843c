"""The last tier: networks of one latency are trained briefly from scratch, and the best stays.

A supernet's preferences are noisy where networks are nearly as good as one another, and weights
that all share say little about what each would learn alone: above all they do not show that fewer,
wider layers learn faster. So what the search found meets its own variants, in rounds that change
the depths, again the depths, the operators and the widths of the best so far. All are brought to
the same budget, trained on the half of the data that trains weights, and scored on the other half;
the leaders of a round are trained twice.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance
from prunet_det.search.costs import Budget, BudgetError, SpaceCosts
from prunet_det.search.data import scoring_loader, search_loader
from prunet_det.search.repair import repair
from prunet_det.search.space import LayerSpace, Network, SearchSpace
from prunet_det.search.trial import Trial, run_trial
from prunet_det.training.divergence import DivergedError
from prunet_det.utils.errors import UserError
from prunet_det.utils.io import atomic_path

logger = logging.getLogger(__name__)

Change = Callable[[Network], Network]
Trainer = Callable[[Network, int], float]


@dataclass(frozen=True)
class FinalSettings:
    """How much the last tier may spend.

    Attributes:
        iterations: Of each training; 0 for no last tier.
        again: Leaders of each round that are trained a second time.
    """

    iterations: int = 0
    again: int = 2


@dataclass
class Finalist:
    """A network and what its trainings scored.

    Attributes:
        name: Which changes made it of what was found.
        network: Within the budget.
        latency_ms: Of the network.
        scores: Top-1, one a training.
    """

    name: str
    network: Network
    latency_ms: float
    scores: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


def uniform(network: Network, costs: SpaceCosts, budget: Budget) -> Network:
    """The same operators at the one expansion that fits, filled up to the budget.

    Raises:
        BudgetError: No expansion fits.
    """
    best = None
    layers = costs.space.layers
    most = max(layer.widths[-1] / layer.in_chs for layer in layers)
    for expansion in np.arange(0.125, most + 0.125, 0.125):
        candidate = tuple(
            _at_width(layer, block, float(expansion) * layer.in_chs)
            for layer, block in zip(layers, network, strict=True)
        )
        if best is not None and costs.network_ms(candidate) > budget.ms:
            break
        best = candidate
    assert best is not None
    return _repaired(best, costs, budget)


def _hidden(block: BlockSpec | None) -> int:
    return block.hidden if block else 0


def _at_width(layer: LayerSpace, block: BlockSpec | None, width: float) -> BlockSpec | None:
    if block is None or not block.has_hidden:
        return block
    operator = layer.operator_of(block)
    return layer.block(operator, min(layer.widths_of(operator), key=lambda w: abs(w - width)))


def _repaired(network: Network, costs: SpaceCosts, budget: Budget) -> Network:
    return repair(network, costs, budget, change_layers=False, fill=True).network


def _scaled(network: Network, costs: SpaceCosts, budget: Budget) -> Network:
    """All inner widths times the one factor that fits, filled up to the budget.

    Raises:
        BudgetError: None does.
    """
    low, high = 0.05, 8.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        scaled = _times(network, costs, middle)
        low, high = (middle, high) if costs.network_ms(scaled) <= budget.ms else (low, middle)
    return _repaired(_times(network, costs, low), costs, budget)


def _times(network: Network, costs: SpaceCosts, factor: float) -> Network:
    return tuple(
        _at_width(layer, block, factor * _hidden(block))
        for layer, block in zip(costs.space.layers, network, strict=True)
    )


def rounds(costs: SpaceCosts, budget: Budget) -> list[dict[str, Change]]:
    """What each round may change, by name; every change brings the network back into the budget.

    Raises (the changes):
        BudgetError: The change leads out of what the budget allows.
    """
    layers, stages = costs.space.layers, range(len(costs.space.depths))

    def shorten(chosen: Sequence[int], share: float) -> Change:
        def change(network: Network) -> Network:
            kept = list(network)
            for stage in chosen:
                own = [i for i, layer in enumerate(layers) if layer.stage == stage and kept[i]]
                count = max(1, math.ceil(share * len(own)))
                # The first layer cannot go; of the others the widest were wanted most.
                rest = sorted(own[1:], key=lambda i: -_hidden(network[i]))
                for i in rest[count - 1 :]:
                    kept[i] = None
            return _scaled(tuple(kept), costs, budget)

        return change

    def swap(stage: int, **fields: Any) -> Change:
        def change(network: Network) -> Network:
            swapped = list(network)
            for i, (layer, block) in enumerate(zip(layers, network, strict=True)):
                if block is None or layer.stage != stage or not block.has_hidden:
                    continue
                wanted = dataclasses.replace(layer.operator_of(block), **fields)
                if wanted in costs.ms[i]:
                    swapped[i] = layer.block(wanted, block.hidden)
            return _scaled(tuple(swapped), costs, budget)

        return change

    def halfway(network: Network) -> Network:
        other = uniform(network, costs, budget)
        widths = [math.sqrt(_hidden(a) * _hidden(b)) for a, b in zip(network, other, strict=True)]
        blend = tuple(map(_at_width, layers, network, widths))
        return _scaled(blend, costs, budget)

    depths: dict[str, Change] = {"half the layers": shorten(stages, 0.5)}
    depths["a layer a stage"] = shorten(stages, 0.0)
    operators: dict[str, Change] = {}
    kinds = {o.kind for layer in layers for o in layer.operators if o.has_hidden}
    kernels = {o.kernel for layer in layers for o in layer.operators}
    for stage in stages:
        depths[f"half of stage {stage}"] = shorten([stage], 0.5)
        depths[f"one layer in stage {stage}"] = shorten([stage], 0.0)
        for kernel in sorted(kernels):
            operators[f"stage {stage} k{kernel}"] = swap(stage, kernel=kernel)
        for kind in sorted(kinds):
            operators[f"stage {stage} {kind}"] = swap(stage, kind=kind)
    widths: dict[str, Change] = {
        "uniform widths": lambda network: uniform(network, costs, budget),
        "half-way to uniform widths": halfway,
    }
    return [depths, depths, operators, widths]


class Finals:
    """Trains finalists and remembers their scores.

    Args:
        found: What the search found, within the budget.
        costs, budget: Of the search.
        settings: How much to spend.
        train: A network and the number of its training to a top-1.
    """

    def __init__(
        self,
        found: Network,
        costs: SpaceCosts,
        budget: Budget,
        settings: FinalSettings,
        train: Trainer,
    ) -> None:
        self.costs, self.settings, self._train = costs, settings, train
        self.rounds = rounds(costs, budget)
        self.finalists = [Finalist("as found", found, costs.network_ms(found))]

    def run(self) -> Finalist:
        """The best of the leaders' means, since one training may be lucky."""
        best = self.finalists[0]
        for changes in self.rounds:
            for name, change in changes.items():
                self._enter(best, name, change)
            self._score(0, self.finalists)
            leaders = sorted(self.finalists, key=lambda f: -f.mean)[: self.settings.again]
            self._score(1, leaders)
            # Of a second training's opinion only those that have one are judged.
            judged = [f for f in self.finalists if len(f.scores) > 1] or self.finalists
            best = max(judged, key=lambda f: f.mean)
        return best

    def _enter(self, of: Finalist, name: str, change: Change) -> None:
        """A finalist more, unless it does not fit or is there already."""
        try:
            made = change(of.network)
        except BudgetError:
            return
        if any(f.network == made for f in self.finalists):
            return
        if of is not self.finalists[0]:
            name = f"{of.name}, {name}"
        self.finalists.append(Finalist(name, made, self.costs.network_ms(made)))

    def _score(self, training: int, finalists: list[Finalist]) -> None:
        for finalist in finalists:
            if len(finalist.scores) <= training:
                finalist.scores.append(self._train(finalist.network, training))


class FinalistTrainer:
    """Trains networks of a space briefly from scratch, on the search's two halves.

    Args:
        space: The space.
        recipe: A classification config.
        data: The search's `search_dataloader`.
        seed: Seed of the search.
        iterations: Iterations of each training.
    """

    def __init__(
        self,
        space: SearchSpace,
        recipe: Config,
        data: Mapping[str, Any],
        seed: int,
        iterations: int,
    ) -> None:
        self.space, self.recipe, self.seed, self.iterations = space, recipe, seed, iterations
        size = data["dataset"]["transform"]["input_size"]
        transform = {**recipe.val_dataloader.dataset.transform, "input_size": size}
        self.train = search_loader(data, "weights", seed)
        self.score = scoring_loader(data, transform, "architecture", seed)
        classes: Any = self.score.dataset
        recipe.model.num_classes = len(classes.metainfo["classes"])

    def spec(self, network: Network) -> ArchSpec:
        """Spec that a network is trained as."""
        reason = {"reason": "a finalist of a search"}
        return self.space.to_spec(network, "finalist", Provenance("hand-written", reason), 64)

    def __call__(self, network: Network, training: int) -> Trial:
        """Trains a network for the first time (`training` 0), or with another seed."""
        sampler: Any = self.train.sampler
        sampler.batches_done = 0  # the same images for all
        seed = self.seed * 1000 + training
        loaders = self.train, self.score
        return run_trial(self.spec(network), self.recipe, seed, loaders, self.iterations)


class Scores:
    """Top-1 of finalists, kept in a file as they come.

    Args:
        trainer: Trains those that the file does not hold.
        path: The file.

    Raises:
        UserError: If the file is damaged.
    """

    def __init__(self, trainer: FinalistTrainer, path: Path) -> None:
        self.trainer, self.path = trainer, path
        self._known = _read_scores(path)

    @property
    def seconds(self) -> float:
        """Seconds of all trainings, those of interrupted runs included."""
        return sum(seconds for _, seconds in self._known.values())

    def top1(self, network: Network, training: int) -> float:
        """Top-1 of a network's training, see `FinalistTrainer`; 0 of one that diverged."""
        key = f"{self.trainer.spec(network).digest} {training}"
        if key not in self._known:
            try:
                trial = self.trainer(network, training)
                self._known[key] = [trial.top1, round(trial.seconds, 2)]
            except DivergedError as e:
                logger.warning("a finalist counts as top-1 0: %s", e)
                self._known[key] = [0.0, 0.0]
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        return self._known[key][0]


@dataclass(frozen=True)
class LastTier:
    """What came of it.

    Attributes:
        best: The finalist that stays.
        finalists: All of them, in the order in which they entered.
        seconds: Of all trainings, those of interrupted runs included.
        train: Trains a network as the finalists were.
    """

    best: Finalist
    finalists: list[Finalist]
    seconds: float
    train: Callable[[Network, int], Trial]

    @property
    def line(self) -> str:
        """For a person."""
        found = self.finalists[0]
        kept = f"{self.best.name}, top-1 {self.best.mean:.3f}"
        if self.best is not found:
            kept += f" (as found {found.mean:.3f})"
        return f"of {len(self.finalists)} networks keeps: {kept}"


def run_last_tier(
    found: Network,
    costs: SpaceCosts,
    budget: Budget,
    settings: FinalSettings,
    scores: Scores,
    progress: bool = True,
) -> LastTier:
    """Trains the finalists whose scores are not known yet, and keeps the best.

    Args:
        found: What the search found, within the budget.
        costs: Costs of the search's space.
        budget: What the result may cost.
        settings: How much to spend.
        scores: Judge of the finalists.
        progress: Whether to show a bar.
    """
    from tqdm import tqdm

    bar = tqdm(desc="last tier", unit="training", disable=not progress)

    def train(network: Network, training: int) -> float:
        top1 = scores.top1(network, training)
        bar.update()
        return top1

    finals = Finals(found, costs, budget, settings, train)
    best = finals.run()
    bar.close()
    return LastTier(best, finals.finalists, scores.seconds, scores.trainer)


def _read_scores(path: Path) -> dict[str, list[float]]:
    if not path.is_file():
        return {}
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        return {key: [float(top1), float(seconds)] for key, (top1, seconds) in scores.items()}
    except (ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is damaged ({e}); remove it, and its trainings run again.") from e
