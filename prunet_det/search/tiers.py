"""Which of the three prunings are on, and when each does what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Tiers:
    """Which of the three prunings are on, and their schedules over the search's progress 0..1.

    Attributes:
        widths: Tier 1: Prunodes close in; off, they keep their first pair.
        blocks: Tier 2: candidates leave.
        layers: Tier 3: the skip enters late, and layers leave or lose their coefficient.
        skip_from_start: The usual way instead of tier 3: the skip is one more candidate.
        blocks_begin, blocks_end, blocks_threshold: Between the first two the threshold rises
            linearly from 0; a candidate whose probability lies below it leaves.
        skip_enters, skip_first, skip_last, skip_end: The skip enters, and a layer leaves whose
            skip is likelier than a threshold that falls linearly from `skip_first` to `skip_last`;
            at `skip_end` the layers that are left lose their coefficients.
        rate: Of the logits of candidates and skips, for a gradient as large as the scale.
        project_from, project_gain: From then on the widths are moved back towards the budget, by
            this share of what is missing a step.
    """

    widths: bool = True
    blocks: bool = True
    layers: bool = True
    skip_from_start: bool = False
    blocks_begin: float = 0.05
    blocks_end: float = 0.5
    blocks_threshold: float = 0.5
    skip_enters: float = 0.35
    skip_first: float = 0.9
    skip_last: float = 0.5
    skip_end: float = 0.65
    rate: float = 0.06
    project_from: float = 0.3
    project_gain: float = 0.3

    def block_threshold(self, progress: float) -> float:
        """Probability below which a candidate leaves."""
        share = (progress - self.blocks_begin) / (self.blocks_end - self.blocks_begin)
        return self.blocks_threshold * float(np.clip(share, 0.0, 1.0))

    def skip_threshold(self, progress: float) -> float:
        """Probability of its skip above which a layer leaves."""
        share = (progress - self.skip_enters) / (self.skip_end - self.skip_enters)
        return self.skip_first + (self.skip_last - self.skip_first) * float(np.clip(share, 0, 1))
