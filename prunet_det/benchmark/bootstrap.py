"""Bootstrap over seeds: what a mean of few seeds might as well have been."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
_SEED = 0  # the same records give the same interval


def resampled_means(values: Sequence[Sequence[float]]) -> Iterator[np.ndarray]:
    """Draws each point's seeds anew, with replacement and independently of the other points.

    Args:
        values: Of each point, the metric of each seed.

    Yields:
        RESAMPLES times the means of the points, (points,).
    """
    random = np.random.default_rng(_SEED)
    drawn = [
        np.asarray(v, float)[random.integers(len(v), size=(RESAMPLES, len(v)))].mean(axis=1)
        for v in values
    ]
    yield from np.stack(drawn, axis=1)


def interval(statistics: Sequence[float]) -> tuple[float, float]:
    """Percentile interval of LEVEL."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(statistics, [tail, 100 - tail])
    return float(low), float(high)
