"""What the planner asks of a cost model."""

from __future__ import annotations

from typing import Protocol

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostBounds


class Predictor(Protocol):
    """Predicts cost. The first call of a family (method, checkpointing, attention kernel, data type) may take
    seconds.
    """

    @property
    def device(self) -> DeviceProfile:
        """What it predicts for."""

    def bounds(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, data: DataProfile | None
    ) -> CostBounds:
        """Bounds on the cost of one configuration, in milliseconds: they only discard.

        Raises:
            InputError: it cannot be traced or built.
        """

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        budget: Budget | None = None,
        *,
        with_quality: bool = True,
    ) -> CostEstimate:
        """Cost of one configuration, and whether it stays within the budget; a quarter of a second.

        Raises:
            InputError: it cannot be traced or built.
        """
