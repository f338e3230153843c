"""A latency, and everything without which its milliseconds mean nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prunet_det.runtime.program import PRECISIONS
from prunet_det.runtime.subject import Scope
from prunet_det.utils.config import check_keys, positive_int
from prunet_det.utils.errors import InputError

KINDS = ("measured", "predicted", "published")
_REQUIRED = (
    *("model", "device", "runtime", "precision", "batch", "input_size", "scope", "kind"),
    *("latency_ms", "low_ms", "high_ms"),
)
_OPTIONAL = ("note", "threads")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a network runs on, and how.

    Attributes:
        device: What it runs on: a device's name such as `v100` where the latency is predicted or
            published, the title of the hardware such as `AMD EPYC, 2 cores` where it is measured.
        runtime: How it is run, such as `tensorrt` or `onnxruntime`.
        precision: `fp16` or `fp32`, of weights and activations.
        batch: Images at once, at least 1.
        threads: Threads of a CPU; 0 on other devices.

    Raises:
        InputError: If the precision is unknown, or batch or threads are no such numbers.
    """

    device: str
    runtime: str
    precision: str
    batch: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(
                f"a precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}."
            )
        positive_int(self.batch, "the batch")
        if self.threads:
            positive_int(self.threads, "the number of threads")

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return f"{self.device}, {self.runtime} {self.precision}, batch {self.batch}{threads}"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one network under one set of conditions, and how we know them.

    Attributes:
        model: Name of the network.
        input_size: Side of the square images, in pixels.
        scope: What part of the network is timed.
        conditions: What it runs on, and how.
        ms: Milliseconds for the whole batch: a median where measured.
        low: Lower bound: the 10th percentile where measured, the error band's end where predicted.
        high: Upper bound: the 90th percentile, or the other end of the band.
        kind: One of KINDS.
        note: What a reader must know, such as that a prediction is an extrapolation or a
            measurement unstable; empty where there is nothing.

    Raises:
        InputError: If scope or kind are unknown, or not 0 < low <= ms <= high.
    """

    model: str
    input_size: int
    scope: Scope
    conditions: Conditions
    ms: float
    low: float
    high: float
    kind: str
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", Scope(self.scope))
        positive_int(self.input_size, "the input size")
        if self.kind not in KINDS:
            raise InputError(f"a latency's kind is one of {', '.join(KINDS)}, got {self.kind!r}.")
        if not 0 < self.low <= self.ms <= self.high < math.inf:
            raise InputError(
                f"a latency needs 0 < low <= value <= high, got {self.low}, {self.ms}, "
                f"{self.high} ms."
            )

    def __str__(self) -> str:
        """Value and bounds as a cell of a table; `~` marks a latency with a note."""
        return f"{self.ms:.4g} ({self.low:.4g} to {self.high:.4g}){' ~' * bool(self.note)}"

    def to_dict(self) -> dict[str, Any]:
        """One flat record, as JSON and CSV files hold it."""
        return {
            "model": self.model,
            **{k: v for k, v in asdict(self.conditions).items() if k != "threads"},
            "input_size": self.input_size,
            "scope": self.scope.value,
            "kind": self.kind,
            "latency_ms": self.ms,
            "low_ms": self.low,
            "high_ms": self.high,
            "note": self.note,
            "threads": self.conditions.threads,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Latency:
        """Reads `to_dict`'s form; numbers may be text, as in CSV files.

        Raises:
            InputError: If a key is missing or unknown, or a value impossible.
        """
        check_keys(data, (*_REQUIRED, *_OPTIONAL), _REQUIRED, "a latency", InputError)
        try:
            conditions = Conditions(
                device=data["device"],
                runtime=data["runtime"],
                precision=data["precision"],
                batch=int(data["batch"]),
                threads=int(data.get("threads", 0)),
            )
            return cls(
                model=data["model"],
                input_size=int(data["input_size"]),
                scope=data["scope"],
                conditions=conditions,
                ms=float(data["latency_ms"]),
                low=float(data["low_ms"]),
                high=float(data["high_ms"]),
                kind=data["kind"],
                note=data.get("note", ""),
            )
        except (TypeError, ValueError) as e:
            raise InputError(f"a latency of {data['model']} cannot be read: {e}") from e

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Latency:
        """Reads a row that has other columns too, such as one of a measurement."""
        return cls.from_dict({key: row[key] for key in (*_REQUIRED, *_OPTIONAL) if key in row})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A network that has no latency, and why.

    Attributes:
        model: Name of the network.
        input_size: Side of the square images, in pixels; None where the network's own is not known.
        scope: What part of the network was to be timed.
        conditions: What it was to run on, and how.
        reason: Why there is no latency, in a sentence.
        kind: One of KINDS.
    """

    model: str
    input_size: int | None
    scope: Scope
    conditions: Conditions
    reason: str
    kind: str = "measured"

    def to_dict(self) -> dict[str, Any]:
        """A record like a latency's, with the reason as `failed` and no milliseconds."""
        return {
            "model": self.model,
            **{k: v for k, v in asdict(self.conditions).items() if k != "threads"},
            "input_size": self.input_size,
            "scope": Scope(self.scope).value,
            "kind": self.kind,
            **dict.fromkeys(("latency_ms", "low_ms", "high_ms")),
            "note": "",
            "threads": self.conditions.threads,
            "failed": self.reason,
        }


def read_latencies(rows: Iterable[Mapping[str, Any]]) -> list[Latency]:
    """Reads rows of measurements, without those that failed.

    Raises:
        InputError: If a row cannot be read.
    """
    return [Latency.from_row(row) for row in rows if not row.get("failed")]
