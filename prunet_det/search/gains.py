"""What a draw's loss says of each of its choices: a running linear model of earlier draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray

_MEMORY = 0.98  # of the linear model, from one step to the next
_RIDGE = 2.0  # draws of no effect that the linear model begins with
_SPREAD_MEMORY = 0.9


class Gains:
    """Splits the gains of draws into what the model says of each choice, and the rest.

    Features are candidates, widths and layers.

    Args:
        layers: Number of layers.
        operators: Most operators of a layer.
    """

    def __init__(self, layers: int, operators: int) -> None:
        features = layers * operators + 2 * layers
        self.gram: Array = _RIDGE * np.eye(features)
        self.moment: Array = np.zeros(features)
        self.spread, self.steps = 0.0, 0

    def split(
        self, one_hot: Array, wide: Array, kept: Array, losses: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Explains a step's draws by those before them, and learns from them.

        Args:
            one_hot: Candidates, (draws, layers, operators).
            wide: Whether the wider width was drawn, (draws, layers).
            kept: Whether the network has the layer, (draws, layers).
            losses: The draws' losses on the same images, (draws,).

        Returns:
            Parts of the candidates, the widths and the layers, (draws, layers) each, and the rest,
            (draws,); above 0 is better. They sum up to a draw's gain over the step's mean loss, in
            running standard deviations of a step's losses, cut at -4 and 4.
        """
        draws, layers = kept.shape
        gains = self._standardized(losses)
        parts = (one_hot.reshape(draws, -1), kept * np.where(wide, 0.5, -0.5), kept.astype(float))
        features = np.concatenate(parts, axis=1)
        features -= features.mean(0)
        slopes = np.linalg.solve(self.gram, self.moment)
        explained = features * slopes
        self.gram = _MEMORY * self.gram + features.T @ features
        self.gram += (1 - _MEMORY) * _RIDGE * np.eye(len(slopes))
        self.moment = _MEMORY * self.moment + features.T @ gains
        of_candidates = explained[:, : -2 * layers].reshape(one_hot.shape).sum(-1)
        of_widths, of_layers = explained[:, -2 * layers : -layers], explained[:, -layers:]
        return of_candidates, of_widths, of_layers, gains - explained.sum(1)

    def _standardized(self, losses: Array) -> Array:
        """Gains against the step's mean, in the running standard deviation within a step."""
        gains = losses.mean() - losses
        self.steps += 1
        variance = float(losses.var(ddof=1))
        self.spread = _SPREAD_MEMORY * self.spread + (1 - _SPREAD_MEMORY) * variance
        variance = self.spread / (1 - _SPREAD_MEMORY**self.steps)
        return np.clip(gains / max(variance**0.5, 1e-12), -4.0, 4.0)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; exact."""
        return {
            "gram": self.gram.tolist(),
            "moment": self.moment.tolist(),
            "spread": self.spread,
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From what `state_dict` gave; other keys are passed over."""
        self.gram, self.moment = np.array(state["gram"]), np.array(state["moment"])
        self.spread, self.steps = state["spread"], state["steps"]
