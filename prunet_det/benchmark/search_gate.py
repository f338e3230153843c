"""What a supernet knows: whether it ranks networks, and what it says that layers are worth.

Both are asked of a supernet that holds all candidates: of a search whose `search.tiers` is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunet_det.benchmark.analysis import mean_and_error, rank_agreement
from prunet_det.benchmark.search_study import RANDOM, SearchStudy
from prunet_det.search.api import train_supernet
from prunet_det.search.config import SearchConfig
from prunet_det.search.loop import SearchLoop
from prunet_det.search.space import Shape
from prunet_det.utils.errors import InputError

_FEWEST = 5  # networks that a rank correlation is worth printing for
_STEP = 2.0**0.5  # factor between the latencies that give the price of latency
_IMAGES = 512
Change = tuple[float, float]  # of the loss, by a removal alone and by one at equal latency


def rank_networks(config: SearchConfig, study: SearchStudy) -> dict[str, Any]:
    """Compares a supernet's order of random networks with that of their trainings from scratch.

    Args:
        config: The supernet's search, which is trained or goes on.
        study: Random networks of its space, judged.

    Returns:
        JSON values: `networks` with the supernet's `loss` and `top1` and the `judged` top-1 of
        each, and Kendall's tau of either with the judged ones, `tau_loss` (of the negative loss)
        and `tau_top1`, with the ends of its interval; null where there is no order.

    Raises:
        UserError: Before the training, if there are less than 5 networks, or one of another space,
            or if the search has tiers, in which candidates leave.
    """
    _check(config)
    random = study.group(RANDOM)
    if len(random) < _FEWEST:
        raise InputError(
            f"a rank needs {_FEWEST} random networks, the study has trained {len(random)}; "
            "train more of them by `compare`."
        )
    shapes = [config.space.shape_of(c.entry.spec) for c in random]
    loop = train_supernet(config)
    found = loop.scorer.evaluate(shapes)
    losses, top1 = found.mean(2)
    judged = [study.mean(c) for c in random]
    rows = zip(random, losses.round(4).tolist(), top1.round(4).tolist(), judged, strict=True)
    return {
        "networks": {
            c.entry.name: {"loss": loss, "top1": hits, "judged": own} for c, loss, hits, own in rows
        },
        "tau_loss": rank_agreement(-losses, judged),
        "tau_top1": rank_agreement(top1, judged),
    }


def price_layers(config: SearchConfig, count: int = 16) -> dict[str, Any]:
    """Asks a supernet what latency is worth, and what layers are.

    Networks of all layers lose the last layers of one stage at a time, half of its skippable ones:
    with the milliseconds left unused, as the gradient of a skip's coefficient sees it, and with
    them given to the other widths.

    Args:
        config: The supernet's search, which is trained or goes on. The networks have the latency
            of its first budget.
        count: Number of networks.

    Returns:
        JSON values: `count`, the networks of all layers; means and standard errors over networks,
        [mean, error], of `loss_per_log_ms`, the change of the loss with the logarithm of the
        latency; and of the change of the loss by a removal, `removed_alone` and
        `removed_at_equal_ms`, over all stages and, in `stages`, for each.

    Raises:
        InputError: The search has tiers, in which candidates leave.
    """
    _check(config)
    loop, ms = train_supernet(config), config.budgets_ms[0]
    shapes, rng = loop.shapes, np.random.default_rng(loop.seed)

    def losses(*networks: Shape) -> np.ndarray:
        return loop.scorer.evaluate(networks, _IMAGES)[0].mean(1)

    slopes = []
    for shape in shapes.draw(rng, ms, count, loop.left):
        near = shapes.scale(shape, ms / _STEP), shape, shapes.scale(shape, ms * _STEP)
        found = [s for s in near if s is not None]
        if len(found) > 1:
            first, last = losses(found[0], found[-1])
            slopes.append((last - first) / np.log(shapes.ms(found[-1]) / shapes.ms(found[0])))
    changes: dict[str, list[Change]] = {}
    every: list[Change] = []  # of each network, its stages' mean: they share its other layers
    for shape in _full_networks(loop, ms, count, rng):
        own = []
        for stage, depth in enumerate(shapes.space.depths):
            gone = (shapes.stages == stage) & (shapes.places >= depth - max((depth - 1) // 2, 1))
            less = Shape(np.where(gone, -1, shape.operators), np.where(gone, 0, shape.widths))
            if depth > 1 and (scaled := shapes.scale(less, ms)):
                whole, alone, equal = losses(shape, less, scaled)
                own.append((alone - whole, equal - whole))
                changes.setdefault(str(stage), []).append(own[-1])
        if own:
            every.append(tuple(np.mean(own, axis=0)))
    return {
        "count": len(every),
        "loss_per_log_ms": _mean(slopes),
        **_prices(every),
        "stages": {stage: _prices(found) for stage, found in changes.items()},
    }


def _check(config: SearchConfig) -> None:
    if config.search.tiers:
        raise InputError("candidates leave in a search's tiers: ask one of search.tiers=0.")


def _full_networks(
    loop: SearchLoop, ms: float, count: int, rng: np.random.Generator
) -> list[Shape]:
    """Random networks of all layers at a latency."""
    columns = [rng.choice(np.flatnonzero(left), 20 * count) for left in loop.left]
    operators = np.stack(columns, axis=1)
    targets = loop.shapes.in_chs * np.exp(rng.uniform(-0.7, 0.7, operators.shape))
    return [s for s in loop.shapes.fitted(operators, targets, ms) if s is not None][:count]


def _prices(changes: Sequence[Change]) -> dict[str, list[float]]:
    alone, equal = np.reshape(changes, (-1, 2)).T
    return {"removed_alone": _mean(alone), "removed_at_equal_ms": _mean(equal)}


def _mean(values: Sequence[float] | np.ndarray) -> list[float]:
    return np.round(mean_and_error(values), 4).tolist()
