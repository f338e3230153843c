"""How a Prunode's two widths move: a small pure rule on arrays, one entry a Prunode.

The paper says that the pair is changed from the architecture weights so that it moves to the best
width and closes in on it; the rule below is ours. Each Prunode has a centre c and, by the schedule,
a half gap d; its paths have the widths c - d and c + d. Its logit t, the preference for the wider
path, is driven by gradients and leaks, so that it follows what they say now instead of adding up
what they once said; the centre drifts with it by a share of the gap. The gap stays at its start for
a while, since wider paths train faster at first whatever is best in the end, and then shrinks
geometrically.

Gradients are divided by one scale, common to all Prunodes of a search: those that matter more move
faster, and noise alone does not move the others at full speed. Widths are counted in steps of the
space, from 0 to `top`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_LOGIT_LIMIT = 3.0
_STEP_LIMIT = 3.0  # of a scaled gradient


@dataclass(frozen=True, kw_only=True)
class MotionRule:
    """Constants of the rule, found on simulated preferences (`tools/search_backbone.py rule`).

    Attributes:
        smooth: Share of the old value in the running mean of a gradient.
        leak: Share of the logit that is lost at every update.
        rate: Of the logit, for a gradient as large as the scale.
        drift: Share of the half gap that the centre moves where the preference is certain.
        hold, close: When, in 0..1 of the search, the gap begins to shrink and when it is closed.
        start: Half gap at the start, as a share of the range.
        end: Half gap at the end, in steps.
        bracket: Half gaps to each side of the centre that a Prunode can still reach.
        average: Last share of the search over which the centre is averaged to give the answer.
    """

    smooth: float = 0.8
    leak: float = 0.2
    rate: float = 0.5
    drift: float = 0.33
    hold: float = 0.35
    close: float = 0.8
    start: float = 0.25
    end: float = 1.0
    bracket: float = 8.0
    average: float = 0.1

    def half_gap(self, top: np.ndarray, progress: float) -> np.ndarray:
        """Of the two widths, in steps."""
        start = np.maximum(self.start * top, self.end)
        closed = np.clip((progress - self.hold) / (self.close - self.hold), 0.0, 1.0)
        return start * (self.end / start) ** closed


@dataclass(frozen=True, kw_only=True)
class Prunodes:
    """State of many Prunodes.

    Attributes:
        top: Index of the greatest width; 0 where there is nothing to choose.
        centre, logit: As in the rule; the logit is positive where the wider path is preferred.
        gradient: Running mean of the loss's gradient by the logit.
        low, high: Between which the centre can still end.
        total, count: Of the centres that the answer averages.
    """

    top: np.ndarray
    centre: np.ndarray
    logit: np.ndarray
    gradient: np.ndarray
    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    count: int = 0

    @classmethod
    def start(cls, top: np.ndarray, centre: np.ndarray | None = None) -> Prunodes:
        """Prunodes in the middle of their ranges, or at `centre`."""
        top = np.asarray(top, float)
        zero = np.zeros_like(top)
        middle = top / 2 if centre is None else np.clip(centre, 0.0, top)
        return cls(
            top=top,
            centre=middle,
            logit=zero,
            gradient=zero,
            low=zero,
            high=top.copy(),
            total=zero,
        )

    def pair(self, half_gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the smaller and the larger width, different wherever there are two."""
        top = self.reach()  # what lies beyond has been cut off
        smaller = np.clip(np.round(self.centre - half_gap), 0, np.maximum(top - 1, 0)).astype(int)
        larger = np.clip(np.round(self.centre + half_gap), 0, top).astype(int)
        return smaller, np.minimum(np.maximum(larger, smaller + 1), top)

    def answer(self) -> np.ndarray:
        """Index of the width that was found; before the end, of the centre."""
        mean = self.total / self.count if self.count else self.centre
        return np.clip(np.round(mean), 0, self.top).astype(int)

    def reach(self) -> np.ndarray:
        """Index of the greatest width that can still be chosen or tried."""
        return np.clip(np.ceil(self.high), 0, self.top).astype(int)

    def to_dict(self) -> dict[str, Any]:
        """Lists, for checkpoints; exact."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.__dict__.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prunodes:
        """From what `to_dict` gave."""
        arrays: dict[str, Any] = {k: np.array(v, float) for k, v in data.items() if k != "count"}
        return cls(**arrays, count=int(data["count"]))


def smoothed(state: Prunodes, gradient: np.ndarray, rule: MotionRule) -> np.ndarray:
    """The running means of the gradients with new ones taken in."""
    return rule.smooth * state.gradient + (1 - rule.smooth) * gradient


def move(
    state: Prunodes, gradient: np.ndarray, scale: float, progress: float, rule: MotionRule
) -> Prunodes:
    """One update.

    Args:
        state: Before it.
        gradient: Of the loss by the logits.
        scale: What all gradients are divided by, such as their root mean square over the Prunodes.
        progress: Of the search, in 0..1.
        rule: The constants.
    """
    mean = smoothed(state, gradient, rule)
    step = np.clip(mean / max(scale, 1e-12), -_STEP_LIMIT, _STEP_LIMIT)
    logit = np.clip((1 - rule.leak) * state.logit - rule.rate * step, -_LOGIT_LIMIT, _LOGIT_LIMIT)
    half_gap = rule.half_gap(state.top, progress)
    # The end of a range is reached from one side only: room beyond it keeps the average unbiased.
    beyond = 2 * rule.end
    centre = np.clip(
        state.centre + rule.drift * half_gap * np.tanh(logit / 2),
        np.maximum(state.low, 0) - beyond * (state.low <= 0),
        np.minimum(state.high, state.top) + beyond * (state.high >= state.top),
    )
    low, high = state.low, state.high
    if progress >= rule.hold:
        room = rule.bracket * half_gap
        low, high = np.maximum(low, centre - room), np.minimum(high, centre + room)
    total, count = state.total, state.count
    if progress >= 1 - rule.average:
        total, count = total + centre, count + 1
    return replace(
        state,
        centre=centre,
        logit=logit,
        gradient=mean,
        low=low,
        high=high,
        total=total,
        count=count,
    )
