"""What draws' losses say of their choices, and how the two widths of Prunodes move by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunet_det.search.schedule import WidthRule

Array = np.ndarray

_MEMORY = 0.98  # of the linear model, from one step to the next
_RIDGE = 2.0  # draws of no effect that the linear model begins with
_SPREAD_MEMORY = 0.9
_EVEN = 0.25  # of a mean's standard errors: the preference that they make, in log-odds
_LOGIT_LIMIT = 1.0  # both widths have to be drawn for there to be evidence


class Gains:
    """Splits the gains of draws into what each choice explains, and the rest.

    It explains them by a running linear model of earlier draws, whose features are candidates,
    widths and layers.

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


@dataclass(kw_only=True)
class Prunodes:
    """Many Prunodes and how they move; arrays of one shape, one entry a Prunode.

    A Prunode has two inner widths, of which each path draws one. The paper says that the pair is
    changed from the architecture weights so that it moves to the best width and closes in on it;
    the rule here is ours. The pair lies at even distances around a centre, and starts around the
    one expansion that all blocks share. Every path tells which width was drawn and how good it
    was; their difference has a running mean and a running standard error. The pair moves to the
    better side only where the mean is several standard errors from zero: noise leaves it where it
    is, and where there is no evidence the uniform expansion stays. The gap between the two stays
    at its start for a while, since wider paths train faster at first whatever is best in the end,
    and then shrinks geometrically.

    Positions are logarithms of a width's ratio to the uniform expansion. All widths of a path are
    multiplied by the one factor that meets the budget, so that a position says how layers relate.

    Attributes:
        centre: Middle of the two widths, relative to the uniform expansion, as a logarithm.
        count: Number of paths since the pair has moved, the older ones counted for less.
        total, square: Sums over them of the estimated gain of the wider width, and of its square.
    """

    centre: Array
    count: Array
    total: Array
    square: Array

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> Prunodes:
        """Prunodes around the uniform expansion."""
        return cls(**{name: np.zeros(shape) for name in cls.__dataclass_fields__})

    def errors(self) -> Array:
        """Gain of the wider width, in standard errors."""
        mean = self.total / np.maximum(self.count, 1.0)
        variance = np.maximum(self.square / np.maximum(self.count, 1.0) - mean**2, 0.0)
        error = np.sqrt(variance / np.maximum(self.count, 1.0))
        return np.where(error > 0, mean / np.maximum(error, 1e-12), 0.0)

    def wide(self) -> Array:
        """Probability that the wider width is drawn: the evidence so far, 0.27 to 0.73."""
        logit = np.clip(_EVEN * self.errors(), -_LOGIT_LIMIT, _LOGIT_LIMIT)
        return 1 / (1 + np.exp(-logit))

    def move(
        self, count: Array, gain: Array, square: Array, *, at: float, rule: WidthRule
    ) -> Array:
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
