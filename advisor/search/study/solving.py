"""The planner's solver for the study: predictions that need a new trace can be stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence

from advisor.core.cost import PackEstimate
from advisor.core.errors import RunFailed
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.recommendation import RejectedMethod
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.search.planner import solve_execution
from advisor.search.planner.request import PlanRequest
from advisor.strategies import get_strategy


class StoppableSolver:
    """``solve_execution``; the first question about a method's operators is answered in a process of its own.

    Tracing takes seconds to a minute and cannot be stopped from inside. What the process has traced is on disk when it
    ends, so that later questions about the same operators are answered here.
    """

    def __init__(self) -> None:
        self._traced: set[str] = set()

    def __call__(
        self, request: PlanRequest, strategy: StrategyConfig, cost_model: CostModel, *, time_limit_s: float | None
    ) -> Plan | RejectedMethod | None:
        """The fastest plan inside the budget, or why there is none; ``None`` when that took too long.

        Raises:
            UntraceableError: the configuration cannot be traced.
            RunFailed: the process ended without an answer.
        """
        key = f"{strategy.method} {json.dumps(get_strategy(strategy.method).trace_key(strategy), sort_keys=True)}"
        if key in self._traced or time_limit_s is None:
            return solve_execution(request, strategy, cost_model)
        from advisor.measurement.isolation import isolated

        result = isolated(solve_execution, request, strategy, cost_model, timeout_s=time_limit_s)
        if result.outcome == "over_time":
            return None
        self._traced.add(key)
        if result.outcome == "out_of_memory":
            raise RunFailed(f"predicting {strategy.method} ran out of memory")
        return result.unwrap()


def predict_pack(
    cost_model: CostModel,
    model: ModelSpec,
    strategies: Sequence[StrategyConfig],
    execution: ExecutionPlan,
    *,
    time_limit_s: float,
) -> PackEstimate | None:
    """What a pack costs, predicted in a process of its own that can be stopped; ``None`` when that took too long.

    Raises:
        InputError: the configurations cannot be packed.
        UntraceableError: the configuration cannot be traced.
        RunFailed: the process ended without an answer.
    """
    from advisor.measurement.isolation import isolated

    result = isolated(cost_model.pack, model, list(strategies), execution, timeout_s=time_limit_s)
    return None if result.outcome == "over_time" else result.unwrap()
