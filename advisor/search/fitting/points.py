"""Memory at points of a question: exact where an answer depends on it, live bytes where only the way leads through."""

from __future__ import annotations

import json
from typing import NamedTuple

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.search.fitting.records import FitRequest, Switches
from advisor.tracing.trace_store import strategy_key


class FitPoint(NamedTuple):
    """One configuration."""

    strategy: StrategyConfig
    setup: Switches
    rows: int
    length: int

    def with_rank(self, rank: int) -> FitPoint:
        return self._replace(strategy=self.strategy.replaced(rank=rank))

    def execution(self, question: FitRequest) -> ExecutionPlan:
        return self.setup.execution(self.rows, self.length, padded=question.padded)


class Points:
    """Evaluates points of one question, none twice; methods that build the same model share theirs.

    All batches are as long as asked, as in ``predict`` without data.

    Args:
        model: What is to be trained.
        cost_model: Of the device that the question is about.
        question: Limit, safety level, padding.
    """

    def __init__(self, model: ModelSpec, cost_model: CostModel, question: FitRequest) -> None:
        self.model, self.device, self.question = model, cost_model.device, question
        self._cost_model = cost_model
        self._exact_bytes: dict[tuple[object, ...], int] = {}
        self._live_bytes: dict[tuple[object, ...], int] = {}

    @property
    def considered(self) -> int:
        """How many points were evaluated."""
        return len(self._exact_bytes.keys() | self._live_bytes.keys())

    def memory_bytes(self, point: FitPoint) -> int:
        """Upper quantile of the peak at the safety level.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        key = _key(point)
        if key not in self._exact_bytes:
            execution, budget = point.execution(self.question), self.question.budget
            memory = self._cost_model.memory(self.model, point.strategy, execution, budget, same_length=True)
            self._exact_bytes[key] = memory.quantile_bytes(self.question.safety_level)
        return self._exact_bytes[key]

    def live_bytes(self, point: FitPoint) -> int:
        """What tensors take at the peak: grows with batch, length and rank."""
        key = _key(point)
        if key not in self._live_bytes:
            execution = point.execution(self.question)
            bounds = self._cost_model.bound_memory(self.model, point.strategy, execution, same_length=True)
            self._live_bytes[key] = bounds.typical.allocated_bytes
        return self._live_bytes[key]


def _key(point: FitPoint) -> tuple[object, ...]:
    """What memory depends on: neither learning rate nor epochs, and not which of two like methods asks."""
    return json.dumps(strategy_key(point.strategy), sort_keys=True), point.strategy.rank, *point[1:]
