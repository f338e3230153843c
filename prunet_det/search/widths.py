"""How a Prunode's two widths move: a small pure rule on arrays, one entry a Prunode.

A Prunode has two inner widths, of which each path draws one. The paper says that the pair is
changed from the architecture weights so that it moves to the best width and closes in on it; the
rule below is ours. The pair lies at even distances around a centre, and starts around the one
expansion that all blocks share. Every path tells which width was drawn and how good it was; their
difference has a running mean and a running standard error. The pair moves to the better side
only where the mean is several standard errors from zero: noise leaves it where it is, and where
there is no evidence the uniform expansion stays. The gap between the two stays at its start for a
while, since wider paths train faster at first whatever is best in the end, and then shrinks
geometrically.

Positions are logarithms of a width's ratio to the uniform expansion. All widths of a path are
multiplied by the one factor that meets the budget, so that a position says how layers relate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunet_det.utils.errors import InputError

_EVEN = 0.25  # of a mean's standard errors: the preference that they make, in log-odds
_LOGIT_LIMIT = 1.0  # both widths have to be drawn for there to be evidence


@dataclass(frozen=True, kw_only=True)
class WidthRule:
    """Constants of the rule.

    Attributes:
        start, end: Distance of the two widths from their centre, as a logarithm, first and last.
        hold, close: Progress, 0..1, at which the gap begins to shrink and at which it is closed.
        significance: Standard errors by which the two widths must differ for the pair to move. A
            look after every step finds differences where there are none more often than one look.
        least: Paths with each of a Prunode's widths, about, before it may move.
        drift: Share of the distance by which the centre moves.
        limit: Greatest distance of the centre from the uniform expansion, as a logarithm.
        memory: Share of the evidence that is kept from one step to the next.
    """

    start: float = 0.35
    end: float = 0.12
    hold: float = 0.3
    close: float = 0.9
    significance: float = 3.0
    least: float = 12.0
    drift: float = 0.7
    limit: float = 1.0
    memory: float = 0.99

    def __post_init__(self) -> None:
        if not self.hold < self.close or not 0 < self.end <= self.start:
            raise InputError(
                "rule.hold must be below rule.close, and rule.end above 0 and at most rule.start."
            )

    def half_gap(self, progress: float) -> float:
        """Distance of the two widths from their centre."""
        closed = float(np.clip((progress - self.hold) / (self.close - self.hold), 0.0, 1.0))
        return self.start * (self.end / self.start) ** closed


@dataclass(kw_only=True)
class Prunodes:
    """State of many Prunodes; arrays of one shape.

    Attributes:
        centre: Middle of the two widths, relative to the uniform expansion, as a logarithm.
        count: Number of paths since the pair has moved, the older ones counted for less.
        total, square: Sums over them of the estimated gain of the wider width, and of its square.
    """

    centre: np.ndarray
    count: np.ndarray
    total: np.ndarray
    square: np.ndarray

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> Prunodes:
        """Prunodes around the uniform expansion."""
        return cls(**{name: np.zeros(shape) for name in cls.__dataclass_fields__})

    def errors(self) -> np.ndarray:
        """Gain of the wider width, in standard errors."""
        mean = self.total / np.maximum(self.count, 1.0)
        variance = np.maximum(self.square / np.maximum(self.count, 1.0) - mean**2, 0.0)
        error = np.sqrt(variance / np.maximum(self.count, 1.0))
        return np.where(error > 0, mean / np.maximum(error, 1e-12), 0.0)

    def wide(self) -> np.ndarray:
        """Probability that the wider width is drawn: the evidence so far, 0.27 to 0.73."""
        logit = np.clip(_EVEN * self.errors(), -_LOGIT_LIMIT, _LOGIT_LIMIT)
        return 1 / (1 + np.exp(-logit))

    def move(
        self, count: np.ndarray, gain: np.ndarray, square: np.ndarray, *, at: float, rule: WidthRule
    ) -> np.ndarray:
        """Takes evidence in and moves the pairs for which it is significant.

        Args:
            count: Number of new paths.
            gain, square: Sums over them of the gain that each estimates for the wider width, and of
                its square.
            at: Progress, 0..1.
            rule: The constants.

        Returns:
            Which pairs moved: -1, 0 or 1.
        """
        self.count = rule.memory * self.count + count
        self.total = rule.memory * self.total + gain
        self.square = rule.memory * self.square + square
        errors = self.errors()
        sure = (np.abs(errors) > rule.significance) & (self.count >= 2 * rule.least)
        moved = np.where(sure, np.sign(errors), 0.0)
        step = rule.drift * rule.half_gap(at) * moved
        self.centre = np.clip(self.centre + step, -rule.limit, rule.limit)
        for sums in (self.count, self.total, self.square):  # the pair is another one now
            sums[sure] = 0.0
        return moved

    def to_dict(self) -> dict[str, Any]:
        """Lists, for checkpoints; exact."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prunodes:
        """From what `to_dict` gave."""
        return cls(**{name: np.array(values, float) for name, values in data.items()})
