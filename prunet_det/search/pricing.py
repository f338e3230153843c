"""The prices of a search: a space on a device, at each size of images, with what lies around it.

Of a predicted device they are exact. On a machine that is here, blocks that are timed one by one
add up to a network within some ten percent, so what a search ends with is measured whole.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mmengine import dist
from mmengine.config import Config

from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.latency.measure import find_device, measure
from prunet_det.latency.predict import predict_module
from prunet_det.latency.record import Conditions, Failure
from prunet_det.runtime.subject import Scope, Subject, load_subject
from prunet_det.search.config import SearchConfig
from prunet_det.search.costs import Pricing, SpaceCosts
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace, Shape
from prunet_det.utils.env import check_launcher
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import digest, make_folder, read_json, reading, write_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of a space's range, in logarithms: where detectors are measured. Budgets are rarely far above.
_SPREAD = (0.05, 0.15, 0.3, 0.45, 0.6)
# Of a budget: what a network that is measured whole must spend, what it is scaled to if it does
# not, beyond what the machine must be busy with other things, and how often it is scaled.
_SPENT, _AIM, _BELIEVED, _TRIES = (0.95, 1.0), 0.98, (0.4, 2.5), 4


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
        detector, scope = config.detector, Scope(config.scope)
        line = in_main(lambda: overhead(detector, shapes, scope, config.pricing), "detector")
        shapes.costs.correct(*line)
        shapes = Shapes(shapes.costs)
    return shapes


def overhead(cfg: Config, shapes: Shapes, scope: Scope, pricing: Pricing) -> tuple[float, float]:
    """What a detector takes, by what the blocks of its backbone add up to.

    Neck and head read maps of fixed sizes, so they add the same milliseconds to all networks of a
    space. Of a predicted device that is all. On a machine, blocks that are timed one by one do not
    quite add up to a network either; a line is fitted there to five detectors of random weights,
    once: it is kept beside the tables. End to end they see an image full of objects, see
    `detectors.find_all`.

    Args:
        cfg: Config of the detector.
        shapes: The space with the prices of backbones.
        scope: `detector` or `e2e`.
        pricing: Where milliseconds come from.

    Returns:
        Milliseconds beyond the blocks, and the factor of theirs.

    Raises:
        InputError: If the prices are of a device that can be neither predicted nor measured here.
    """
    from prunet_det.search.detectors import settled_subject

    costs, size = shapes.costs, shapes.costs.input_size
    low, high = shapes.reachable()
    rng, made = np.random.default_rng(0), Provenance("hand-written", {"reason": "to price it"})

    def random_detector(ms: float) -> tuple[float, Subject]:
        (shape,) = shapes.draw(rng, ms, 1)
        return shapes.ms(shape), settled_subject(
            cfg, costs.space.to_spec(shape, "priced", made, size), scope
        )

    if costs.table.kind == "predicted":
        ms, subject = random_detector((low * high) ** 0.5)
        traced = predict_module(
            subject.module, "detector", pricing.device, pricing.batch, size, scope
        )
        return traced.latency.ms - ms, 1.0
    of_detector = [cfg.model.to_dict(), size, scope.value, costs.table_hash]
    kept = Path(pricing.tables) / f"detector_{digest(of_detector)}.json"
    if kept.is_file():
        line = read_json(kept, "price of a detector")
        with reading(kept, "price of a detector"):
            return float(line["beyond_ms"]), float(line["factor"])
    device = find_device(costs.table.conditions)
    if device is None:
        raise InputError(
            f"{costs.table.conditions.device} is not here, so that a detector's neck and head "
            "cannot be measured on it: give scope backbone, or a device that is predicted."
        )
    sums, subjects = zip(*(random_detector(low * (high / low) ** s) for s in _SPREAD), strict=True)
    conditions = costs.table.conditions
    whole = np.array([measured_ms(one, conditions, device, seconds=2.0) for one in subjects])
    parts = np.stack([np.ones(len(whole)), sums], axis=1) / whole[:, None]
    beyond, factor = np.linalg.lstsq(parts, np.ones(len(whole)))[0]
    if factor <= 0 or beyond + factor * low <= 0:
        raise InputError(
            "larger detectors were not measured to be slower, as happens where the machine is busy "
            "with other things: remove the table of this space (--tables) and try again when it is "
            "not."
        )
    make_folder(kept.parent)
    rows = {"sums_of_blocks_ms": list(sums), "measured_ms": whole.tolist()}
    line = {"beyond_ms": float(beyond), "factor": float(factor), "of": costs.table.title, **rows}
    write_json(kept, line)
    return float(beyond), float(factor)


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


def subject_of(config: SearchConfig, spec: ArchSpec) -> Subject:
    """What a network's milliseconds are of: its backbone, or the detector, of random weights."""
    if config.detector is None or config.scope == Scope.BACKBONE.value:
        return load_subject(spec, input_size=spec.input_size)
    from prunet_det.search.detectors import settled_subject

    return settled_subject(config.detector, spec, Scope(config.scope))


def measured_ms(
    subject: Subject, conditions: Conditions, device: str, seconds: float = 4.0
) -> float:
    """Milliseconds of a network that is measured alone, as it will run.

    Networks that take turns empty each other's caches.

    Args:
        subject: The network.
        conditions: What it runs on and how.
        device: Torch device.
        seconds: Largest time to spend.

    Raises:
        InputError: If it cannot be measured; the sentence says why.
    """
    (found,) = measure([subject], conditions, device=device, seconds=seconds)
    if isinstance(found, Failure):
        raise InputError(f"the {subject.name} cannot be measured: {found.reason}")
    return found.latency.ms


class OnDevice:
    """Brings networks to a budget as they are measured whole, on the machine itself.

    Args:
        config: What is searched for.
        file: Where measured milliseconds are kept, for a search that goes on.
    """

    def __init__(self, config: SearchConfig, file: str | os.PathLike[str]) -> None:
        self.config, self.file = config, Path(file)
        self._kept: dict[str, float] = {}
        if self.file.is_file():
            self._kept.update(read_json(self.file, "record of measured networks"))

    def ms(self, shapes: Shapes, shape: Shape, device: str) -> float:
        """Milliseconds of a network; infinite where it cannot be measured."""
        made = Provenance("hand-written", {"reason": "to measure it"})
        spec = shapes.space.to_spec(shape, "network", made, shapes.costs.input_size)
        if spec.digest not in self._kept:
            subject, conditions = subject_of(self.config, spec), shapes.costs.table.conditions
            try:
                self._kept[spec.digest] = measured_ms(subject, conditions, device)
            except InputError as e:
                logger.warning("%s", e)
                return math.inf
            make_folder(self.file.parent)
            write_json(self.file, self._kept)
        return self._kept[spec.digest]

    def settle(self, shapes: Shapes, budget_ms: float, shape: Shape) -> Shape:
        """Scales a network's widths until it spends the budget as measured.

        Args:
            shapes: Shapes of its space.
            budget_ms: Milliseconds.
            shape: The network, which meets the budget by the prices.

        Returns:
            The network whose milliseconds are closest to the budget, of a few; the same network
            where the prices are not measured, or the device is not here.
        """
        table = shapes.costs.table
        device = find_device(table.conditions) if table.kind == "measured" else None
        if device is None:
            return shape
        tried: dict[Shape, float] = {}
        found, asked = shape, budget_ms
        while found not in tried and len(tried) < _TRIES:
            share = self.ms(shapes, found, device) / budget_ms
            if _SPENT[0] <= share <= _SPENT[1] or not math.isfinite(share):
                return found
            if not _BELIEVED[0] <= share <= _BELIEVED[1]:
                logger.warning(
                    "a network that is priced %.3g ms was measured to take %.3g ms, as happens "
                    "where the machine is busy with other things; it stays as it is",
                    shapes.ms(found),
                    share * budget_ms,
                )
                return found
            tried[found] = abs(math.log(share / _AIM))
            asked *= _AIM / share
            found = shapes.closest(shape, asked)
        return min(tried, key=lambda s: tried[s])
