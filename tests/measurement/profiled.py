"""The memory of one real step, for comparisons with what is traced."""

from __future__ import annotations

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.measurement.step_profile import ProfiledStep
from advisor.measurement.steps import StepRequest, run_steps


def profile_step_memory(
    spec: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    seq_length: int,
    *,
    num_hidden_layers: int | None = None,
    seed: int = 0,
) -> ProfiledStep:
    """Allocated bytes of one unpatched optimizer step on CPU, in this process, after one step that makes the states."""
    request = StepRequest(
        spec,
        strategy,
        execution,
        seq_length,
        steps=0,
        warmup_steps=1,
        profile_memory=True,
        num_hidden_layers=num_hidden_layers,
        seed=seed,
    )
    profiled = run_steps(request).profiled
    if profiled is None:
        raise RuntimeError("the Trainer ended before the profiled step")
    return profiled
