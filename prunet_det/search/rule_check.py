"""The rule of motion on preferences whose best width is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunet_det.search.motion import MotionRule, Prunodes, move

WIDTHS = np.arange(32, 2049, 32)
_SHAPES = ("absolute", "square", "root", "asymmetric", "mixed", "monotone")
_CLEAR = 0.3  # of the mean slope: what the slope near a clear optimum is at least
_RMS_DECAY = 0.99


@dataclass(frozen=True)
class Preferences:
    """Losses over the widths, each with the range 1.

    Attributes:
        losses: (preferences, widths).
        clear: Whether the slope two steps from the best width is at least 0.3 of the mean slope.
        monotone: Whether the best width is an end of the range by construction.
    """

    losses: np.ndarray
    clear: np.ndarray
    monotone: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """Index of the best width of each."""
        return self.losses.argmin(1)


def random_preferences(count: int = 200, seed: int = 0) -> Preferences:
    """Unimodal and monotone preferences over linear or logarithmic widths.

    |x|, x^2, root of |x|, with another slope on each side, |x| + x^2, and rising or falling powers.
    """
    random = np.random.default_rng(seed)
    losses, monotone = [], []
    for _ in range(count):
        x = WIDTHS.astype(float) if random.random() < 0.5 else np.log(WIDTHS)
        x = (x - x[0]) / (x[-1] - x[0])
        shape = random.choice(_SHAPES)
        at = x[random.integers(len(x))]
        away = np.abs(x - at)
        if shape == "monotone":
            loss = random.choice([-1, 1]) * x ** random.choice([0.5, 1.0, 1.5])
        else:
            loss = {
                "absolute": away,
                "square": away**2,
                "root": np.sqrt(away),
                "asymmetric": away * np.where(x < at, 1.0, random.uniform(0.2, 5.0)),
                "mixed": away + random.uniform(0, 3) * away**2,
            }[shape]
        losses.append((loss - loss.min()) / (loss.max() - loss.min()))
        monotone.append(shape == "monotone")
    array = np.array(losses)
    clear = np.array([_is_clear(loss) for loss in array])
    return Preferences(array, clear, np.array(monotone))


def _is_clear(loss: np.ndarray) -> bool:
    best, top = int(loss.argmin()), len(loss) - 1
    slopes = []
    for side in (-1, 1):
        near, far = best + 2 * side, best + 3 * side
        if min(near, far) >= 0 and max(near, far) <= top:
            slopes.append(loss[far] - loss[near])
    return bool(slopes) and min(slopes) >= _CLEAR / top


@dataclass(frozen=True)
class RuleResult:
    """What the rule found.

    Attributes:
        within_one: Share of all preferences whose best width was met within one step.
        clear, monotone: The same, of those with a clear optimum and of the monotone ones.
        mean_regret: Loss above the best one, of the range.
    """

    within_one: float
    clear: float
    monotone: float
    mean_regret: float


def run_rule(
    preferences: Preferences,
    updates: int = 600,
    noise: float = 1.0,
    bias: float = 0.0,
    seed: int = 0,
    rule: MotionRule | None = None,
) -> RuleResult:
    """Lets the rule search all preferences at once, with noisy gradients.

    The gradient is p (1 - p) (L(larger) - L(smaller) + noise); p is Gumbel-sampled.

    Args:
        preferences: What is preferred.
        updates: Of the rule.
        noise: Standard deviation of a difference's noise, times the pair's share of the range.
        bias: Of the early search to the larger width: the difference falls by
            bias * exp(-6 * progress) times the pair's share of the range.
        seed: Of the noise.
        rule: The constants; by default those of a search.
    """
    rule = rule or MotionRule()
    random = np.random.default_rng(seed)
    count, top = len(preferences.losses), len(WIDTHS) - 1
    state = Prunodes.start(np.full(count, float(top)))
    rows, square = np.arange(count), 0.0
    for k in range(updates):
        progress = k / updates
        a, b = state.pair(rule.half_gap(state.top, progress))
        p = 1 / (1 + np.exp(-(state.logit + random.logistic(size=count))))
        gap = (b - a) / top
        difference = preferences.losses[rows, b] - preferences.losses[rows, a]
        difference += random.normal(size=count) * noise * gap - bias * np.exp(-6 * progress) * gap
        gradient = p * (1 - p) * difference
        square = _RMS_DECAY * square + (1 - _RMS_DECAY) * float(np.mean(gradient**2))
        scale = (square / (1 - _RMS_DECAY ** (k + 1))) ** 0.5
        state = move(state, gradient, scale, progress, rule)
    found = state.answer()
    hit = np.abs(found - preferences.best) <= 1
    return RuleResult(
        float(hit.mean()),
        float(hit[preferences.clear].mean()),
        float(hit[preferences.monotone].mean()),
        float(preferences.losses[rows, found].mean()),
    )
