"""``recommend`` and ``predict`` say the same about a plan: on a traced model, through the pipeline."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.budget import Budget
from advisor.core.model import ModelSpec
from advisor.core.recommendation import Recommendation
from advisor.hardware.profiles import load_profile
from advisor.pipeline.predicting import configure_plan, cost_model_for, predict_configuration
from tests.search.planner_fakes import data_profile, plans_of
from tests.tracing.tiny import tiny_spec

DEVICE = "rtx-4060"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny_spec("bert", "sequence-classification", tmp_path_factory.mktemp("model"))


def recommended(model: ModelSpec, budget: Budget) -> Recommendation:
    profile = data_profile(length=256, train_rows=320)
    return plans_of(model, cost_model_for(load_profile(DEVICE)), budget, data=profile, methods=["lora", "full"])


@pytest.mark.parametrize("share", [0.97, 0.995, 1.0, 4.0])
def test_what_is_listed_fits_and_what_does_not_fit_is_not_listed(model: ModelSpec, share: float) -> None:
    free = recommended(model, Budget())
    assert free.best is not None and free.best.predicted is not None and free.best.predicted.time is not None
    needed = free.best.predicted.memory.quantile_bytes(0.95)
    time_s = free.best.predicted.time.intervals["total_s"].high
    for budget in (Budget(memory_bytes=round(share * needed)), Budget(time_s=share * time_s)):
        answer = recommended(model, budget)
        rejected = [item.smallest_plan for item in answer.rejected if item.smallest_plan is not None]
        assert answer.ranked or rejected
        for plan in [*(item.plan for item in answer.ranked), *rejected]:
            cost, promised = predict_configuration(configure_plan(plan)), plan.predicted
            assert promised is not None
            assert cost.fits == promised.fits == (plan not in rejected)
            assert (cost.memory, cost.time) == (promised.memory, promised.time)
            assert ("rows of similar length" in " ".join(cost.notes)) == plan.execution.group_by_length
        refused = dataclasses.replace(free.best, budget=budget)
        if not predict_configuration(configure_plan(refused)).fits:
            assert share < 1
            assert all(
                (item.plan.strategy, item.plan.execution) != (refused.strategy, refused.execution)
                for item in answer.ranked
            )


def test_a_plan_is_predicted_without_its_evaluation(model: ModelSpec) -> None:
    plan = recommended(model, Budget()).best
    assert plan is not None
    large = dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, eval_batch_size=4096))
    small = dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, eval_batch_size=1))
    evaluated = predict_configuration(configure_plan(large))
    costs = [predict_configuration(configure_plan(each, evaluation=False)) for each in (large, small)]
    assert evaluated.memory.peak_phase == "evaluation"
    assert costs[0] == costs[1], "nothing of the evaluation is left"
    assert costs[0].memory.device_bytes < evaluated.memory.device_bytes


def test_a_budget_beyond_the_card_is_the_cards_capacity(model: ModelSpec) -> None:
    card = load_profile(DEVICE)
    answer = recommended(model, Budget(memory_bytes=8 * card.memory_bytes))
    assert answer.best is not None
    execution = dataclasses.replace(answer.best.execution, micro_batch_size=2048, max_seq_length=512)
    cost = predict_configuration(configure_plan(dataclasses.replace(answer.best, execution=execution)))
    assert card.memory_bytes < cost.memory.quantile_bytes(0.95) < 8 * card.memory_bytes
    assert cost.fits is False
