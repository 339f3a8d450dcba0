"""The planner on the traced cost model and published configurations: the answers users would act on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advisor.core.budget import Budget
from advisor.core.plan import ExecutionPlan
from advisor.core.recommendation import Recommendation
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.strategies import get_strategy
from advisor.training.models import inspect_model
from tests.search.planner_fakes import GIB, data_profile, plans_of

DEVICES = ("rtx-4060", "t4", "rtx-4090", "a100-sxm4-80gb")
PUBLISHED = {
    "distilbert-base-uncased": "lora",
    "bert-base-uncased": "partial",
    "roberta-base": "lora",
    "deberta-v3-base": "lora",
    "llama-3.2-1b": "lora",
    "mistral-7b-v0.1": "qlora",
}
CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"


@pytest.fixture(scope="module")
def cost_models(trace_cache) -> dict[str, CostModel]:
    return {name: CostModel(load_profile(name), cache_dir=trace_cache) for name in DEVICES}


def recommend(
    cost_model: CostModel, config: str, methods: list[str], *, memory_gib: float | None = None
) -> Recommendation:
    model = inspect_model(str(CONFIGS / f"{config}.json"), "sequence-classification")
    budget = Budget(int(memory_gib * GIB) if memory_gib else None)
    return plans_of(model, cost_model, budget, data=data_profile(length=128), methods=methods)


def inside_budget(answer: Recommendation, cost_model: CostModel) -> bool:
    costs = [item.plan.predicted for item in answer.ranked]
    return all(answer.budget.check(cost, cost_model.device).ok for cost in costs)


@pytest.mark.parametrize(
    "device", [name if name == "rtx-4060" else pytest.param(name, marks=pytest.mark.slow) for name in DEVICES]
)
@pytest.mark.parametrize("config", PUBLISHED)
def test_every_published_configuration_has_a_plan_on_every_device(config: str, device: str, cost_models):
    answer = recommend(cost_models[device], config, [PUBLISHED[config]])
    assert answer.best is not None, answer.advice
    assert inside_budget(answer, cost_models[device])
    assert answer.best.predicted.time.basis == "datasheet"


def test_qlora_is_not_recommended_for_distilbert_on_80_gb(cost_models):
    cost_model = cost_models["a100-sxm4-80gb"]
    answer = recommend(cost_model, "distilbert-base-uncased", ["lora", "qlora"])
    assert answer.best.strategy.method == "lora"
    assert len(answer.ranked) == 2
    assert inside_budget(answer, cost_model)


def test_mistral_7b_takes_qlora_on_8_gb(cost_models):
    cost_model = cost_models["rtx-4060"]
    answer = recommend(cost_model, "mistral-7b-v0.1", ["lora", "qlora"])
    assert answer.best.strategy.method == "qlora"
    assert {item.method for item in answer.rejected} == {"lora"}
    assert inside_budget(answer, cost_model)


def test_full_fine_tuning_of_mistral_7b_does_not_fit_24_gb_and_the_reason_says_what_would(cost_models):
    answer = recommend(cost_models["rtx-4090"], "mistral-7b-v0.1", ["full"])
    assert answer.ranked == ()
    reason = answer.rejected[0].reason
    assert "rtx-5090" in reason
    assert "would fit it" in reason
    assert "the smallest plan needs" in answer.advice[0]


def test_a_smaller_budget_never_yields_a_plan_that_needs_more(cost_models):
    cost_model = cost_models["a100-sxm4-80gb"]
    needs = []
    for memory_gib in (0.9, 1.2, 8.0):
        answer = recommend(cost_model, "distilbert-base-uncased", ["lora"], memory_gib=memory_gib)
        assert inside_budget(answer, cost_model)
        needs.append(answer.best.predicted.memory.device_bytes if answer.best else 0)
    assert needs == sorted(needs)
    assert needs[-1] > 0


def test_the_trace_without_accumulation_bounds_the_time_with_it(cost_models):
    cost_model, data = cost_models["rtx-4060"], data_profile(length=128)
    model = inspect_model(str(CONFIGS / "distilbert-base-uncased.json"), "sequence-classification")
    strategy = get_strategy("lora").default_config(model)
    whole = ExecutionPlan(micro_batch_size=32, max_seq_length=128)
    for size in (16, 4):
        parts = replace(whole, micro_batch_size=size, gradient_accumulation_steps=32 // size)
        least_s = cost_model.least_total_s(model, strategy, parts, data, traced_as=whole)
        total_s = cost_model.estimate(model, strategy, parts, data, with_quality=False).time.total_s
        assert 0.9 * total_s < least_s <= total_s


def test_where_the_whole_batch_fits_accumulation_is_not_traced(tmp_path):
    cost_model = CostModel(load_profile("rtx-4090"), cache_dir=tmp_path)
    assert recommend(cost_model, "distilbert-base-uncased", ["head"]).best is not None
    assert len(list(tmp_path.glob("*.npz"))) == 2, "two depths of one step"
