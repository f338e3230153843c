"""A latency that knows what it is of, and files of them that know where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from prunet_det.runtime.subject import SCOPES
from prunet_det.utils.errors import InputError

KINDS = ("predicted", "measured", "published")


@dataclass(frozen=True)
class Latency:
    """Milliseconds, and everything without which they mean nothing.

    Attributes:
        model: What ran.
        device: On what, such as `v100`.
        runtime: How, such as `tensorrt`.
        precision: `fp16` or `fp32`.
        batch: Images at once.
        input_size: Side of the images in pixels.
        scope: One of SCOPES, see there.
        kind: `predicted`, `measured` or `published`.
        latency_ms: For the whole batch.
        low_ms, high_ms: Between which it is thought to lie.
        note: What a reader must know, such as that a prediction is an extrapolation.
        threads: Of a CPU; 0 elsewhere.

    Raises:
        ValueError: An unknown kind or scope, or milliseconds that are none.
    """

    model: str
    device: str
    runtime: str
    precision: str
    batch: int
    input_size: int
    scope: str
    kind: str
    latency_ms: float
    low_ms: float
    high_ms: float
    note: str = ""
    threads: int = 0

    def __post_init__(self) -> None:
        for key, known in (("kind", KINDS), ("scope", SCOPES)):
            if getattr(self, key) not in known:
                raise InputError(
                    f"a latency's {key} must be one of {', '.join(known)}, got "
                    f"{getattr(self, key)!r}."
                )
        if not 0 < self.low_ms <= self.latency_ms <= self.high_ms < math.inf:
            raise InputError(
                f"a latency needs 0 < low <= value <= high, got {self.low_ms}, {self.latency_ms}, "
                f"{self.high_ms} ms."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Latency:
        """From what `to_dict` gave.

        Raises:
            ValueError: A key is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        wrong = [k for k in data if k not in known]
        missing = [k for k in known - {"note", "threads"} if k not in data]
        if wrong or missing:
            what = f"lacks {sorted(missing)[0]!r}" if missing else f"has the unknown {wrong[0]!r}"
            raise InputError(f"a record of a latency {what}.")
        return cls(**data)
