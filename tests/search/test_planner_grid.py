"""What a recommendation stands for: the grid it decides, and the ranks there is room for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advisor.core.budget import Budget
from advisor.search.planner import PlanRequest
from advisor.search.planner.candidates import rank_grid, target_variants
from advisor.search.planner.evaluator import Evaluator, SetupGroup
from advisor.search.planner.precision import PrecisionPolicy, precision_policies
from advisor.search.planner.solver import largest_rank
from advisor.strategies import get_strategy
from advisor.training.models import inspect_model
from tests.search.planner_fakes import DATA, FakeCostModel, cuda, data_profile, plans_of, with_device_bytes

MISTRAL = str(Path(__file__).resolve().parents[1] / "fixtures" / "configs" / "mistral-7b-v0.1.json")


class RankedCostModel(FakeCostModel):
    """Every rank takes 16 MiB."""

    def _memory(self, model, strategy, execution):
        found = super()._memory(model, strategy, execution)
        return with_device_bytes(found, found.device_bytes + (strategy.rank or 0) * 2**24)


def evaluator(model, cost_model, budget) -> Evaluator:
    return Evaluator(PlanRequest(model, DATA, data_profile(), budget), cost_model)


@pytest.fixture(scope="module")
def model():
    return inspect_model(MISTRAL, "causal-lm")


def test_a_7b_model_means_thousands_of_set_ups(model) -> None:
    answer = plans_of(model, FakeCostModel(cuda(24)))
    assert answer.considered >= 2000
    assert 0 < answer.evaluated < answer.considered / 5


def test_the_largest_rank_fits_and_the_next_does_not(model) -> None:
    strategy = get_strategy("lora").default_config(model)
    cost_model = RankedCostModel(cuda(24))
    free = evaluator(model, cost_model, Budget())
    family = SetupGroup(PrecisionPolicy("bfloat16", "bf16"), "sdpa", True)
    grid = rank_grid(strategy, model)
    needs = [free.evaluate(strategy.replaced(rank=rank), family, 1).memory_bytes for rank in grid]
    assert needs == sorted(needs) and needs[-1] > needs[-2]
    tight = evaluator(model, cost_model, Budget(memory_bytes=needs[-2]))
    best = tight.evaluate(strategy, family, 1)
    assert largest_rank(strategy, best, tight) == grid[-2]


def test_the_other_target_sets_are_variants(model) -> None:
    strategy = get_strategy("lora").default_config(model)
    sets = {
        strategy.knob("target_modules"),
        *(variant.knob("target_modules") for variant in target_variants(strategy, model)),
    }
    assert sets == {"attention", "all-linear"}
    assert target_variants(get_strategy("full").default_config(model), model) == ()
    assert target_variants(strategy.replaced(target_modules=("q_proj",)), model) == ()


def test_language_models_may_chunk_their_loss(model) -> None:
    strategy = get_strategy("lora").default_config(model)
    assert [rung.loss for rung in precision_policies(cuda(24), model, strategy)] == ["standard", "fused-linear"]
    classifier = replace(model, task="sequence-classification")
    assert {rung.loss for rung in precision_policies(cuda(24), classifier, strategy)} == {"standard"}


def test_a_chunked_loss_is_not_tried_where_all_logits_together_would_not_help(model) -> None:
    strategy = get_strategy("lora").default_config(model)
    rung = PrecisionPolicy("bfloat16", "bf16")
    far = evaluator(model, FakeCostModel(cuda(24)), Budget(memory_bytes=2**30))
    far.evaluate(strategy, SetupGroup(rung, "sdpa", True), 1)
    assert not far.chunked_loss_can_help(strategy, rung)
    near = evaluator(model, FakeCostModel(cuda(24)), Budget())
    point = near.evaluate(strategy, SetupGroup(rung, "sdpa", True), 1)
    close = evaluator(model, FakeCostModel(cuda(24)), Budget(memory_bytes=point.memory_bytes - 1))
    close.evaluate(strategy, SetupGroup(rung, "sdpa", True), 1)
    assert close.chunked_loss_can_help(strategy, rung)
