"""What counts as the best: quality, or the least cost above a floor, or every trade that nothing beats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.budget import Budget
from advisor.core.errors import InputError
from advisor.core.metrics import ACCURACY, get_metric
from advisor.core.objective import OBJECTIVES, check_floor, get_objective, pareto_front
from advisor.core.run import Measurement
from advisor.costmodel.quality.model import QualityModel
from advisor.search.planner.request import PlanRequest
from tests.search.planner_fakes import DATA, FakeCostModel, cuda, data_profile, distilbert, plans_of
from tests.search.study_fakes import FakeRunner, memory_bytes, strategies, tune


class KnownQuality(QualityModel):
    """Accuracy by method, and the probability of a floor as if nothing else were known."""

    levels: ClassVar = {"full": 0.92, "lora": 0.90, "ia3": 0.84, "partial": 0.86, "head": 0.70}

    def estimate(self, model, strategy, data, *, min_quality=None, batch_size=16):
        found = self.published(model, strategy, data, min_quality=min_quality)
        value = self.levels[strategy.method]
        chance = None if min_quality is None else float(value >= min_quality)
        return dataclasses.replace(found, value=value, interval=None, p_at_least=chance)


def recommended(objective: str, min_quality: float | None = None):
    fake = FakeCostModel(cuda(80), quality=KnownQuality())
    methods = list(KnownQuality.levels)
    asked = {"methods": methods, "objective": get_objective(objective)}
    return plans_of(distilbert(), fake, Budget(min_quality=min_quality), **asked)


def names(answer) -> list[str]:
    return [item.plan.strategy.method for item in answer.ranked]


def test_above_a_floor_the_least_cost_comes_first() -> None:
    best = recommended("quality")
    assert names(best)[0] == "full" and best.objective == "quality"
    fastest = recommended("fastest", 0.85)
    times = {item.plan.strategy.method: item.plan.predicted.time.total_s for item in fastest.ranked}
    assert names(fastest)[:3] == sorted(["full", "lora", "partial"], key=times.__getitem__)
    assert "the fastest of 3 plans that are expected to reach the minimum" in fastest.ranked[0].reason
    assert "not expected to reach the minimum" in fastest.ranked[3].reason
    cheapest = recommended("cheapest", 0.75)
    cost = {
        item.plan.strategy.method: item.plan.predicted.time.total_s * item.plan.predicted.memory.device_bytes
        for item in cheapest.ranked
    }
    assert names(cheapest)[0] == min(("full", "lora", "ia3", "partial"), key=cost.__getitem__)
    assert names(cheapest)[-1] == "head"


def test_a_floor_that_nothing_reaches_leaves_the_order_of_quality() -> None:
    answer = recommended("cheapest", 0.99)
    assert names(answer) == names(recommended("quality"))
    assert "no plan is expected to reach the floor" in answer.ranked[0].reason


def test_the_pareto_set_comes_first_and_is_marked() -> None:
    answer = recommended("pareto")
    marks = [item.pareto for item in answer.ranked]
    assert marks == sorted(marks, reverse=True) and marks[0] and not all(marks)
    assert {item.plan.strategy.method for item in answer.ranked if item.pareto} >= {"full", "head"}


@given(st.dictionaries(st.integers(), st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_nothing_beats_a_member_of_the_front_and_something_beats_every_other(costs) -> None:
    front = pareto_front(costs)
    assert front

    def beats(a, b) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    for name, cost in costs.items():
        assert (name in front) == (not any(beats(other, cost) for other in costs.values()))


@pytest.mark.parametrize("name", ["cheapest", "fastest"])
def test_a_cost_without_a_floor_is_refused_with_what_to_add(name: str) -> None:
    with pytest.raises(InputError, match="needs a floor") as refused:
        OBJECTIVES[name].check(Budget())
    assert "--min-quality" in str(refused.value.fix)
    OBJECTIVES[name].check(Budget(min_quality=0.8))
    OBJECTIVES["pareto"].check(Budget())


def test_a_floor_is_on_the_scale_of_the_metric() -> None:
    check_floor(None, ACCURACY)
    check_floor(0.8, ACCURACY)
    check_floor(20.0, get_metric("perplexity"))
    for value in (80.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="--min-quality"):
            check_floor(value, ACCURACY)


# --- studies ----------------------------------------------------------------------------------------------------------


def test_a_study_answers_with_the_fastest_trial_above_the_floor(tmp_path: Path) -> None:
    floor = 0.765
    result = tune(
        tmp_path / "fast", FakeRunner(), max_trials=12,
        budget=Budget(min_quality=floor), objective=get_objective("fastest"),
    )  # fmt: skip
    reached = [t for t in result.trials if t.top and t.top.metric and t.top.metric >= floor]
    assert result.best_trial is not None and len(reached) > 1
    assert result.best_trial == min(reached, key=lambda t: (t.top.projected_total_s, t.number)).number  # type: ignore[union-attr]
    assert "the fastest of" in result.best_reason and result.objective == "fastest"
    assert result.best.strategy == result.trials[result.best_trial].strategy
    high = tune(
        tmp_path / "high", FakeRunner(), max_trials=6,
        budget=Budget(min_quality=0.99), objective=get_objective("cheapest"),
    )  # fmt: skip
    assert "no trial reached accuracy 0.990" in high.best_reason and high.best_trial is not None


def test_another_objective_goes_on_with_the_same_trials_and_other_limits_are_refused_in_words(tmp_path: Path) -> None:
    few = {name: strategies()[name] for name in ("lora", "head")}
    limit = memory_bytes(few["lora"].config) * 2
    options = {"strategies": few, "on_disk": True, "max_trials": 4}
    first = tune(tmp_path, FakeRunner(), budget=Budget(memory_bytes=limit), **options)
    runner = FakeRunner()
    again = tune(
        tmp_path, runner, resume=True, objective=get_objective("cheapest"),
        budget=Budget(memory_bytes=limit, min_quality=0.6), **options,
    )  # fmt: skip
    assert [t.number for t in again.trials] == [t.number for t in first.trials]
    assert "the cheapest of" in again.best_reason
    with pytest.raises(InputError, match="about the same thing") as refused:
        tune(tmp_path, runner, resume=True, budget=Budget(memory_bytes=limit, max_latency_s=0.02), **options)
    (problem,) = refused.value.problems
    assert problem.startswith("limits: was --memory") and "--max-latency 20 ms" in problem


def test_an_energy_budget_ends_the_study_before_it_is_exceeded(tmp_path: Path) -> None:
    class Metered(FakeRunner):
        def __call__(self, *given, **named) -> Measurement:
            found = super().__call__(*given, **named)
            return dataclasses.replace(found, energy_j=50 * found.total_s)

    runner = Metered()
    result = tune(tmp_path, runner, energy_budget_j=40_000, time_budget_s=10_000)
    used = sum(run.measurement.energy_j or 0 for trial in result.trials for run in trial.evaluations)
    used += (result.final.measurement.energy_j or 0) if result.final is not None else 0
    assert "the energy budget of 11.1 Wh" in result.stopped_because
    assert 20_000 < used <= 40_000


def test_a_request_keeps_its_objective() -> None:
    assert PlanRequest(distilbert(), DATA, data_profile()).objective is OBJECTIVES["quality"]
