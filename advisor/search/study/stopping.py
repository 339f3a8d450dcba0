"""When more trials are not worth their time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advisor.search.study.noise import relative_loss_sd

MIN_SAMPLES = 10
"""Sampled trials before a gain is estimated; TPE itself samples at random until it has as many trials."""

_GRID = 400
_TAIL_SD = 8.0


def expected_gain(best: float, sampled: Sequence[float], affordable_trials: int) -> float:
    """How much the best of ``affordable_trials`` further trials is expected to improve on ``best`` (lower is better).

    The scores of further trials are taken as normal with the mean and spread of the sampled ones. With ``n`` of them,
    ``E[max(0, best - min)] = integral over t < best of P(min < t)``, where ``P(min < t) = 1 - (1 - F(t)) ** n``.
    """
    if affordable_trials < 1 or len(sampled) < 2:
        return 0.0
    mean = sum(sampled) / len(sampled)
    sd = math.sqrt(sum((score - mean) ** 2 for score in sampled) / (len(sampled) - 1))
    if sd == 0:
        return max(0.0, best - mean)
    low = min(best, mean) - _TAIL_SD * sd
    width = (best - low) / _GRID
    total = 0.0
    for index in range(_GRID):
        below = 0.5 * math.erfc((mean - (low + (index + 0.5) * width)) / (sd * math.sqrt(2)))
        total += 1 - (1 - below) ** affordable_trials
    return total * width


def worth_going_on(best: float, sampled: Sequence[float], affordable_trials: int) -> bool:
    """Whether the rest of the budget can be expected to find something that seeds alone would not explain."""
    if len(sampled) < MIN_SAMPLES:
        return True
    return expected_gain(best, sampled, affordable_trials) >= relative_loss_sd() * abs(best)
