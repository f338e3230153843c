"""Task loss and expected latency against a budget: the weight adapts, the user gives milliseconds.

The objective is the loss plus weight * log(expected / budget). The weight is the method of
multipliers' with e = log(expected / budget): an integral of e, which finds the price at which the
budget is met, plus a share of e itself, which damps. It may turn negative: below the budget,
latency is to be spent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(kw_only=True)
class BudgetController:
    """The weight of the expected latency.

    Attributes:
        budget_ms: What the search aims at.
        integral: Of e, times its rate; the multiplier.
        rate: Of the integral.
        proportion: Of e itself.
        least, most: Of the integral, which also rests far from the budget unless it shrinks.
    """

    budget_ms: float
    integral: float = 0.0
    rate: float = 0.1
    proportion: float = 4.0
    least: float = -3.0
    most: float = 5.0

    def weight(self, expected_ms: float) -> float:
        """Takes an expected latency in and returns the weight of its logarithm."""
        error = math.log(expected_ms / self.budget_ms)
        limited = min(max(self.integral + self.rate * error, self.least), self.most)
        # Far from the budget the proportional part alone drives; the integral would only overshoot.
        if abs(error) < 0.3 or error * self.integral < 0:
            self.integral = limited
        return self.integral + self.proportion * error
