"""Successive halving: how many training rows each rung has, who climbs, and when more trials are not worth it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advisor.core.stats import NORMAL_95


def metric_sd() -> float:
    """Standard deviation of a held-out accuracy between seeds (collected from published re-runs)."""
    from advisor.costmodel.quality.model import default_prior

    return default_prior().seed_sd


def relative_loss_sd() -> float:
    """Standard deviation of a held-out loss between seeds, as a share of the loss."""
    from advisor.costmodel.quality.curves import LOSS_NOISE

    return LOSS_NOISE


def overlap_reach(loss: float) -> float:
    """Up to which loss another trial's interval overlaps: a difference has sqrt(2) times the noise of one run."""
    return loss + NORMAL_95 * math.sqrt(2) * relative_loss_sd() * abs(loss)


FRACTIONS = (0.1, 0.3, 1.0)
"""Shares of the training rows. On a replay of public learning curves, keeping the top three by loss at 10 % cost 23 %
of the sweep for 0.36 points of regret."""

KEEP = 3
"""How many climb from the first rung (see ``FRACTIONS``); half as many, rounded up, from every further one."""

FULL_PASS_SHARE = 0.2
"""Share of the time that a pass of all defaults over all three rungs may take; above it, too few sampled trials follow.
On a synthetic surface (10 seeds) random search won at a share of 0.44, drew at 0.23 and lost at 0.12."""

SHORT_PASS_SHARE = 0.65
"""The same for the lower two rungs, scaled down: with so little time the defaults are most of what can be tried."""

MIN_STEPS_PER_EPOCH = 4
"""Below this many optimizer steps an epoch, warm-up and learning-rate decay leave nothing to learn from."""


@dataclass(frozen=True)
class RunCost:
    """Predicted or measured wall clock of one run as ``fixed_s + per_row_s * train_rows``."""

    fixed_s: float
    per_row_s: float

    def seconds(self, train_rows: int) -> float:
        return self.fixed_s + self.per_row_s * train_rows


def keep_count(rung: int) -> int:
    """How many trials climb from ``rung`` (0 is the lowest), before overlaps."""
    return max(1, math.ceil(KEEP / 2**rung))


def choose_ladder(
    full_rows: int,
    effective_batch_size: int,
    costs: Sequence[RunCost],
    time_s: float,
    *,
    minimum_rows: int | None = None,
) -> tuple[int, ...]:
    """Training rows of each rung.

    Three rungs of 10, 30 and 100 % where a pass of all defaults over them takes a small share of the time; else the
    lower two, scaled down to fit, because a first rung too short to rank on wastes all others; else one rung.

    Args:
        full_rows: Rows of the largest fidelity.
        effective_batch_size: Rows per optimizer step.
        costs: One per default configuration that will be tried; empty when no time can be predicted.
        time_s: What the study may take.
        minimum_rows: Floor of a rung; by default ``MIN_STEPS_PER_EPOCH`` batches.
    """
    floor = min(full_rows, minimum_rows or MIN_STEPS_PER_EPOCH * effective_batch_size)
    if not costs:
        return _rungs(full_rows, [floor * fraction / FRACTIONS[0] for fraction in FRACTIONS], floor)
    if _scale(FRACTIONS, full_rows, costs, FULL_PASS_SHARE * time_s) >= 1:
        return _rungs(full_rows, [fraction * full_rows for fraction in FRACTIONS], floor)
    lower = FRACTIONS[:2]
    scale = _scale(lower, full_rows, costs, SHORT_PASS_SHARE * time_s)
    if scale * lower[0] * full_rows >= floor:
        return _rungs(full_rows, [scale * fraction * full_rows for fraction in lower], floor)
    only = _scale((1.0,), full_rows, costs, SHORT_PASS_SHARE * time_s)
    return (max(floor, int(only * full_rows)),)


def _scale(fractions: Sequence[float], full_rows: int, costs: Sequence[RunCost], available_s: float) -> float:
    """By what factor, up to 1, rungs can be multiplied so that a pass over them takes ``available_s``; 0 if none."""
    runs = [len(costs)] + [min(len(costs), keep_count(rung)) for rung in range(len(fractions) - 1)]
    fixed_s = sum(cost.fixed_s for cost in costs) / len(costs) * sum(runs)
    trained = sum(count * fraction for count, fraction in zip(runs, fractions, strict=True))
    moving_s = sum(cost.per_row_s for cost in costs) / len(costs) * full_rows * trained
    left_s = available_s - fixed_s
    if left_s <= 0:
        return 0.0
    return min(1.0, left_s / moving_s) if moving_s > 0 else 1.0


def _rungs(full_rows: int, wanted: Sequence[float], floor: int) -> tuple[int, ...]:
    rows = {min(full_rows, max(floor, round(value))) for value in wanted}
    return tuple(sorted(rows))


def climbers(scores: Mapping[int, float], rung: int) -> set[int]:
    """Which trials climb: the best ``keep_count`` plus whatever overlaps the interval of the last of them.

    Overlaps are limited to as many again, so that a field of equals cannot eat the budget.

    Args:
        scores: Held-out negative log-likelihood by trial number, of all trials that were ever evaluated on the rung.
        rung: 0 is the lowest.
    """
    ordered = sorted(scores, key=lambda number: (scores[number], number))
    count = keep_count(rung)
    if len(ordered) <= count:
        return set(ordered)
    reach = overlap_reach(scores[ordered[count - 1]])
    return set(ordered[:count]) | {number for number in ordered[count : 2 * count] if scores[number] <= reach}


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
