"""Order of the plans: expected quality first, inside the noise the cheaper one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.core.budget import Budget
from advisor.core.cost import QualityEstimate
from advisor.core.data import DataProfile
from advisor.core.model import ModelSpec
from advisor.core.objective import DEFAULT_OBJECTIVE, REACHED, Objective, pareto_front
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan
from advisor.core.strategy import StrategyConfig
from advisor.core.units import format_bytes, format_duration
from advisor.costmodel.quality.model import QualityModel
from advisor.strategies import get_strategy

QUANTIZATION_HANDICAP = 1.2
"""Four-bit weights must save this factor of time to win a tie that does not need their memory: they give up precision,
and a difference of 20 % is inside the error of predicted times."""


@dataclass(frozen=True)
class Expectation:
    """What to expect of a method, fit or not.

    Attributes:
        quality: Its estimate.
        score: Expected value on the ranking scale, higher is better.
        caution: What it is marked down by for the order: short runs of other methods say less about it than its own.
    """

    quality: QualityEstimate
    score: float
    caution: float = 0.0

    @property
    def standing(self) -> float:
        """What the order goes by."""
        return self.score - self.caution


def expectation(
    quality: QualityModel,
    model: ModelSpec,
    strategy: StrategyConfig,
    data: DataProfile,
    budget: Budget,
    batch_size: int,
) -> Expectation:
    """Expected quality of a strategy; where there is none, what is known to be worse than full fine-tuning stands back
    and the rest is a tie.
    """
    estimate = quality.estimate(model, strategy, data, min_quality=budget.min_quality, batch_size=batch_size)
    caution = quality.caution(model, strategy)
    if estimate.value is None:
        return Expectation(estimate, quality.known_gap(model, strategy, data), caution)
    scale = estimate.value if estimate.metric.is_relative else 1.0
    return Expectation(estimate, estimate.metric.score(estimate.value), caution * scale)


def noise_groups(expectations: Mapping[str, Expectation], margin: float) -> dict[str, int]:
    """Index of the group that each method falls into, 0 for the best.

    A group reaches from its best member down by the noise between seeds. Methods that do not fit take part, so that
    the groups do not depend on the budget: a smaller budget can then never bring up a plan that needs more.
    """
    groups: dict[str, int] = {}
    top, index = float("inf"), -1
    for name, item in sorted(expectations.items(), key=lambda pair: -pair[1].standing):
        width = (
            margin * abs(item.score) if item.quality.metric.is_relative and item.quality.value is not None else margin
        )
        if top - item.standing > width:
            top, index = item.standing, index + 1
        groups[name] = index
    return groups


def rank(
    plans: Mapping[str, Plan],
    expectations: Mapping[str, Expectation],
    margin: float,
    largest_ranks: Mapping[str, dict[str, int]] | None = None,
    objective: Objective = DEFAULT_OBJECTIVE,
) -> tuple[RankedPlan, ...]:
    """Plans best first, with reasons; all arguments share the keys of ``plans``, ``expectations`` may have more.

    Inside a group, methods that were tried come first, then the cheaper ones. An objective with a floor puts those
    first that are expected to reach it, the least cost at the top; one of trades those that no other plan beats.
    """
    groups = noise_groups(expectations, margin)
    front = pareto_front({name: (groups[name], *_cost(plan)) for name, plan in plans.items()})
    reached = {name: _reaches(expectations[name]) for name in plans}

    def standing(name: str) -> tuple[Any, ...]:
        by_quality = (groups[name], expectations[name].caution > 0, *_cost(plans[name]), name)
        if objective.cost is not None and reached[name]:
            return (0, objective.cost(*_figures(plans[name])), *by_quality)
        first = objective.front and name in front
        return (0 if first else 1, 0.0, *by_quality)

    names = sorted(plans, key=standing)
    if not names:
        return ()
    best = names[0]
    ties = [name for name in names[1:] if groups[name] == groups[best]]
    by_cost = objective if any(reached.values()) else DEFAULT_OBJECTIVE
    ranked = []
    for name in names:
        if by_cost.cost is not None:
            reason = _reason_by_cost(plans[name], expectations[name], plans[best], by_cost, sum(reached.values()))
        elif name == best:
            tried = [plans[other].strategy.method for other in ties if expectations[other].caution == 0]
            reason = _reason_of_best(plans[best], expectations[best], tried, margin)
            if objective.needs_floor:
                reason = f"no plan is expected to reach the floor, so the best quality counts; {reason}"
        else:
            reason = _reason_of_other(
                plans[name], expectations[name], plans[best], expectations[best], name in ties, margin
            )
        tied = bool(ties) and name in (best, *ties) and by_cost.cost is None
        ranks = dict((largest_ranks or {}).get(name, {}))
        score = expectations[name].score
        ranked.append(RankedPlan(plans[name], score, tied, reason, ranks, pareto=name in front))
    return tuple(ranked)


def _reaches(expected: Expectation) -> bool:
    """Whether the floor is reached, rather than not."""
    return expected.quality.p_at_least is not None and expected.quality.p_at_least >= REACHED


def _figures(plan: Plan) -> tuple[float, float]:
    """Predicted seconds and peak bytes; an unknown time is the worst."""
    cost = plan.predicted
    if cost is None:
        return math.inf, math.inf
    return cost.time.total_s if cost.time is not None else math.inf, float(cost.memory.device_bytes)


def _reason_by_cost(plan: Plan, expected: Expectation, best: Plan, objective: Objective, reaching: int) -> str:
    """Why a plan stands where it does, where the least cost above a floor counts."""
    chance = expected.quality.p_at_least
    quality = "of reaching the minimum nothing is known" if chance is None else f"probability {chance:.2f}"
    if not _reaches(expected):
        return f"not expected to reach the minimum ({quality})"
    cost = objective.in_words(*_figures(plan))
    if plan is best:
        which = "the only plan that is" if reaching == 1 else f"{objective.title} of {reaching} plans that are"
        return f"{which} expected to reach the minimum ({quality}): {cost}"
    return f"expected to reach the minimum ({quality}), but {_cost_difference(plan, best)}"


def _cost(plan: Plan) -> tuple[float, int]:
    cost = plan.predicted
    if cost is None:
        return (float("inf"), 0)
    handicap = QUANTIZATION_HANDICAP if get_strategy(plan.strategy.method).stores_4bit_weights else 1.0
    return (handicap * cost.time.total_s if cost.time is not None else 0.0, cost.memory.device_bytes)


def _reason_of_best(plan: Plan, expected: Expectation, ties: Sequence[str], margin: float) -> str:
    quality = expected.quality
    if quality.value is not None and quality.interval is not None:
        low, high = quality.interval.low, quality.interval.high
        text = f"expected {quality.metric.title} {quality.metric.show(quality.value)} (90 %: {low:.2f} to {high:.2f})"
    else:
        text = f"no estimate of {quality.metric.title} ({quality.reason}); ordered by published comparisons"
    if quality.p_at_least is not None:
        text += f", reaches the desired minimum with probability {quality.p_at_least:.2f}"
    if ties:
        verb = "is" if len(ties) == 1 else "are"
        text += f"; {', '.join(ties)} {verb} inside the noise between seeds ({100 * margin:.1f} points)"
        text += (
            " but cost more" if plan.predicted is not None and plan.predicted.time is not None else " and no smaller"
        )
    return text


def _reason_of_other(
    plan: Plan, expected: Expectation, best: Plan, best_expected: Expectation, tied: bool, margin: float
) -> str:
    costs, name = _cost_difference(plan, best), best.strategy.method
    difference = 100 * (expected.score - best_expected.score)
    if expected.caution > best_expected.caution:
        error = f"standard error {100 * expected.caution:.1f}"
        return f"not trained here, {difference:+.1f} points to {name} from published tables ({error}); {costs}"
    if tied:
        noise = f"({difference:+.1f} of {100 * margin:.1f} points)"
        return f"within the noise between seeds of {name} {noise}, but {costs}"
    values = expected.quality.value, best_expected.quality.value
    metric = expected.quality.metric
    if metric.is_relative and values[0] is not None and values[1] is not None:
        return f"expected {metric.title} {metric.show(values[0])} against {metric.show(values[1])}; {costs}"
    side = "below" if difference < 0 else "above"
    return f"{abs(difference):.1f} points {side} {name} in expectation; {costs}"


def _cost_difference(plan: Plan, best: Plan) -> str:
    mine, other = plan.predicted, best.predicted
    if mine is None or other is None:
        return "its cost is unknown"
    memory = f"{format_bytes(mine.memory.device_bytes)} against {format_bytes(other.memory.device_bytes)}"
    if mine.time is None or other.time is None:
        return f"takes {memory}"
    ratio = mine.time.total_s / other.time.total_s
    return f"takes {ratio:.2f} times as long ({format_duration(mine.time.total_s)}) and {memory}"
