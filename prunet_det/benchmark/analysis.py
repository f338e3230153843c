"""The statistics of suites and studies: fronts, ratios, intervals, spread over noise, ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prunet_det.utils.errors import InputError, UserError

RESAMPLES = 1000
LEVEL = 0.95
_SEED = 0  # the same records give the same interval
_PERCENTILE_RESAMPLES = 2000


def front_of(
    costs: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray
) -> list[int]:
    """Finds those that no other one beats or equals in both: along the front, both rise.

    Args:
        costs: Cost of each, such as milliseconds; less is better.
        values: Value of each, such as an accuracy; more is better.

    Returns:
        Their indices, cheap ones first.
    """
    front: list[int] = []
    for i in np.lexsort((-np.asarray(values, float), np.asarray(costs, float))):
        if not front or values[i] > values[front[-1]]:
            front.append(int(i))
    return front


@dataclass(frozen=True, kw_only=True)
class RatioEstimate:
    """Latency of one family over another's at equal accuracy.

    Attributes:
        value: Geometric mean over the range.
        least, most: Over the range.
        low, high: The range of accuracies that both fronts cover.
    """

    value: float
    least: float
    most: float
    low: float
    high: float


class NoCommonRangeError(InputError):
    """Two fronts that cannot be compared; the sentence says why."""


def estimate_ratio(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]
) -> RatioEstimate:
    """The ratio of two fronts, exactly: between knots of either, its logarithm is linear.

    Args:
        ours, theirs: (accuracy, milliseconds) of a front's points, both rising.

    Raises:
        NoCommonRangeError: They share no range of accuracies.
    """
    (a, t), (b, u) = np.array(ours, float).T, np.array(theirs, float).T
    low, high = max(a[0], b[0]), min(a[-1], b[-1])
    if not low < high:
        raise NoCommonRangeError(
            f"the fronts share no range of accuracies ({a[0]:.3f} to {a[-1]:.3f} and {b[0]:.3f} to "
            f"{b[-1]:.3f}) and are not extrapolated"
        )
    knots = np.unique(np.clip(np.concatenate([a, b]), low, high))
    logs = np.interp(knots, a, np.log(t)) - np.interp(knots, b, np.log(u))
    mean = float(np.sum((logs[1:] + logs[:-1]) / 2 * np.diff(knots)) / (high - low))
    return RatioEstimate(
        value=float(np.exp(mean)),
        least=float(np.exp(logs.min())),
        most=float(np.exp(logs.max())),
        low=float(low),
        high=float(high),
    )


def hypervolume(costs: Sequence[float], values: Sequence[float], limit: float) -> float:
    """Area between a front and the reference point (`limit`, 0), as a share of that rectangle.

    It is the best value that a budget buys, averaged over budgets from 0 to `limit`; a budget that
    buys nothing counts as 0.

    Args:
        costs, values: Costs and values of the front's points, both rising.
        limit: A cost that is no less than the last one.
    """
    return float(np.dot(values, np.diff([*costs, limit])) / limit)


def resampled_means(values: Sequence[Sequence[float]]) -> Iterator[np.ndarray]:
    """Draws each point's seeds anew, with replacement and independently of the other points.

    Args:
        values: Metric of each seed, for each point.

    Yields:
        RESAMPLES times the means of the points, (points,).
    """
    random = np.random.default_rng(_SEED)
    drawn = [
        np.asarray(v, float)[random.integers(len(v), size=(RESAMPLES, len(v)))].mean(axis=1)
        for v in values
    ]
    yield from np.stack(drawn, axis=1)


def resampled_ratios(
    ours: Sequence[tuple[Sequence[float], float]], theirs: Sequence[tuple[Sequence[float], float]]
) -> list[float]:
    """Estimates the ratio of two families anew in each resample whose fronts share a range.

    Args:
        ours, theirs: Metric of each seed, and milliseconds, for each point.
    """
    ms, found = [np.array([p[1] for p in side]) for side in (ours, theirs)], []
    for means in resampled_means([values for values, _ in (*ours, *theirs)]):
        sides = zip(ms, np.split(means, [len(ours)]), strict=True)
        fronts = [[(m[i], t[i]) for i in front_of(t, m)] for t, m in sides]
        with contextlib.suppress(NoCommonRangeError):
            found.append(estimate_ratio(*fronts).value)
    return found


def interval(statistics: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Computes the percentile interval of LEVEL."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(statistics, [tail, 100 - tail])
    return float(low), float(high)


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Computes a mean and its standard error; nan for the error of one value, and for none."""
    count = len(values)
    mean = float(np.mean(values)) if count else float("nan")
    return mean, float(np.std(values, ddof=1) / count**0.5) if count > 1 else float("nan")


def half_width(values: Sequence[float]) -> float:
    """Computes half the width of the interval of a mean, by Student's t; nan for one value."""
    from scipy.stats import t

    if len(values) < 2:
        return float("nan")
    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * mean_and_error(values)[1])


@dataclass(frozen=True)
class Difference:
    """How much better one group of networks is than another.

    Attributes:
        value: Difference of the groups' mean scores.
        error: Standard error of the value that comes from the trainings; 0 where that is unknown.
    """

    value: float
    error: float

    @property
    def verdict(self) -> str:
        """What may be said: two standard errors tell the groups apart."""
        if abs(self.value) <= 2 * self.error:
            return "not told apart"
        return "better" if self.value > 0 else "worse"

    def __str__(self) -> str:
        if not self.error:
            return f"{self.value:+.3f}; one training each does not say how sure that is"
        error = f"{2 * self.error:.3f} (two standard errors of the trainings)"
        return f"{self.value:+.3f} ± {error}, {self.verdict}"


def difference(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], noise: float
) -> Difference:
    """Compares the mean scores of two groups of networks.

    Args:
        first, second: Score of each training, for each network of a group.
        noise: Standard deviation of a training; 0 where it is unknown.
    """
    means = [float(np.mean([np.mean(own) for own in group])) for group in (first, second)]
    variances = [sum(1 / len(own) for own in group) / len(group) ** 2 for group in (first, second)]
    return Difference(means[0] - means[1], noise * sum(variances) ** 0.5)


def best_of(count: int, chosen_by: np.ndarray, worth: np.ndarray) -> float:
    """Computes what the best of some networks, drawn without replacement, is worth on average.

    Args:
        count: Number of networks that are drawn.
        chosen_by: Score of each network that the best is chosen by.
        worth: What each is worth.
    """
    random = np.random.default_rng(_SEED)
    drawn = [random.choice(len(worth), count, replace=False) for _ in range(_PERCENTILE_RESAMPLES)]
    return float(np.mean([worth[i[np.argmax(chosen_by[i])]] for i in drawn]))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far a measure tells networks apart.

    Attributes:
        networks: Number of networks.
        between: Standard deviation of the networks' means.
        noise: Standard deviation of the trainings of one network.
        corrected: Spread of the networks themselves: `between` without the noise that is left in
            means of so few trainings.
    """

    networks: int
    between: float
    noise: float
    corrected: float

    @property
    def ratio(self) -> float:
        """Spread over noise as the means show it; infinite where trainings agree exactly."""
        return self.between / self.noise if self.noise else float("inf")

    @property
    def corrected_ratio(self) -> float:
        """Spread of the networks themselves over the noise of one training; as `ratio`."""
        return self.corrected / self.noise if self.noise else float("inf")


def spread(scores: Sequence[Sequence[float]]) -> Spread:
    """Compares the spread of networks with that of their trainings.

    Args:
        scores: Score of each training, for each network.

    Raises:
        UserError: There are less than 3 networks, or none was trained twice.
    """
    several = [s for s in scores if len(s) > 1]
    if len(scores) < 3 or not several:
        raise UserError(
            "the spread needs at least 3 random networks and 2 trainings of each; train more."
        )
    between = float(np.std([np.mean(s) for s in scores], ddof=1))
    noise = float(np.sqrt(np.mean([np.var(s, ddof=1) for s in several])))
    left = noise**2 * np.mean([1 / len(s) for s in scores])
    corrected = float(np.sqrt(max(0.0, between**2 - left)))
    return Spread(networks=len(scores), between=between, noise=noise, corrected=corrected)


def percentile(
    own: Sequence[float], others: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Computes the share of networks that a network beats, ties half, with its interval.

    Args:
        own: Score of each of its trainings.
        others: Score of each training, for each other network.

    Returns:
        The share, and the ends of a bootstrap's interval over the other networks and over the
        trainings of all.

    Raises:
        UserError: There are no others.
    """
    if not others:
        raise UserError("there are no random networks to compare with; give or draw some.")
    random, draws = np.random.default_rng(_SEED), _PERCENTILE_RESAMPLES
    ours, theirs = (
        [random.choice(np.array(s), (draws, len(s))).mean(1) for s in scores]
        for scores in ([own], others)
    )
    chosen = random.integers(len(others), size=(len(others), draws))
    drawn = np.stack(theirs)[chosen, np.arange(draws)]
    means = np.array([[np.mean(s)] for s in others])
    (point,) = _share(np.array([np.mean(own)]), means)
    return (float(point), *interval(_share(ours[0], drawn)))


def _share(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    return ((others < own).mean(0) + 0.5 * (others == own).mean(0)).astype(float)


def rank_agreement(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> tuple[float, float, float] | None:
    """Computes Kendall's tau of two scores of the same networks.

    Args:
        first: One score of each network.
        second: The other score of each.

    Returns:
        Tau, and the ends of a bootstrap's interval over the networks; None where all scores are the
        same, or of less than 3 networks.
    """
    from scipy.stats import kendalltau

    a, b = np.asarray(first, float), np.asarray(second, float)
    if len(a) < 3 or len(np.unique(a)) == 1 or len(np.unique(b)) == 1:
        return None
    random = np.random.default_rng(_SEED)
    drawn = random.integers(len(a), size=(RESAMPLES, len(a)))
    taus = np.array([kendalltau(a[i], b[i]).statistic for i in drawn])
    low, high = interval(taus[np.isfinite(taus)])  # a resample of one network has no order
    return float(kendalltau(a, b).statistic), low, high
