"""What a search is compared with: the published P0 scaled, and the network of the most work."""

from __future__ import annotations

import numpy as np

from prunet_det.arch.scaling import scale_compound
from prunet_det.search.costs import Budget, BudgetError, Pricing
from prunet_det.search.evolution import Region, evolve
from prunet_det.search.shapes import Shape, Shapes
from prunet_det.search.space import Network, SearchSpace
from prunet_det.zoo.models import load_spec

# EfficientNet's compound scaling, without its resolution: depth and width for one more step.
_DEPTH, _WIDTH = 1.2, 1.1
_STEPS_PER_UNIT = 8
_MOST_UNITS = 12
_HIDDEN_STEP, _MOST_EXPANSION = 32, 8
# Of the search for the most work: random networks, the best of them that begin, evaluations.
_DRAWN, _STARTED, _EVOLVED = 2000, 24, 1500


def scaled_frame(units: float, name: str = "prunet_p0") -> tuple[SearchSpace, Network]:
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
    return space, space.network_of(spec)


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
        space, network = scaled_frame(step / _STEPS_PER_UNIT, name)
        shapes = Shapes(pricing.costs(space, budget.input_size))
        shape = shapes.shape_of(network)
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


def most_macs(region: Region, seed: int) -> Shape:
    """The network of the most multiply-accumulates, as far as evolution finds it.

    Raises:
        BudgetError: No network meets the budget.
    """
    start = region.draw(np.random.default_rng(seed), _DRAWN)
    macs = region.shapes.macs(start)
    start = [start[i] for i in np.argsort(-macs, kind="stable")[:_STARTED]]
    found = evolve(region, lambda many: -region.shapes.macs(many), seed, _EVOLVED, start)
    return found[0].shape
