"""Epochs are recommended where they pay: from the expected metric as a function of steps, inside the time."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.budget import Budget
from advisor.core.objective import get_objective
from advisor.core.plan import load_plan
from advisor.core.serialization import to_dict
from advisor.costmodel.quality.probed import ProbedQuality
from advisor.search.planner import with_epochs
from advisor.search.planner.epochs import longer_plan
from tests.pipeline.test_task_probing import report
from tests.search.planner_fakes import FakeCostModel, cpu, data_profile, distilbert, plans_of

FEW = data_profile(length=32, train_rows=320)
QUALITY = ProbedQuality(report(0.9, loss=0.3))


def answer(time_s: float | None = None, *, rows=FEW, objective: str = "quality", min_quality: float | None = None):
    fake = FakeCostModel(cpu())
    found = plans_of(
        distilbert(), fake, Budget(time_s=time_s, min_quality=min_quality), data=rows, methods=("lora", "linear_probe"),
        objective=get_objective(objective),
    )  # fmt: skip
    return found, fake


def epochs_of(recommendation) -> float:
    (plan,) = [item.plan for item in recommendation.ranked if item.plan.strategy.method == "lora"]
    return plan.strategy.num_train_epochs


def test_the_expected_metric_rises_with_the_steps_as_far_as_they_were_recorded() -> None:
    found, _ = answer()
    plan = next(item.plan for item in found.ranked if item.plan.strategy.method == "lora")
    estimate = QUALITY.estimate(plan.model, plan.strategy, plan.data_profile, batch_size=32)
    values = [point.value for point in estimate.curve]
    assert [point.steps for point in estimate.curve] == [round(10 * point.epochs) for point in estimate.curve]
    assert values == sorted(values) and len(values) > 4
    own = next(point for point in estimate.curve if point.epochs == plan.strategy.num_train_epochs)
    assert own.value == pytest.approx(estimate.value) and own.interval == estimate.interval
    assert all(point.interval.contains(point.value) for point in estimate.curve)
    assert QUALITY.set_ups is not None
    assert max(point.steps for point in estimate.curve) <= 2 ** QUALITY.set_ups.ranges["steps"][1]
    probe = next(item.plan for item in found.ranked if item.plan.strategy.method == "linear_probe")
    assert not QUALITY.estimate(probe.model, probe.strategy, probe.data_profile).curve


def test_few_rows_get_more_epochs_where_the_time_pays_for_them() -> None:
    found, fake = answer(3600.0)
    longer = with_epochs(found, QUALITY, fake)
    assert epochs_of(found) == 3 and epochs_of(longer) > 8
    plan = next(item.plan for item in longer.ranked if item.plan.strategy.method == "lora")
    before = next(item.plan for item in found.ranked if item.plan.strategy.method == "lora")
    assert plan.predicted.time.total_s > 3 * before.predicted.time.total_s and plan.predicted.fits
    assert (
        plan.predicted.quality.value
        > 0.05 + QUALITY.estimate(before.model, before.strategy, before.data_profile, batch_size=32).value
    )
    assert any(line.startswith("lora: ") and "epochs" in line and "are planned instead of 3 (30)" in line
               for line in longer.advice)  # fmt: skip


def test_the_time_budget_bounds_the_epochs() -> None:
    found, fake = answer(3600.0)
    cost = next(item.plan for item in found.ranked if item.plan.strategy.method == "lora").predicted
    little = 2.5 * cost.time.intervals["total_s"].high
    short, fake = answer(little)
    planned = with_epochs(short, QUALITY, fake)
    assert 3 < epochs_of(planned) < epochs_of(with_epochs(found, QUALITY, fake))
    plan = next(item.plan for item in planned.ranked if item.plan.strategy.method == "lora")
    assert plan.predicted.time.intervals["total_s"].high <= little


def test_without_a_time_budget_the_default_stays_and_the_advice_says_what_would_pay() -> None:
    found, fake = answer()
    same = with_epochs(found, QUALITY, fake)
    assert same.ranked == found.ranked
    assert any("would pay (--time DURATION" in line for line in same.advice)


def test_epochs_that_the_user_set_stay_and_so_do_those_that_gain_nothing() -> None:
    found, fake = answer(3600.0)
    plan = next(item.plan for item in found.ranked if item.plan.strategy.method == "lora")
    assert with_epochs(found, QUALITY, fake, [plan.strategy]).ranked == found.ranked
    hopeless = ProbedQuality(report(0.5, loss=0.69))
    assert longer_plan(plan, hopeless, fake) is None
    many, fake = answer(1e6, rows=data_profile(length=32, train_rows=90_000))
    assert epochs_of(with_epochs(many, QUALITY, fake)) == 3


def test_where_cost_counts_only_plans_below_the_floor_are_lengthened() -> None:
    low, fake = answer(3600.0, objective="cheapest", min_quality=0.6)
    assert epochs_of(with_epochs(low, QUALITY, fake)) == 3
    high, fake = answer(3600.0, objective="cheapest", min_quality=0.95)
    assert epochs_of(with_epochs(high, QUALITY, fake)) > 3
    trades, fake = answer(3600.0, objective="pareto")
    assert epochs_of(with_epochs(trades, QUALITY, fake)) == 3


def test_a_curve_is_kept_in_the_plan(tmp_path) -> None:
    found, fake = answer(3600.0)
    plan = next(item.plan for item in with_epochs(found, QUALITY, fake).ranked if item.plan.strategy.method == "lora")
    plan.save(tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again.predicted.quality.curve == plan.predicted.quality.curve != ()
    bare = dataclasses.replace(plan.predicted.quality, curve=())
    assert "curve" not in to_dict(bare)
