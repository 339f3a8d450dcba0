"""Epochs where they pay: plans are trained longer where more steps are expected to help and the time allows them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from advisor.core.cost import QualityEstimate, QualityPoint
from advisor.core.objective import REACHED, Objective, get_objective
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.costmodel.quality.model import QualityModel


@dataclass(frozen=True)
class LongerPlan:
    """A plan with more epochs, and what they are expected to bring."""

    plan: Plan
    before: QualityPoint
    after: QualityPoint

    def in_words(self, verb: str) -> str:
        """``"lora: 12 epochs (192 steps) are planned instead of 3 (48): expected accuracy 0.902 instead of 0.787"``."""
        quality = self.plan.predicted.quality if self.plan.predicted is not None else None
        show = quality.metric.show if quality is not None else str
        title = quality.metric.title if quality is not None else "quality"
        return (
            f"{self.plan.strategy.method}: {self.after.epochs:g} epochs ({self.after.steps:,} steps) {verb} instead of "
            f"{self.before.epochs:g} ({self.before.steps:,}): expected {title} {show(self.after.value)} instead of "
            f"{show(self.before.value)}"
        )


def with_epochs(
    recommendation: Recommendation,
    quality: QualityModel,
    cost_model: CostModel,
    fixed: Collection[StrategyConfig] = (),
) -> Recommendation:
    """The same plans with the epochs that pay; nothing is solved again, and the order is as before.

    A plan is lengthened where its time is limited and more steps are expected to gain more than seeds differ by: to the
    fewest epochs that come within half of that of the best that the time allows. Without a time limit the defaults
    stay, and the advice says what more epochs would bring. Where cost counts above a floor, only plans that do not
    reach it are lengthened; where trades are asked for, none is.

    Args:
        recommendation: Ranked without knowledge of the task.
        quality: What knows the task.
        cost_model: Predicts for the device of the plans.
        fixed: Strategies whose epochs the user has set.
    """
    limited, objective = recommendation.budget.time_s is not None, get_objective(recommendation.objective)
    verb = "are planned" if limited else "would pay (--time DURATION lets plans take them)"
    advice: list[str] = []
    ranked: list[RankedPlan] = []
    for item in recommendation.ranked:
        kept = item.plan.strategy in fixed or objective.front or _is_enough(item.plan, quality, objective)
        told = bool(advice) and not limited  # one hint is enough
        longer = None if kept or told else longer_plan(item.plan, quality, cost_model)
        if longer is not None:
            advice.append(longer.in_words(verb))
        ranked.append(replace(item, plan=longer.plan) if longer is not None and limited else item)
    return replace(recommendation, ranked=tuple(ranked), advice=(*recommendation.advice, *advice))


def _is_enough(plan: Plan, quality: QualityModel, objective: Objective) -> bool:
    """Whether a plan reaches the floor of an objective that has one: what it costs counts then, not how good it is."""
    chance = _quality_of(plan, quality).p_at_least
    return objective.needs_floor and chance is not None and chance >= REACHED


def longer_plan(plan: Plan, quality: QualityModel, cost_model: CostModel) -> LongerPlan | None:
    """The plan with the epochs that pay inside its budget; ``None`` where its own do."""
    own = plan.strategy.num_train_epochs
    estimate = _quality_of(plan, quality)
    before = next((point for point in estimate.curve if point.epochs == own), None)
    if before is None or (quality.probe is not None and quality.probe.near_chance):
        return None  # where the probe finds nothing, more steps are not known to find it
    score, margin = estimate.metric.score, quality.seed_margin
    if score(estimate.curve[-1].value) - score(before.value) < margin:
        return None
    affordable: list[tuple[QualityPoint, Plan]] = []
    for point in (point for point in estimate.curve if point.epochs > own):
        longer = _costed(plan, point.epochs, cost_model)
        if longer is None:
            break
        affordable.append((point, longer))
    best = max((score(point.value) for point, _ in affordable), default=-math.inf)
    if best - score(before.value) < margin:
        return None
    after, chosen = next(pair for pair in affordable if score(pair[0].value) >= best - margin / 2)
    if chosen.predicted is not None:
        chosen = replace(chosen, predicted=replace(chosen.predicted, quality=_quality_of(chosen, quality)))
    return LongerPlan(chosen, before, after)


def _quality_of(plan: Plan, quality: QualityModel) -> QualityEstimate:
    return quality.estimate(
        plan.model,
        plan.strategy,
        plan.data_profile,
        min_quality=plan.budget.min_quality,
        batch_size=plan.execution.effective_batch_size,
    )


def _costed(plan: Plan, epochs: float, cost_model: CostModel) -> Plan | None:
    """The plan with other epochs and their cost; ``None`` beyond the budget."""
    strategy = plan.strategy.replaced(num_train_epochs=epochs)
    cost = cost_model.estimate(plan.model, strategy, plan.execution, plan.data_profile, plan.budget, with_quality=False)
    if not cost.fits:
        return None
    notes = plan.predicted.notes if plan.predicted is not None else cost.notes
    return replace(plan, strategy=strategy, predicted=replace(cost, notes=notes))
