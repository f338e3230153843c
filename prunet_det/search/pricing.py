"""The prices of a search: a space on a device, at each size of images, with what lies around it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine import dist

from prunet_det.runtime.subject import Scope
from prunet_det.search.config import SearchConfig
from prunet_det.search.costs import Pricing, SpaceCosts
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from prunet_det.utils.env import check_launcher
from prunet_det.utils.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def reachable(config: SearchConfig) -> tuple[float, float]:
    """The least and the greatest milliseconds that a search could be asked for.

    Args:
        config: What is asked for, whatever its budgets.

    Raises:
        UserError: If space, detector or device cannot be priced.
    """
    ranges = [shapes.reachable() for shapes in priced(config)]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def priced(config: SearchConfig) -> list[Shapes]:
    """The space with its prices, at each size of images; says what can be asked for.

    Raises:
        UserError: If space, detector or device cannot be priced.
    """
    check_launcher(config.launcher)
    if config.launcher == "pytorch" and not dist.is_distributed():
        if torch.cuda.is_available():
            dist.init_dist("pytorch", backend="nccl")
        else:  # which init_dist would want a GPU for
            torch.distributed.init_process_group("gloo")
    found = [_priced_at(config, size) for size in config.input_sizes or (config.input_size,)]
    space = config.space
    logger.info("space: %d layers, 10^%.1f networks", len(space.layers), space.log10_size)
    for shapes in found:
        logger.info(
            "%.3f to %.3f ms at %d px (%s, scope %s)",
            *shapes.reachable(),
            shapes.costs.input_size,
            shapes.costs.table.title,
            config.scope,
        )
    return found


def _priced_at(config: SearchConfig, size: int) -> Shapes:
    price = price_in_turn if config.pricing.device == "here" else Pricing.costs
    shapes = Shapes(price(config.pricing, config.space, size))
    if config.detector is not None and config.scope != Scope.BACKBONE.value:
        from prunet_det.search.detectors import overhead_ms

        detector, scope = config.detector, Scope(config.scope)
        beyond = in_main(lambda: overhead_ms(detector, shapes, scope, config.pricing), "detector")
        shapes.costs.fixed_ms += beyond
        shapes = Shapes(shapes.costs)
    return shapes


def in_main(make: Callable[[], T], what: str) -> T:
    """What the main process makes, in all processes.

    Args:
        make: Called in the main process alone.
        what: What it prices, for the message of the others.

    Raises:
        UserError: If the main process raised; there it is what `make` raises.
    """
    outcome: list[T | str | None] = [None, None]
    if dist.is_main_process():
        try:
            outcome[0] = make()
        except BaseException as e:
            outcome[1] = str(e) or type(e).__name__
            raise
        finally:  # without it the others would wait until the backend gives up
            dist.broadcast_object_list(outcome)
    else:
        dist.broadcast_object_list(outcome)
    if outcome[1]:
        raise UserError(f"the main process could not price the {what}: {outcome[1]}")
    return outcome[0]  # type: ignore[return-value]


def price_in_turn(pricing: Pricing, space: SearchSpace, input_size: int) -> SpaceCosts:
    """Prices a space in the main process, which measures alone; the others then read its table.

    Args:
        pricing: Where milliseconds come from.
        space: The space.
        input_size: Side of the square images, in pixels.

    Raises:
        UserError: If the main process raised; there it is what `Pricing.costs` raises.
    """
    own: list[SpaceCosts] = []
    in_main(lambda: own.append(pricing.costs(space, input_size)), "space")
    return own[0] if own else pricing.costs(space, input_size)
