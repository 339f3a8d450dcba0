"""What must hold under every budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.budget import Budget
from advisor.core.recommendation import Recommendation
from advisor.search.planner.candidates import considered
from tests.search.planner_fakes import GIB, FakeCostModel, cpu, cuda, data_profile, distilbert, mistral, plans_of

MODELS = st.sampled_from([distilbert(), mistral(), distilbert("masked-lm"), mistral("causal-lm")])
DEVICES = st.sampled_from([cuda(8), cuda(16, bf16=False), cuda(24), cuda(80), cpu(16), cpu(32, half_speed=2.0)])
MEMORY = st.floats(0.2, 90).map(lambda gib: int(gib * GIB))
TIME = st.one_of(st.none(), st.floats(5, 1e6))
LEVEL = st.floats(0.5, 0.99)
LENGTH = st.sampled_from([32, 128, 512])
BATCH = st.sampled_from([1, 6, 8, 32])


def recommend(model, device, budget, length, batch) -> Recommendation:
    data = data_profile(length=length)
    return plans_of(model, FakeCostModel(device), budget, data=data, effective_batch_size=batch)


@settings(max_examples=40)
@given(MODELS, DEVICES, MEMORY, TIME, LEVEL, LENGTH, BATCH)
def test_every_listed_plan_is_inside_its_budget(model, device, memory, time_s, level, length, batch):
    answer = recommend(model, device, Budget(memory, time_s, safety_level=level), length, batch)
    for item in answer.ranked:
        cost = item.plan.predicted
        assert cost.fits
        assert cost.memory.quantile_bytes(level) <= min(memory, device.memory_bytes)
        assert time_s is None or cost.time.intervals["total_s"].high <= time_s
    assert len(answer.ranked) + len(answer.rejected) == len(considered(model))


@settings(max_examples=40)
@given(MODELS, DEVICES, MEMORY, TIME, LEVEL, LENGTH, BATCH)
def test_a_prediction_of_a_listed_plan_fits_and_of_a_rejected_one_does_not(
    model, device, memory, time_s, level, length, batch
):
    """``predict`` asks the same cost model the same question."""
    budget = Budget(memory, time_s, safety_level=level)
    answer = recommend(model, device, budget, length, batch)
    rejected = [item.smallest_plan for item in answer.rejected if item.smallest_plan is not None]
    for plan in [*(item.plan for item in answer.ranked), *rejected]:
        again = FakeCostModel(device).estimate(plan.model, plan.strategy, plan.execution, plan.data_profile, budget)
        assert again.fits == plan.predicted.fits == (plan not in rejected)
        assert again.memory == plan.predicted.memory
        assert again.time == plan.predicted.time


@settings(max_examples=40)
@given(MODELS, DEVICES, MEMORY, st.floats(0.05, 1), LENGTH, BATCH)
def test_a_smaller_budget_never_yields_a_plan_that_needs_more(model, device, memory, share, length, batch):
    wide = recommend(model, device, Budget(memory), length, batch)
    narrow = recommend(model, device, Budget(max(int(memory * share), 1)), length, batch)
    if narrow.best is not None:
        assert wide.best is not None
        assert narrow.best.predicted.memory.device_bytes <= wide.best.predicted.memory.device_bytes
    needs = {item.plan.strategy.method: item.plan.predicted for item in wide.ranked}
    for item in narrow.ranked:
        method, cost = item.plan.strategy.method, item.plan.predicted
        assert cost.memory.device_bytes <= needs[method].memory.device_bytes


@settings(max_examples=25)
@given(MODELS, DEVICES, MEMORY, LENGTH)
def test_a_rejected_method_really_has_no_plan(model, device, memory, length):
    answer = recommend(model, device, Budget(memory), length, 8)
    for item in answer.rejected:
        if item.smallest_plan is not None:
            needed = item.smallest_plan.predicted.memory.quantile_bytes(0.95)
            assert needed > min(memory, device.memory_bytes)
