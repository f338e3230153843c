"""A search's settings: how long its phases are, which prunings are on, and when each acts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError

WARMUP, PATHS, TIERS, DONE = "warm-up", "paths", "tiers", "done"
# Of LoopSettings; paths among them, since what scores networks learns from them.
_POSITIVE = ("paths", "batch", "warmup_batch", "draws_batch", "score_images", "checkpoint_interval")


def _share(progress: float, begin: float, end: float) -> float:
    """Share of the way from `begin` to `end`, 0 before and 1 after it."""
    return float(np.clip((progress - begin) / (end - begin), 0.0, 1.0))


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
        rate, skip_rate: Change of a candidate's and of a skip's preference, in log-odds, for a unit
            of its score function's gradient.
    """

    widths: bool = True
    candidates: bool = True
    layers: bool = True
    candidates_begin: float = 0.1
    candidates_end: float = 0.85
    candidates_threshold: float = 0.5
    skip_enters: float = 0.15
    skip_start: float = 0.25
    skip_first: float = 0.8
    skip_last: float = 0.5
    skip_end: float = 0.85
    rate: float = 0.6
    skip_rate: float = 1.5

    def __post_init__(self) -> None:
        if not self.candidates_begin < self.candidates_end:
            raise InputError("tiers.candidates_begin must be below tiers.candidates_end.")
        if not self.skip_enters < self.skip_end:
            raise InputError("tiers.skip_enters must be below tiers.skip_end.")
        if not 0 < self.skip_start < 1:
            raise InputError(f"tiers.skip_start must be between 0 and 1, got {self.skip_start}.")

    def candidate_threshold(self, progress: float) -> float:
        """Probability below which a candidate leaves."""
        share = _share(progress, self.candidates_begin, self.candidates_end)
        return self.candidates_threshold * share

    def skip_threshold(self, progress: float) -> float:
        """Probability of its skip above which a layer leaves."""
        share = _share(progress, self.skip_enters, self.skip_end)
        return self.skip_first + (self.skip_last - self.skip_first) * share


@dataclass(frozen=True, kw_only=True)
class WidthRule:
    """How Prunodes move, see `Prunodes`.

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
        return self.start * (self.end / self.start) ** _share(progress, self.hold, self.close)


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long the phases are, and how large their batches.

    Attributes:
        warmup: Steps of the warm-up at most.
        warmup_loss: Share of a guess's loss, log(classes) or an untrained detector's, that the
            running loss must fall below for the warm-up to end; 0 makes all of its steps.
        warmup_batch: Images in a step of the warm-up.
        warmup_expansions: Inner widths of its mixtures, in times a layer's input. Narrow blocks
            learn sooner and cost less; paths widen them afterwards.
        temperature: Temperature of the mixtures' Gumbel softmax.
        weights: What trains the weights after the warm-up: `paths`, or `mixture` to compare with.
        paths: Steps of weights alone after the warm-up, at least one.
        tiers: Steps of weights and architectures.
        batch: Images of a path of the weights.
        draws: Networks that each architecture draws in a step.
        draws_batch: Images that they are scored on.
        margin: Factor by which the paths' latencies go beyond the least and the greatest budget.
        ramp: Steps in which the learning rate rises at the start.
        last_lr: Share of the learning rate at the end of the tiers, to which it falls as a cosine
            from the end of the warm-up on.
        ema_momentum: Momentum of the averaged weights, which draws are scored with.
        score_images: Images that evolution scores a network on, at most.
        checkpoint_interval: Steps between checkpoints.
    """

    warmup: int = 400
    warmup_loss: float = 0.85
    warmup_batch: int = 64
    warmup_expansions: tuple[float, float] = (1.0, 2.0)
    temperature: float = 2.0
    weights: str = PATHS
    paths: int = 300
    tiers: int = 100
    batch: int = 32
    draws: int = 8
    draws_batch: int = 96
    margin: float = 1.25
    ramp: int = 30
    last_lr: float = 0.05
    ema_momentum: float = 0.02
    score_images: int = 512
    checkpoint_interval: int = 100

    def __post_init__(self) -> None:
        for name in ("warmup", "tiers"):
            if getattr(self, name) < 0:
                raise InputError(f"search.{name} must be 0 or more, got {getattr(self, name)}.")
        for name in _POSITIVE:
            positive_int(getattr(self, name), f"search.{name}")
        if min(self.temperature, self.margin - 1.0) <= 0.0 or not 0 < self.ema_momentum <= 1:
            raise InputError(
                "search.temperature must be above 0, search.margin above 1, and "
                "search.ema_momentum above 0 and at most 1."
            )
        if self.weights not in (PATHS, "mixture"):
            raise InputError(f"search.weights must be paths or mixture, got {self.weights!r}.")
        if self.draws < 2:
            raise InputError(f"search.draws must be 2 or more, got {self.draws}.")


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """How long evolution goes on.

    Attributes:
        evaluations: Networks that it scores on the supernet for each budget.
    """

    evaluations: int = 150

    def __post_init__(self) -> None:
        positive_int(self.evaluations, "evolution's number of evaluations")
