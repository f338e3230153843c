"""Checks whether the blocks of a table add up: random networks of them, timed whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.latency.device import Device
from prunet_det.latency.errors import Errors
from prunet_det.latency.measure import Measurement, measure, require_device
from prunet_det.latency.predict import predict
from prunet_det.latency.record import Failure
from prunet_det.latency.table import Key, Table, TableError
from prunet_det.runtime import building_device
from prunet_det.runtime.subject import load_subject
from prunet_det.utils.env import device_title
from prunet_det.utils.extras import require

_MAX_BLOCKS = 200  # of a walk through a table


@dataclass(frozen=True)
class Check:
    """A network measured whole beside the sum of its blocks.

    Attributes:
        spec: The network.
        measured: Measurement of the whole network, or why there is none.
        table_ms: Sum of its blocks and the overhead, by the table.
        model_ms: Milliseconds by the analytic model, None where no device was given.
    """

    spec: ArchSpec
    measured: Measurement | Failure
    table_ms: float
    model_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """One flat record: the whole network's latency or failure, and the sums beside it."""
        whole = self.measured if isinstance(self.measured, Failure) else self.measured.latency
        return {
            **whole.to_dict(),
            "blocks": len(self.spec.blocks),
            "table_ms": self.table_ms,
            "model_ms": self.model_ms,
            "failed": getattr(whole, "reason", ""),
        }


def random_networks(table: Table, count: int, seed: int = 0) -> list[ArchSpec]:
    """Makes networks of a table's blocks, each a random walk from the image to the last map.

    Args:
        table: The table.
        count: Number of networks.
        seed: Seed of the walks.

    Raises:
        TableError: If the table has no stem, or its blocks do not follow one another.
    """
    chosen = random.Random(seed)
    follows: dict[tuple[int, tuple[int, int]], list[Key]] = {}
    for block, size in table.entries:
        follows.setdefault((block.in_chs, size), []).append((block, size))
    start = [place for place in follows if place[0] == 3]
    if not start:
        raise TableError("the table has no block that takes an image of 3 channels.")
    return [_walk(follows, chosen, start[0], f"random_{i}") for i in range(count)]


def _walk(
    follows: dict[tuple[int, tuple[int, int]], list[Key]],
    chosen: random.Random,
    place: tuple[int, tuple[int, int]],
    name: str,
) -> ArchSpec:
    blocks: list[BlockSpec] = []
    while place in follows and len(blocks) < _MAX_BLOCKS:
        stay = [key for key in follows[place] if _leads_to(key) == place]
        leave = [key for key in follows[place] if _leads_to(key) != place]
        options = stay if stay and (not leave or chosen.random() < 0.5) else leave
        if not leave and blocks and chosen.random() < 0.5:
            break  # at the last map, from which no block leads away
        block, size = chosen.choice(options)
        blocks.append(block)
        place = _leads_to((block, size))
    first = blocks[0]
    stem = StemSpec((first.out_chs,), first.act)
    if stem.blocks(first.in_chs) != (first,) or len(blocks) < 2:
        raise TableError("the table's blocks do not make a network: no stem, or nothing after it.")
    stages: list[list[BlockSpec]] = []
    for block in blocks[1:]:
        if block.stride == 2 or not stages:
            stages.append([])
        stages[-1].append(block)
    return ArchSpec(
        name=name,
        stem=stem,
        stages=tuple(StageSpec(tuple(stage)) for stage in stages),
        tail=TailSpec(64),
        provenance=Provenance("hand-written", {"reason": "a random walk through a latency table"}),
    )


def _leads_to(key: Key) -> tuple[int, tuple[int, int]]:
    block, size = key
    return block.out_chs, block.output_size(size)


def check_table(
    table: Table,
    specs: Sequence[ArchSpec],
    *,
    device: str | None = None,
    fitted: Device | None = None,
    seconds: float = 2.0,
    progress: str = "",
) -> list[Check]:
    """Times networks of a table's blocks, interleaved, beside the sums of their blocks.

    Args:
        table: A measured table.
        specs: Networks of its blocks, see `random_networks`.
        device: Torch device to time on, which the latencies name; the table's own by default.
        fitted: Device of the analytic model to check as well.
        seconds: Time to spend on each network.
        progress: Label of a progress bar; none where empty.

    Raises:
        TableError: If the table is predicted.
        InputError: If the table's device is not here.
        MissingPackageError: If SciPy is not installed, without which a table cannot be added up.
    """
    require("scipy.optimize", "det")
    if table.kind != "measured":
        raise TableError(f"a check needs a measured table; this one is {table.title}.")
    device = device or require_device(table.conditions)
    conditions = replace(table.conditions, device=device_title(device))
    size = next(size for block, size in table.entries if block.in_chs == 3)[0]
    with building_device(conditions.runtime, device):
        subjects = [load_subject(spec, input_size=size) for spec in specs]
    found = measure(subjects, conditions, device=device, seconds=seconds, progress=progress)
    batch = table.conditions.batch
    return [
        Check(
            spec=spec,
            measured=measured,
            table_ms=table.network_ms(spec, size),
            model_ms=predict(spec, fitted, batch, size).latency.ms if fitted else None,
        )
        for spec, measured in zip(specs, found, strict=True)
    ]


def summaries(checks: Sequence[Check]) -> dict[str, Errors]:
    """Compares each kind of sum with what was measured.

    Args:
        checks: Checks of one table; those that failed are left out.

    Returns:
        Errors by kind, `table` and, where there was a device, `fitted model`; none of fewer than
        two networks.
    """
    kept = [(c, c.measured.latency.ms) for c in checks if not isinstance(c.measured, Failure)]
    whole = [ms for _, ms in kept]
    sums = {
        "table": [c.table_ms for c, _ in kept],
        "fitted model": [c.model_ms for c, _ in kept if c.model_ms is not None],
    }
    return {kind: Errors.of(whole, v) for kind, v in sums.items() if v and len(whole) > 1}
