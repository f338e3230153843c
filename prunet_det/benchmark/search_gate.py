"""What a supernet knows: whether it ranks networks, and what it says that layers are worth.

Both are asked of a supernet that holds all candidates, as after a search whose `search.tiers` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunet_det.benchmark.analysis import rank_agreement
from prunet_det.search.loop import SearchLoop
from prunet_det.search.shapes import Shape, Shapes
from prunet_det.utils.errors import InputError

_FEWEST = 5  # networks that a rank correlation is worth printing for
_STEP = 2.0**0.5  # factor between the latencies that give the price of latency
_IMAGES = 512


def rank_networks(
    loop: SearchLoop, networks: Mapping[str, Shape], judged: Mapping[str, float]
) -> dict[str, Any]:
    """Compares a supernet's order of networks with the order of their trainings from scratch.

    Args:
        loop: At the end of its training.
        networks: By name, of about one latency.
        judged: Their scores from scratch, the higher the better; others are passed over.

    Returns:
        JSON values: `networks` with the supernet's `loss` and `top1` and the `judged` score of
        each, and Kendall's tau of either with the judged scores, `tau_loss` (of the negative
        loss) and `tau_top1`, with the ends of its interval; null where there is no order.

    Raises:
        InputError: If there are fewer than 5 networks that the supernet still has.
    """
    names = [n for n, shape in networks.items() if n in judged and loop.scorer.is_known(shape)]
    if len(names) < _FEWEST:
        raise InputError(
            f"of the {len(networks)} networks, {len(names)} have a judged score and all of their "
            f"candidates in the supernet; a rank needs {_FEWEST}. Ask a search with search.tiers=0."
        )
    losses, top1 = loop.scorer.evaluate([networks[name] for name in names]).mean(2)
    scores = [judged[name] for name in names]
    rows = zip(names, losses.round(4).tolist(), top1.round(4).tolist(), scores, strict=True)
    return {
        "networks": {
            name: {"loss": loss, "top1": hits, "judged": score} for name, loss, hits, score in rows
        },
        "tau_loss": rank_agreement(-losses, scores),
        "tau_top1": rank_agreement(top1, scores),
    }


def price_layers(loop: SearchLoop, ms: float, count: int = 16, seed: int = 0) -> dict[str, Any]:
    """Asks a supernet what latency is worth, and what layers are.

    Networks of all layers lose the last layers of one stage at a time, half of its skippable ones:
    with the milliseconds left unused, as the gradient of a skip's coefficient sees it, and with
    them given to the other widths.

    Args:
        loop: At the end of its training.
        ms: Latency of the networks, in milliseconds.
        count: Number of networks.
        seed: Seed of the networks.

    Returns:
        JSON values: means and standard errors, [mean, error], of `loss_per_log_ms`, the change of
        the loss with the logarithm of the latency; and of the change of the loss by a removal,
        `removed_alone` and `removed_at_equal_ms`, over all stages and, in `stages`, for each.
    """
    shapes, rng = loop.shapes, np.random.default_rng(seed)
    slopes = []
    for shape in shapes.draw(rng, ms, count, loop.left):
        near = shapes.scale(shape, ms / _STEP), shape, shapes.scale(shape, ms * _STEP)
        found = [s for s in near if s is not None]
        if len(found) > 1:
            first, last = (shapes.ms(found[i]) for i in (0, -1))
            losses = loop.scorer.evaluate([found[0], found[-1]], _IMAGES)[0].mean(1)
            slopes.append((losses[1] - losses[0]) / np.log(last / first))
    stages: dict[str, Any] = {}
    alone, equal = [], []
    full = _full_networks(shapes, loop, ms, count, rng)
    for stage, depth in enumerate(shapes.space.depths):
        if depth < 2:
            continue
        pairs = []
        for shape in full:
            less = _shortened(shapes, shape, stage, depth - max((depth - 1) // 2, 1))
            scaled = shapes.scale(less, ms)
            if scaled is not None:
                a, b, c = loop.scorer.evaluate([shape, less, scaled], _IMAGES)[0].mean(1)
                pairs.append((b - a, c - a))
        if pairs:
            columns = np.array(pairs).T
            stages[str(stage)] = {
                "removed_alone": _mean(columns[0]),
                "removed_at_equal_ms": _mean(columns[1]),
            }
            alone += columns[0].tolist()
            equal += columns[1].tolist()
    return {
        "ms": ms,
        "loss_per_log_ms": _mean(slopes),
        "removed_alone": _mean(alone),
        "removed_at_equal_ms": _mean(equal),
        "stages": stages,
    }


def _full_networks(
    shapes: Shapes, loop: SearchLoop, ms: float, count: int, rng: np.random.Generator
) -> list[Shape]:
    """Random networks of all layers at a latency."""
    left, layers = loop.left, len(shapes.space.layers)
    operators = np.empty((20 * count, layers), int)
    for i in range(layers):
        operators[:, i] = rng.choice(np.flatnonzero(left[i]), len(operators))
    targets = shapes.in_chs * np.exp(rng.uniform(-0.7, 0.7, operators.shape))
    return [s for s in shapes.fitted(operators, targets, ms) if s is not None][:count]


def _shortened(shapes: Shapes, shape: Shape, stage: int, depth: int) -> Shape:
    """A network whose stage ends after `depth` layers."""
    gone = (shapes.stages == stage) & (shapes.places >= depth)
    return Shape(np.where(gone, -1, shape.operators), np.where(gone, 0, shape.widths))


def _mean(values: Any) -> list[float]:
    """Mean and its standard error."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return [float("nan")] * 2
    return [
        round(float(values.mean()), 4),
        round(float(values.std(ddof=1) / len(values) ** 0.5), 4),
    ]
