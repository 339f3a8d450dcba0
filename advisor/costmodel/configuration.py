"""One configuration with its traced step: what every part of the cost model asks about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.data import padded_length
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.depth import StepFamily

if TYPE_CHECKING:
    from advisor.costmodel.trace.ops import TracedOp


@dataclass(frozen=True)
class TracedConfiguration:
    """What is learned, how it is run, and the operators and allocations of it.

    Attributes:
        family: The traced step at every batch, length and rank.
        model: Needs no weights.
        strategy: What is learned.
        execution: How it is run.
    """

    family: StepFamily
    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan

    @property
    def rank(self) -> int:
        """The symbolic rank of the family; 1 where the method has none."""
        rank = self.strategy.rank
        return rank if rank is not None and self.strategy.method != "peft" else 1

    def operators(self, rows: int, seq_length: int) -> list[TracedOp]:
        """Of all phases, for batches of ``rows`` rows whose longest has ``seq_length`` tokens."""
        return self.family.operators((rows, padded_length(seq_length), self.rank))
