"""A case as the libraries see it: model, strategy and execution plan, built and checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from advisor.core.coefficients import Calibration
from advisor.core.cost import CostEstimate
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.costmodel.time import configuration_key, execution_key, model_key
from advisor.experiments.validation.baselines import step_work
from advisor.experiments.validation.case import Case
from advisor.experiments.validation.models import grid_model
from advisor.experiments.validation.record import TracedWork

MOST_ROWS = 1 << 16


@dataclass(frozen=True)
class CaseConfig:
    """A configuration to ask a cost model about."""

    spec: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    same_length: bool

    def asked(self, cost_model: CostModel) -> CostEstimate:
        """What the cost model says."""
        return cost_model.estimate(
            self.spec, self.strategy, self.execution, None, with_quality=False, same_length=self.same_length
        )

    def with_rows(self, rows: int) -> CaseConfig:
        """The same with another micro-batch."""
        return dataclasses.replace(self, execution=dataclasses.replace(self.execution, micro_batch_size=rows))

    def with_threads(self, num_threads: int | None) -> CaseConfig:
        """With the threads that plans for the device have, unless the case names its own."""
        if self.execution.num_threads is not None:
            return self
        return dataclasses.replace(self, execution=dataclasses.replace(self.execution, num_threads=num_threads))

    def work(self, cost_model: CostModel) -> TracedWork:
        """The traced work of a step."""
        execution = self.execution
        operators = cost_model.step_operators(self.spec, self.strategy, execution, execution.max_seq_length)
        return step_work(operators, execution.gradient_accumulation_steps, cost_model.device, self.spec)

    def is_seen(self, calibration: Calibration | None) -> bool:
        """Whether a calibration measured this very configuration and shape."""
        execution = self.execution
        shape = (execution.micro_batch_size, execution.max_seq_length)
        own = (model_key(self.spec), self.strategy.method, execution_key(execution), *shape)
        exact = configuration_key(self.spec, self.strategy, execution, execution.max_seq_length)
        return any(
            p.configuration == exact if p.configuration else own == p.same_steps
            for p in (calibration.points if calibration is not None else ())
        )


def question_of(case: Case) -> CaseConfig:
    """The case as the libraries see it.

    Raises:
        InputError: it cannot be built.
    """
    from advisor.strategies import get_strategy

    spec = grid_model(case.model, case.task)
    method = get_strategy(case.method)
    strategy = method.configured(spec, **case.knobs)
    if problems := [*filter(None, [method.applies_to(spec)]), *method.problems(strategy, spec)]:
        raise InputError(f"{case.method} does not suit {case.model}", problems=problems)
    return CaseConfig(spec, strategy, _execution(case, spec), same_length=not case.mixed_lengths)


def _execution(case: Case, spec: ModelSpec) -> ExecutionPlan:
    from advisor.strategies.attention import usual_attention

    if spec.max_positions is not None and case.length > spec.max_positions:
        raise InputError(f"{case.model} has {spec.max_positions} positions, but the case has {case.length} tokens")
    # One row of evaluation never needs more than the step: what is measured is the step.
    fixed = {"micro_batch_size": case.rows, "max_seq_length": case.length, "eval_batch_size": 1}
    try:
        return ExecutionPlan(**{"attn_implementation": usual_attention(spec), **case.execution, **fixed})
    except (TypeError, ValueError) as failure:
        raise InputError(f"the case's execution must be a valid plan: {failure}") from None


def filled(question: CaseConfig, endless: CostModel, wanted_bytes: int) -> CaseConfig:
    """The case with the most rows that would hold no more than ``wanted_bytes`` of a card without end.

    Args:
        question: Whose rows do not matter.
        endless: Of that card, with ``wanted_bytes`` as its memory limit.
        wanted_bytes: Of the device.

    Raises:
        InputError: not even one row does.
    """

    def fits(rows: int) -> bool:
        return question.with_rows(rows).asked(endless).memory.device_bytes <= wanted_bytes

    if not fits(1):
        raise InputError(f"one row already takes more than {wanted_bytes} bytes")
    low, high = 1, 2
    while high < MOST_ROWS and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return question.with_rows(low)
