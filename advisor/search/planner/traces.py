"""Which traces planning may need: a function of the request, the device and the strategies, without any cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest

from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.search.planner.candidates import Candidates, target_variants
from advisor.search.planner.evaluator import SetupGroup, execution_of, kernels_of, may_keep_features, micro_batches
from advisor.search.planner.precision import cpu_precisions, precision_policies
from advisor.search.planner.request import PlanRequest
from advisor.strategies import get_strategy

WantedTrace = tuple[StrategyConfig, ExecutionPlan]
"""A configuration that stands for all with the same trace."""


def wanted_traces(request: PlanRequest, device: DeviceProfile, found: Candidates) -> list[WantedTrace]:
    """One configuration of every trace that planning may ask for, the likeliest first.

    Every strategy, with each of its target sets, is first asked about in its preferred set-up, then with accumulation,
    then with checkpointing, then with leaner data types and optimizers. Planning goes through the strategies in their
    order; of traces that are equally likely the last strategy's come first here, so that two who trace meet late.
    """
    strategies = [
        variant for strategy in found.usable for variant in (strategy, *target_variants(strategy, request.model))
    ]
    by_strategy = [list(_executions(request, device, strategy)) for strategy in strategies]
    return [
        (strategy, execution)
        for step in zip_longest(*by_strategy)
        for strategy, execution in reversed(list(zip(strategies, step, strict=True)))
        if execution is not None
    ]


def _executions(request: PlanRequest, device: DeviceProfile, strategy: StrategyConfig) -> Iterator[ExecutionPlan]:
    sizes = micro_batches(request)[:2]  # only the largest does not accumulate
    kept = may_keep_features(request, strategy)
    for checkpointed_first, group in _groups(request, device, strategy):
        for checkpointing in (True, False) if checkpointed_first else (False, True):
            for size in sizes:
                chosen = SetupGroup(group.rung, group.attention, checkpointing)
                execution = execution_of(request, device, strategy, chosen, size, size)
                yield execution
                if kept:
                    yield replace(execution, keep_features=True)


def _groups(request: PlanRequest, device: DeviceProfile, strategy: StrategyConfig) -> Iterator[tuple[bool, SetupGroup]]:
    """Data types, optimizers and kernels, preferred ones first, and whether they are first tried with checkpointing."""
    limit_bytes, method = request.budget.memory_limit_bytes(device), get_strategy(strategy.method)
    compared = backend_of(device).setups.compared
    precisions = precision_policies(device, request.model, strategy)
    if compared:
        precisions = tuple(replace(item, loss=rung.loss) for rung in precisions for item in cpu_precisions(device))
    for index, rung in enumerate(precisions):
        # Where kernels are compared, they are so with the standard loss, whether or not the weights fit.
        hopeless = not compared and rung.least_bytes(request.model, method) > limit_bytes
        if hopeless and rung is not precisions[-1]:
            continue
        for kernel in kernels_of(request, device, rung):
            yield index > 0 and not compared, SetupGroup(rung, kernel, False)
