"""The fidelity ladder: how many training rows each rung has, and who climbs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advisor.search.study.noise import overlap_reach

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
