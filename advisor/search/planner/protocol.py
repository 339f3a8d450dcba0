"""What the planner asks of a cost model."""

from __future__ import annotations

from typing import Protocol

from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig


class Predictor(Protocol):
    """Predicts cost. The first call of a family (method, checkpointing, attention kernel, data type) may take
    seconds.
    """

    @property
    def device(self) -> DeviceProfile:
        """What it predicts for."""

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        *,
        with_quality: bool = True,
        min_quality: float | None = None,
    ) -> CostEstimate:
        """Cost of one configuration.

        Raises:
            InputError: it cannot be traced or built.
        """

    def thorough(self) -> Predictor:
        """The same, without the shortcuts that are good enough to tell whether a configuration fits."""
