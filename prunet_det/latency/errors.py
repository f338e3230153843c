"""How far predicted latencies are from those they should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from prunet_det.utils.extras import require


@dataclass(frozen=True)
class Errors:
    """Predicted times beside the times that they should be.

    Attributes:
        expected_ms: Measured or published milliseconds.
        predicted_ms: Predicted milliseconds, in the same order.
    """

    expected_ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]

    @classmethod
    def of(cls, expected_ms: Iterable[float], predicted_ms: Iterable[float]) -> Errors:
        """Takes sequences and arrays of any kind."""
        return cls(tuple(map(float, expected_ms)), tuple(map(float, predicted_ms)))

    @property
    def relative(self) -> np.ndarray:
        """Signed relative errors, (times,)."""
        return np.array(self.predicted_ms) / np.array(self.expected_ms) - 1

    @property
    def mean(self) -> float:
        """Mean of the absolute relative errors."""
        return float(np.abs(self.relative).mean())

    @property
    def worst(self) -> float:
        """Largest absolute relative error."""
        return float(np.abs(self.relative).max())

    @property
    def bias(self) -> float:
        """Mean of the signed relative errors."""
        return float(self.relative.mean())

    @property
    def kendall_tau(self) -> float:
        """Kendall's rank correlation, -1..1; 1 of a single time.

        Raises:
            MissingPackageError: If SciPy is missing.
        """
        if len(self.expected_ms) < 2:
            return 1.0
        kendalltau = require("scipy.stats", "det").kendalltau
        return float(kendalltau(self.expected_ms, self.predicted_ms).statistic)

    def to_dict(self) -> dict[str, float]:
        """Mean and worst error, as the provenance of a device notes them."""
        return {"mean": round(self.mean, 4), "worst": round(self.worst, 4)}
