"""Which of the three prunings are on, and when each does what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Tiers:
    """Which of the three prunings are on, and their schedules over the progress of their phase.

    Attributes:
        widths: Tier 1: Prunodes draw one of two widths, which move and close in. Off, every path
            has one expansion in all of its blocks.
        candidates: Tier 2: candidates leave.
        layers: Tier 3: the skip enters late, and layers leave or stay.
        candidates_begin, candidates_end: Progress, 0..1, between which the threshold of the
            candidates rises linearly from 0. Its end lies behind `skip_enters`: candidates that
            are decided before the depth is are those of the greatest depth.
        candidates_threshold: The threshold at its end, 0..1; a candidate whose probability is below
            it leaves. One half leaves one candidate a layer.
        skip_enters: Progress at which layers may be skipped.
        skip_start: Probability of every skip when it enters: small, since the layers of a stage
            behind a skipped one are skipped with it.
        skip_first, skip_last: A layer leaves whose skip is likelier than a threshold that falls
            linearly from the first, at `skip_enters`, to the second, at `skip_end`.
        skip_end: Progress at which the layers that are left stay.
        rate: Change of a preference, in log-odds, for a unit of its score function's gradient.
    """

    widths: bool = True
    candidates: bool = True
    layers: bool = True
    candidates_begin: float = 0.1
    candidates_end: float = 0.8
    candidates_threshold: float = 0.5
    skip_enters: float = 0.25
    skip_start: float = 0.15
    skip_first: float = 0.9
    skip_last: float = 0.5
    skip_end: float = 0.7
    rate: float = 0.6

    def candidate_threshold(self, progress: float) -> float:
        """Probability below which a candidate leaves."""
        share = (progress - self.candidates_begin) / (self.candidates_end - self.candidates_begin)
        return self.candidates_threshold * float(np.clip(share, 0.0, 1.0))

    def skip_threshold(self, progress: float) -> float:
        """Probability of its skip above which a layer leaves."""
        share = (progress - self.skip_enters) / (self.skip_end - self.skip_enters)
        return self.skip_first + (self.skip_last - self.skip_first) * float(np.clip(share, 0, 1))
