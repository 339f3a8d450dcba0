"""What plans are made for, and what the planner asks of a cost model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile, DataSpec
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostBounds
from advisor.costmodel.quality.model import QualityModel
from advisor.search.planner.speed import SpeedKnobs


@dataclass(frozen=True)
class PlanRequest:
    """What plans are made for.

    Attributes:
        model: What is to be trained.
        data_spec: How a run reads the data.
        data: What the data looks like.
        budget: Upper bounds; the device's capacity always counts.
        effective_batch_size: Rows per optimizer step, the same for all methods; micro-batches are its divisors.
        seed: Training seed of the plans.
        speed: What is fixed of the knobs that change no operator; by default all of them are chosen.

    Raises:
        InputError: an effective batch size below 1.
    """

    model: ModelSpec
    data_spec: DataSpec
    data: DataProfile
    budget: Budget = field(default_factory=Budget)
    effective_batch_size: int = 32
    seed: int = 42
    speed: SpeedKnobs = field(default_factory=SpeedKnobs)

    def __post_init__(self) -> None:
        if self.effective_batch_size < 1:
            raise InputError(
                f"the effective batch size must be at least 1, but got {self.effective_batch_size}",
                fix="name another one",
            )


class Predictor(Protocol):
    """Predicts cost. The first call of a family (method, checkpointing, attention kernel, data type) may take
    seconds.
    """

    @property
    def device(self) -> DeviceProfile:
        """What it predicts for."""

    @property
    def quality(self) -> QualityModel:
        """What ranks strategies."""

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
