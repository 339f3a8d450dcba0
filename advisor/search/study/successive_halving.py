"""Successive halving: how many training rows each rung has, who climbs, and when more trials are not worth it.

Every run on a rung is a whole training with its own warm-up and decay of the learning rate down to zero, so that rungs
do not favour the rates that are best without decay. This is the only halving: Optuna's pruners are not used.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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

MIN_STEPS = 60
"""Optimizer steps of the shortest run that may rank anything. MiniLM was at chance after 12 steps and had left it after
60 on the movie sentences; where a task needs more, its chance level shows it, and the first rung is passed over."""

SAME_RUNG = 1.35
"""Row counts within this factor are one rung: a resumed study keeps the rows that it has evaluations on."""


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
    full_rows: int, floor_rows: int, cost: RunCost | None, time_s: float, *, openings: int, race: int
) -> tuple[int, ...]:
    """Training rows of each rung.

    Three rungs of 10, 30 and 100 % where a pass of all openings over them takes a small share of the time; else the
    lower two, scaled to what a pass of the learning-rate race can take; else one rung. No rung is shorter than
    ``floor_rows``, however little time there is: fewer trials that say something beat many at chance.

    Args:
        full_rows: Rows of the largest fidelity.
        floor_rows: Rows of the shortest run that may rank anything (``floor_of``).
        cost: Of the recommended method; ``None`` when no time can be predicted.
        time_s: What the trials may take.
        openings: How many trials are tried before any sample.
        race: How many of them are the recommended method at different learning rates.
    """
    floor = min(full_rows, floor_rows)
    if cost is None:
        return _rungs(full_rows, [floor, 3 * floor, full_rows], floor)
    if _scale(FRACTIONS, full_rows, [cost] * openings, FULL_PASS_SHARE * time_s) >= 1:
        return _rungs(full_rows, [fraction * full_rows for fraction in FRACTIONS], floor)
    lower = FRACTIONS[:2]
    scale = _scale(lower, full_rows, [cost] * race, SHORT_PASS_SHARE * time_s)
    if scale * lower[0] * full_rows >= floor:
        return _rungs(full_rows, [scale * fraction * full_rows for fraction in lower], floor)
    only = _scale((1.0,), full_rows, [cost] * race, SHORT_PASS_SHARE * time_s)
    return (min(full_rows, max(floor, int(only * full_rows))),)


def floor_of(effective_batch_size: int, epochs: float) -> int:
    """Rows of a run of ``MIN_STEPS`` optimizer steps."""
    return math.ceil(MIN_STEPS * effective_batch_size / epochs)


def with_known_rungs(ladder: tuple[int, ...], known_rows: Collection[int], full_rows: int) -> tuple[int, ...]:
    """The ladder with rungs moved to rows that there are evaluations on, where these are about the same."""
    moved = []
    for rows in ladder:
        near = [known for known in known_rows if 1 / SAME_RUNG <= known / rows <= SAME_RUNG]
        moved.append(rows if rows == full_rows or not near else min(near, key=lambda known: abs(known - rows)))
    return tuple(sorted(set(moved)))


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
    """Rising, none below the floor, and none so close below the next one that it would say the same."""
    rows: list[int] = []
    for value in sorted({min(full_rows, max(floor, round(value))) for value in wanted}, reverse=True):
        if not rows or value <= rows[-1] / 2:
            rows.append(value)
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
