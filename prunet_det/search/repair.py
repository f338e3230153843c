"""From nearly to exactly: a network is brought into [0.97, 1.00] of a budget in few, bounded steps.

Milliseconds are a staircase over the inner width: many widths cost the same. Steps go from one edge
of the staircase to the next, the least regretted one first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prunet_det.arch.spec import BlockSpec
from prunet_det.search.costs import FILLED, Budget, BudgetError, SpaceCosts
from prunet_det.search.space import Network

_FILL = 0.99  # of the budget: above it there is nothing worth to be gained
_SAME = 1e-9  # milliseconds that are none
_MOST_STEPS = 20_000


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What came of it.

    Attributes:
        network: Within the budget.
        before_ms, after_ms: Latency before and after.
        steps: How many were taken.
        width_changed: Sum of the changes of inner widths, of the sum of the inner widths before.
    """

    network: Network
    before_ms: float
    after_ms: float
    steps: int
    width_changed: float


@dataclass(frozen=True)
class _Step:
    layer: int
    block: BlockSpec | None
    ms: float  # what it adds
    regret: float  # loss that it is thought to add


def repair(
    network: Network,
    costs: SpaceCosts,
    budget: Budget,
    worth: Sequence[float] | np.ndarray | None = None,
    change_layers: bool = True,
    fill: bool = False,
) -> Repaired:
    """Narrows and widens blocks until the network fits the budget; if need be changes layers.

    Args:
        network: One entry a layer.
        costs: Of its space.
        budget: To be met.
        worth: Of one more inner channel of each layer, in loss; by default all are worth the same.
        fill: Widen up to the budget, rather than as little as it takes: what chance made is
            compared with at its best.
        change_layers: Whether operators and skips may change where widths do not reach the budget.

    Raises:
        BudgetError: No network was found within [0.97, 1.00] of the budget.
    """
    costs.check_budget(budget)
    value = np.zeros(len(network)) if worth is None else np.asarray(worth, float)
    # Noise must not make a channel worthless or harmful: half of the mean is the least.
    known = value[value > 0]
    value = np.maximum(value, 0.5 * known.mean() if len(known) else 1.0)
    start, before = network, costs.network_ms(network)
    network, ms, steps = _fill(network, costs, value, budget, fill)
    if not budget.fits(ms) and change_layers:
        network, ms, more = _change_layers(network, costs, value, budget, ms, fill)
        steps += more
    if not budget.fits(ms):
        raise _no_fit(costs, budget, ms)
    changed = sum(abs(_hidden(a) - _hidden(b)) for a, b in zip(start, network, strict=True))
    return Repaired(
        network=network,
        before_ms=before,
        after_ms=ms,
        steps=steps,
        width_changed=changed / max(sum(map(_hidden, start)), 1),
    )


def _hidden(block: BlockSpec | None) -> int:
    return block.hidden if block else 0


def _apply(network: Network, step: _Step) -> Network:
    return (*network[: step.layer], step.block, *network[step.layer + 1 :])


def _steps(
    network: Network, costs: SpaceCosts, value: np.ndarray, direction: int
) -> Iterator[_Step]:
    """To the next edge of every layer's staircase: the widest block of the next price."""
    for i, block in enumerate(network):
        if block is None or not block.has_hidden:
            continue
        layer = costs.space.layers[i]
        operator = layer.operator_of(block)
        prices, widths = costs.ms[i][operator], layer.widths_of(operator)
        at = widths.index(block.hidden)
        if direction < 0:
            lower = [j for j in range(at) if prices[j] < prices[at] - _SAME]
            if not lower:
                continue
            to = lower[-1]
        else:
            to = at
            while to + 1 < len(widths) and prices[to + 1] <= prices[at] + _SAME:
                to += 1
            if to == at and at + 1 < len(widths):
                to = at + 1
                while to + 1 < len(widths) and prices[to + 1] <= prices[at + 1] + _SAME:
                    to += 1
            if to == at:
                continue
        regret = value[i] * (widths[at] - widths[to])
        yield _Step(
            i, layer.block(operator, widths[to]), float(prices[to] - prices[at]), float(regret)
        )


def _change_layers(
    network: Network,
    costs: SpaceCosts,
    value: np.ndarray,
    budget: Budget,
    ms: float,
    fill: bool,
) -> tuple[Network, float, int]:
    """Where widths alone do not reach the budget: skips, adds or changes layers, then fills.

    Each pass takes the one change of a layer after which the widths come closest, and of those that
    fit the one that changes the inner widths least; twice as many passes as layers are the most.
    """
    start = sum(map(_hidden, network))
    closest = (_miss(ms, budget), network, ms)
    for steps in range(1, 2 * len(network) + 1):
        found = []
        for candidate in _neighbours(network, costs):
            filled, filled_ms, _ = _fill(candidate, costs, value, budget, fill)
            change = abs(sum(map(_hidden, filled)) - start)
            found.append((_miss(filled_ms, budget), change, filled, filled_ms))
        if not found:
            break
        miss, _, network, ms = min(found, key=lambda f: f[:2])
        if miss < closest[0]:
            closest = (miss, network, ms)
        if not miss:
            return network, ms, steps
    return closest[1], closest[2], steps


def _miss(ms: float, budget: Budget) -> float:
    """How far from what is accepted, of the budget."""
    return max(ms / budget.ms - 1, FILLED - ms / budget.ms, 0.0)


def _no_fit(costs: SpaceCosts, budget: Budget, ms: float) -> BudgetError:
    low, high = costs.reachable
    return BudgetError(
        f"no network of the space was found within {FILLED:.0%} to 100% of {budget.ms:g} ms, "
        f"although it reaches {low:.3f} to {high:.3f} ms; the closest costs {ms:.3f} "
        "ms. Use a smaller hidden_step."
    )


def _neighbours(network: Network, costs: SpaceCosts) -> Iterator[Network]:
    """All networks that differ in one layer's operator or in whether it is skipped."""
    for i, (block, layer) in enumerate(zip(network, costs.space.layers, strict=True)):
        if block is not None and layer.skippable:
            yield (*network[:i], None, *network[i + 1 :])
        for operator in costs.ms[i]:
            widths = layer.widths_of(operator)
            near = min(widths, key=lambda w: abs(w - (_hidden(block) or 4 * layer.in_chs)))
            other = layer.block(operator, near)
            if other != block:
                yield (*network[:i], other, *network[i + 1 :])


def _fill(
    network: Network, costs: SpaceCosts, value: np.ndarray, budget: Budget, full: bool = True
) -> tuple[Network, float, int]:
    """Narrows to below the budget, then widens up to it, or just into what is accepted.

    Returns:
        The network, its milliseconds and the number of steps.
    """
    ms, steps = costs.network_ms(network), 0
    while ms > budget.ms and steps < _MOST_STEPS:
        options = [s for s in _steps(network, costs, value, -1) if s.ms < -_SAME]
        if not options:
            break
        # One that lands inside is better than one that falls through.
        inside = [s for s in options if budget.fits(ms + s.ms)]
        best = min(inside or options, key=lambda s: s.regret / -s.ms)
        network, ms, steps = _apply(network, best), ms + best.ms, steps + 1
    while ms < (_FILL if full else FILLED) * budget.ms and steps < _MOST_STEPS:
        options = [s for s in _steps(network, costs, value, +1) if ms + s.ms <= budget.ms]
        if not full:  # steps that cost nothing bring it no closer
            options = [s for s in options if s.ms > _SAME]
        if not options:
            break
        inside = [s for s in options if not full and budget.fits(ms + s.ms)]
        if inside:  # the last step: as small as it may be
            best = min(inside, key=lambda s: abs(_hidden(s.block) - _hidden(network[s.layer])))
        else:
            best = max(options, key=lambda s: -s.regret / max(s.ms, _SAME))
        network, ms, steps = _apply(network, best), ms + best.ms, steps + 1
    return network, costs.network_ms(network), steps
