"""Order of the plans: expected quality first, inside the noise the cheaper one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from advisor.core.cost import QualityEstimate
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan
from advisor.core.units import format_bytes, format_duration
from advisor.costmodel.quality import QualityModel


@dataclass(frozen=True)
class Expectation:
    """What to expect of a method, fit or not: its estimate and its place on the ranking scale (higher is better)."""

    quality: QualityEstimate
    score: float


def expectation(quality: QualityModel, plan: Plan) -> Expectation:
    """Expected quality of a plan; where the estimate abstains, its gap to full fine-tuning ranks it."""
    estimate = quality.estimate(plan.model, plan.strategy, plan.data_profile, min_quality=plan.budget.min_quality)
    gap = quality.expected_gap(plan.model, plan.strategy)
    if estimate.value is None:
        return Expectation(estimate, gap)
    return Expectation(estimate, estimate.value if estimate.metric == "accuracy" else -estimate.value)


def noise_groups(expectations: Mapping[str, Expectation], margin: float) -> dict[str, int]:
    """Index of the group that each method falls into, 0 for the best.

    A group reaches from its best member down by the noise between seeds. Methods that do not fit take part, so that
    the groups do not depend on the budget: a smaller budget can then never bring up a plan that needs more.
    """
    groups: dict[str, int] = {}
    top, index = float("inf"), -1
    for name, item in sorted(expectations.items(), key=lambda pair: -pair[1].score):
        width = (
            margin * abs(item.score)
            if item.quality.metric == "perplexity" and item.quality.value is not None
            else margin
        )
        if top - item.score > width:
            top, index = item.score, index + 1
        groups[name] = index
    return groups


def rank(plans: Mapping[str, Plan], expectations: Mapping[str, Expectation], margin: float) -> tuple[RankedPlan, ...]:
    """Plans best first, with reasons; ``plans`` and ``expectations`` share their keys, the latter may have more."""
    groups = noise_groups(expectations, margin)
    names = sorted(plans, key=lambda name: (groups[name], *_cost(plans[name]), -expectations[name].score, name))
    if not names:
        return ()
    best = names[0]
    ranked = []
    for name in names:
        tied = groups[name] == groups[best] and len(names) > 1
        partners = [other for other in names if other != name and groups[other] == groups[best]]
        reason = (
            _reason_of_best(
                plans[best], expectations[best], [plans[other].strategy.method for other in partners], margin
            )
            if name == best
            else _reason_of_other(plans[name], expectations[name], plans[best], expectations[best], tied, margin)
        )
        ranked.append(
            RankedPlan(_with_quality(plans[name], expectations[name].quality), expectations[name].score, tied, reason)
        )
    if len([item for item in ranked if item.tied]) == 1:
        ranked[0] = replace(ranked[0], tied=False)
    return tuple(ranked)


def _cost(plan: Plan) -> tuple[float, int]:
    cost = plan.predicted
    if cost is None:
        return (float("inf"), 0)
    return (cost.time.total_s if cost.time is not None else 0.0, cost.memory.device_bytes)


def _with_quality(plan: Plan, quality: QualityEstimate) -> Plan:
    return replace(plan, predicted=replace(plan.predicted, quality=quality)) if plan.predicted is not None else plan


def _reason_of_best(plan: Plan, expected: Expectation, ties: Sequence[str], margin: float) -> str:
    quality = expected.quality
    if quality.value is not None and quality.interval is not None:
        low, high = quality.interval.low, quality.interval.high
        text = f"expected {quality.metric} {quality.value:.3f} (90 %: {low:.2f} to {high:.2f})"
    else:
        text = f"no {quality.metric} is promised ({quality.reason}); ordered by published comparisons"
    if quality.p_at_least is not None:
        text += f", reaches the wanted minimum with probability {quality.p_at_least:.2f}"
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
    difference = 100 * (expected.score - best_expected.score)
    costs = _cost_difference(plan, best)
    if tied:
        noise = f"({difference:+.1f} of {100 * margin:.1f} points)"
        return f"within the noise between seeds of {best.strategy.method} {noise}, but {costs}"
    if (
        expected.quality.metric == "perplexity"
        and expected.quality.value is not None
        and best_expected.quality.value is not None
    ):
        return f"expected perplexity {expected.quality.value:.2f} against {best_expected.quality.value:.2f}; {costs}"
    side = "below" if difference < 0 else "above"
    return f"{abs(difference):.1f} points {side} {best.strategy.method} in expectation; {costs}"


def _cost_difference(plan: Plan, best: Plan) -> str:
    mine, other = plan.predicted, best.predicted
    if mine is None or other is None:
        return "its cost is unknown"
    memory = f"{format_bytes(mine.memory.device_bytes)} against {format_bytes(other.memory.device_bytes)}"
    if mine.time is None or other.time is None:
        return f"takes {memory}"
    ratio = mine.time.total_s / other.time.total_s
    pace = (
        f"{ratio:.1f} times as long"
        if ratio >= 1.05
        else f"{1 / ratio:.1f} times as fast"
        if ratio <= 0.95
        else "as long"
    )
    return f"takes {pace} ({format_duration(mine.time.total_s)}) and {memory}"
