"""Lookup tables from (block, input size) to milliseconds, predicted or measured."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prunet_det.arch.spec import ArchSpec, BlockSpec, kinds_with_hidden
from prunet_det.latency.device import (
    Device,
    KernelArrays,
    kernels_ms,
    load_device,
    total_ms,
)
from prunet_det.latency.kernels import block_kernels, input_kernels
from prunet_det.latency.record import Conditions
from prunet_det.utils.config import from_mapping
from prunet_det.utils.env import local_devices
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import atomic_path, read_json, reading

SCHEMA = 1
Size = tuple[int, int]
Key = tuple[BlockSpec, Size]


class TableError(InputError):
    """A table that cannot be read, is of another device, or does not hold what is asked for."""


@dataclass(frozen=True)
class Entry:
    """Milliseconds of a block.

    Attributes:
        ms: Milliseconds that one more such block adds to a network.
        low_ms: 10th percentile where measured, the error band's lower end where predicted.
        high_ms: 90th percentile, or the band's upper end.
        overhead_ms: Milliseconds that a network with this block first takes beside its blocks.
    """

    ms: float
    low_ms: float
    high_ms: float
    overhead_ms: float


class Table:
    """Blocks and what they cost under one set of conditions.

    Args:
        conditions: What the milliseconds of all entries hold for.
        kind: `predicted` or `measured`.
        entries: Entry of each (block, (height, width) of its input).
        machine: Driver, date and versions of the machine that measured; not compared.
    """

    def __init__(
        self,
        conditions: Conditions,
        kind: str,
        entries: Mapping[Key, Entry] | None = None,
        machine: Mapping[str, Any] | None = None,
    ) -> None:
        self.conditions, self.kind = conditions, kind
        self.entries: dict[Key, Entry] = dict(entries or {})
        self.machine = {"driver": "", "date": "", "versions": {}, **(machine or {})}

    @property
    def title(self) -> str:
        """Kind and conditions in words."""
        return f"{self.kind}: {self.conditions}"

    def add(self, key: Key, entry: Entry) -> None:
        """Adds or replaces an entry."""
        self.entries[key] = entry
        self.__dict__.pop("_groups", None)

    @cached_property
    def _groups(self) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
        """Blocks alike but for their inner width: the widths, and milliseconds made monotone."""
        from scipy.optimize import isotonic_regression

        alike: dict[Key, list[tuple[int, float]]] = {}
        for (block, size), entry in self.entries.items():
            alike.setdefault(without_width(block, size), []).append((block.hidden, entry.ms))
        groups = {}
        for key, points in alike.items():
            widths, ms = np.array(sorted(points)).T
            groups[key] = (widths, isotonic_regression(ms).x)
        return groups

    def ms(self, block: BlockSpec, size: Size) -> float:
        """Returns the milliseconds of a block: a line between widths, never falling with them.

        Args:
            block: The block.
            size: Height and width of its input.

        Raises:
            TableError: If the table has no such block, or none so wide or narrow.
        """
        block = block.padded()
        group = self._groups.get(without_width(block, size))
        if group is None:
            raise TableError(
                f"the table ({self.title}) has no block like {block.kind} {block.in_chs}->"
                f"{block.out_chs}, kernel {block.kernel}, stride {block.stride} at {size}; make a "
                "table of this search space or network."
            )
        widths, ms = group
        if not widths[0] <= block.hidden <= widths[-1]:
            raise TableError(
                f"the table's {block.kind} {block.in_chs}->{block.out_chs} at {size} have inner "
                f"widths from {widths[0]:.0f} to {widths[-1]:.0f}; {block.hidden} lies outside."
            )
        return float(np.interp(block.hidden, widths, ms))

    def overhead_ms(self, block: BlockSpec, size: Size) -> float:
        """Returns the milliseconds that a network takes beside its blocks.

        Args:
            block: Its first block.
            size: Height and width of the image.

        Raises:
            TableError: If the table does not hold the block.
        """
        entry = self.entries.get((block.padded(), size))
        if entry is None:
            raise TableError(f"the table has no first block {block.kind} at {size}.")
        return entry.overhead_ms

    def network_ms(self, spec: ArchSpec, input_size: int) -> float:
        """Returns the milliseconds of a network's backbone.

        Args:
            spec: The network.
            input_size: Side of the square images, in pixels.

        Raises:
            TableError: If the table does not hold one of its blocks.
        """
        blocks = network_blocks(spec, input_size)
        return self.overhead_ms(*blocks[0]) + sum(self.ms(*key) for key in blocks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as JSON, atomically."""
        entries = [
            json.dumps({"block": block.to_dict(), "size": size, **asdict(entry)})
            for (block, size), entry in self.entries.items()
        ]
        settings = asdict(self.conditions)
        about = {"device": settings.pop("device"), "kind": self.kind, **settings, **self.machine}
        head = json.dumps({"schema": SCHEMA, "conditions": about})
        with atomic_path(path) as temporary:
            text = f'{head[:-1]}, "entries": [\n' + ",\n".join(entries) + "\n]}\n"
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], force: bool = False) -> Table:
        """Reads a table.

        Args:
            path: The table's file.
            force: Whether to take a table that was measured on a device that is not here.

        Raises:
            FileNotFoundError: If there is no such file.
            TableError: If it is damaged, or of another device.
        """
        path = Path(path)
        data = read_json(path, "latency table", TableError)
        with reading(path, "latency table", TableError):
            if data.get("schema") != SCHEMA:
                raise TableError(f"schema {data.get('schema')!r} is not known, only {SCHEMA}")
            entries = {}
            for e in data["entries"]:
                block = from_mapping(BlockSpec, e["block"], "a block", TableError)
                times = {f.name: float(e[f.name]) for f in fields(Entry)}
                entries[block, (e["size"][0], e["size"][1])] = Entry(**times)
            about = dict(data["conditions"])
            machine = {k: about.pop(k) for k in ("driver", "date", "versions") if k in about}
            kind = about.pop("kind")
            table = cls(Conditions(**about), kind, entries, machine)
            table.check_entries()
        if not force:
            table.check_device(path)
        return table

    def check_entries(self) -> None:
        """Refuses milliseconds that are none, and a kind that is unknown.

        Raises:
            TableError: If it is such a table.
        """
        if self.kind not in ("predicted", "measured"):
            raise TableError(f"its kind is {self.kind!r}, neither predicted nor measured")
        for (block, size), entry in self.entries.items():
            wrong = [ms for ms in (entry.ms, entry.overhead_ms) if not 0 <= ms < math.inf]
            if wrong:
                raise TableError(f"a {block.kind} block at {size} takes {wrong[0]} ms")

    def check_device(self, path: str | os.PathLike[str]) -> None:
        """Refuses a table that was measured on a device that is not here.

        Args:
            path: The table's file, for the error.

        Raises:
            TableError: If it was.
        """
        here = local_devices().values()
        if self.kind == "measured" and self.conditions.device not in here:
            raise TableError(
                f"{os.fspath(path)} was measured on {self.conditions.device}; this machine has "
                f"{' and '.join(here)}. Measure a table here, or pass --force to use it all the "
                "same."
            )


def without_width(block: BlockSpec, size: Size) -> Key:
    """Returns a key that is the same for all blocks that are alike but for their inner width."""
    least = int(block.has_hidden)
    return replace(block, hidden=least, se=min(block.se, least)), size


def network_blocks(spec: ArchSpec, input_size: int) -> list[Key]:
    """Returns a network's blocks with the sizes of their inputs, its stem's convolutions first."""
    size = (input_size, input_size)
    keys = []
    for block in (*spec.stem.blocks(), *spec.blocks):
        block = block.padded()
        keys.append((block, size))
        size = block.output_size(size)
    return keys


def variants(keys: Iterable[Key], count: int = 4, step: int = 8) -> list[Key]:
    """Returns blocks and, in their places, others with all kinds, kernels and inner widths.

    Each block with an inner width gives all kinds that have one, with kernels 3 and 5 and `count`
    inner widths, evenly from one times its input's channels to its own width, at least 4 times;
    rounded to `step`.
    """
    found: dict[Key, None] = {}
    for block, size in keys:
        found[block, size] = None
        if not block.has_hidden:
            continue
        widest = max(block.hidden, 4 * block.in_chs)
        widths = np.linspace(block.in_chs, widest, count) / step
        for kind in kinds_with_hidden():
            for kernel in (3, 5):
                for width in {step * max(1, round(w)) for w in widths}:
                    variant = replace(block, kind=kind, kernel=kernel, hidden=int(width), se=0)
                    found[variant, size] = None
    return list(found)


def predict_table(keys: Iterable[Key], device: str | Device = "v100", batch: int = 1) -> Table:
    """Makes a table by the analytic model, for a device that need not be here.

    Args:
        keys: Blocks with the sizes of their inputs.
        device: A device's name, the path of a device file, or a Device.
        batch: Images at once.

    Raises:
        InputError: If the device is unknown or the batch impossible.
    """
    known = load_device(device) if isinstance(device, str) else device
    table = Table(known.at(batch), "predicted")
    every: Sequence[Key] = list(dict.fromkeys((b.padded(), s) for b, s in keys))
    if not every:
        return table
    fusion = known.fusion
    blocks = KernelArrays([block_kernels(*key, fusion=fusion) for key in every])
    costs = kernels_ms(blocks, known, batch)
    layouts = [input_kernels(block.in_chs, h * w, fusion) for block, (h, w) in every]
    overheads = total_ms(KernelArrays(layouts), known, batch)
    band = known.provenance.get("band", {}).get("inside", 0.3)
    for key, ms, overhead in zip(every, costs, overheads, strict=True):
        low, high = float(ms / (1 + band)), float(ms * (1 + band))
        table.add(key, Entry(float(ms), low, high, float(overhead)))
    return table
