"""The traces that are made ahead are those that planning asks for, and the likeliest come first."""

from __future__ import annotations

import itertools

import pytest

from advisor.core.budget import Budget
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.search.planner import PlanRequest, candidates, recommend_plans
from advisor.search.planner.traces import wanted_traces
from advisor.tracing.trace_store import TraceStore
from tests.search.planner_fakes import DATA, GIB, FakeCostModel, cpu, cuda, data_profile, distilbert, mistral


class Asked(FakeCostModel):
    """Keeps every configuration that planning asks about."""

    def bounds(self, model, strategy, execution, data, budget=None):
        self.configurations.append((strategy, execution))
        return super().bounds(model, strategy, execution, data, budget)

    @property
    def configurations(self) -> list[tuple[StrategyConfig, ExecutionPlan]]:
        return self.__dict__.setdefault("_configurations", [])


def keys(configurations: list[tuple[StrategyConfig, ExecutionPlan]], model: ModelSpec) -> list[str]:
    store = TraceStore("cuda", (8, 0), None)
    return list(dict.fromkeys(store.key(model, strategy, execution) for strategy, execution in configurations))


@pytest.mark.parametrize("budget", [Budget(), Budget(memory_bytes=GIB), Budget(memory_bytes=20 * GIB)], ids=str)
@pytest.mark.parametrize("device", [cpu(), cpu(half_speed=2.0), cuda(16, bf16=False), cuda(24)], ids=lambda d: d.id)
@pytest.mark.parametrize("model", [distilbert(), mistral("causal-lm")], ids=lambda m: m.source)
def test_planning_asks_for_no_other_trace(model: ModelSpec, device: DeviceProfile, budget: Budget) -> None:
    request, cost_model, found = PlanRequest(model, DATA, data_profile(), budget), Asked(device), candidates(model)
    recommend_plans(request, cost_model, found)
    asked = keys(cost_model.configurations, model)
    wanted = keys(wanted_traces(request, device, found), model)
    assert asked and set(asked) <= set(wanted)


def test_the_preferred_set_up_of_every_strategy_comes_first() -> None:
    """Where everything fits, planning asks for no trace behind the first with checkpointing."""
    model, device = distilbert(), cuda(80)
    request, cost_model, found = PlanRequest(model, DATA, data_profile()), Asked(device), candidates(model)
    recommend_plans(request, cost_model, found)
    wanted = wanted_traces(request, device, found)
    plain = list(itertools.takewhile(lambda trace: not trace[1].gradient_checkpointing, wanted))
    assert len(plain) < len(wanted) / 3
    assert set(keys(cost_model.configurations, model)) <= set(keys(plain, model))
    assert wanted[0][0].method == found.usable[-1].method, "the planner itself begins with the first"
