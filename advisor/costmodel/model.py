"""The cost model: one configuration in, its memory, time and quality out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.cost import Basis, CostEstimate, Evidence, Interval, MemoryEstimate, QualityEstimate, TimeEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.store import user_data_dir
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.calibration.record import Calibration
from advisor.costmodel.depth import StepFamily
from advisor.costmodel.families import FamilyStore
from advisor.costmodel.memory import estimate_memory, memory_quantile_bytes, run_facts, run_shapes
from advisor.costmodel.run_shape import decoding, run_shape
from advisor.costmodel.time import (
    OperatorClock,
    Setting,
    StepTime,
    configuration_key,
    decode_speed,
    execution_key,
    measured_step,
    model_key,
    optimizer_step,
    phase_seconds,
    run_time,
    step_time,
)

if TYPE_CHECKING:
    from advisor.costmodel.quality.model import QualityModel
    from advisor.costmodel.trace.ops import TracedOp

LENGTH_MULTIPLE = 8
"""The collator pads to multiples of this many tokens."""

_EVIDENCE_ORDER: tuple[Evidence, ...] = ("measured", "interpolated", "extrapolated")
_BASIS_ORDER: tuple[Basis, ...] = ("measured", "calibrated", "transferred", "datasheet", "prior")


class CostModel:
    """Predicts the cost of configurations on one device.

    The first configuration of a family (same model, method, checkpointing, data types, attention kernel, optimizer)
    costs a few traces of one to three seconds; further ones, at any batch, length and rank, milliseconds.

    Args:
        device: Where plans will run; its type decides the semantics of the trace.
        calibration: What ``calibrate`` found on this device.
        quality: Prior and evidence; the shipped prior when ``None``.
        cache_dir: Where traces are kept; the user's data directory when ``None``.
        memory_limit_bytes: What a run may take of the device; all that it has when ``None``.
        sweeping: Many configurations will be asked about, and only whether they stay within the limit matters: the
            allocator is replayed for those near it, and the memory of others is bounded.
    """

    def __init__(
        self,
        device: DeviceProfile,
        calibration: Calibration | None = None,
        *,
        quality: QualityModel | None = None,
        cache_dir: Path | None = None,
        memory_limit_bytes: int | None = None,
        sweeping: bool = False,
    ) -> None:
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.sweeping = sweeping
        self.calibration = calibration
        self.quality = quality
        self._clocks: dict[bool, OperatorClock] = {}
        self._cache_dir = cache_dir or user_data_dir("traces")
        self._families = FamilyStore(device.type, device.compute_capability, self._cache_dir)
        self._stores = {(self._families.semantics, self._families.compute_capability): self._families}

    def on(self, device: DeviceProfile) -> CostModel:
        """The cost model of another device, uncalibrated; traces are shared where both run the same operators."""
        other = CostModel(device, quality=self.quality, cache_dir=self._cache_dir)
        families = other._families
        other._stores = self._stores
        other._families = self._stores.setdefault((families.semantics, families.compute_capability), families)
        return other

    def thorough(self) -> CostModel:
        """The same cost model, with the allocator replayed for every configuration."""
        other = self.on(self.device)
        other.calibration, other.memory_limit_bytes = self.calibration, self.memory_limit_bytes
        return other

    def before_first_trace(self, function: Callable[[], None]) -> None:
        """Call ``function`` once, before the first trace that is not on disk."""
        self._families.before_first_trace = function

    def near(self, limit_bytes: int) -> CostModel:
        """The same cost model where many configurations are asked whether they stay within one limit."""
        other = self.on(self.device)
        other.calibration, other.memory_limit_bytes, other.sweeping = self.calibration, limit_bytes, True
        return other

    def memory(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *, same_length: bool = False
    ) -> MemoryEstimate:
        """Peak memory alone, for whoever asks about many points; ``same_length`` as in :meth:`estimate`.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        family = self._families.get(model, strategy, execution)
        return self._memory(family, model, strategy, execution, None, same_length)

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        *,
        with_quality: bool = True,
        min_quality: float | None = None,
        same_length: bool = False,
    ) -> CostEstimate:
        """The cost of one exact configuration.

        Args:
            model: Needs no weights.
            strategy: What is learned.
            execution: How it is run.
            data: Without it, time is that of one optimizer step at full length and quality is left out.
            with_quality: Leave quality out when only cost matters.
            min_quality: Wanted minimum of the metric, answered as a probability.
            same_length: All batches are as long as the longest, as in a measurement of one shape; otherwise memory is
                that of a run whose batches differ in length.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        family = self._families.get(model, strategy, execution)
        memory = self._memory(family, model, strategy, execution, data, same_length)
        time = self._time(family, model, strategy, execution, data, memory.allocated_bytes)
        quality = self._quality(model, strategy, data, min_quality) if with_quality and data is not None else None
        parts = [part for part in (memory, time, quality) if part is not None]
        rank = _rank(strategy)
        return CostEstimate(
            memory=memory,
            time=time,
            quality=quality,
            fits=None,
            trainable_parameters=family.trainable_parameters(rank),
            total_parameters=family.total_parameters(rank),
            evidence=max((part.evidence for part in parts), key=_EVIDENCE_ORDER.index),
            basis=max((part.basis for part in parts), key=_BASIS_ORDER.index),
            notes=()
            if data is not None
            else ("no data set was given: the time is that of one optimizer step at full length",),
        )

    def family(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> StepFamily:
        """The traced step of a configuration: its operators and allocations at every batch, length and rank.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._families.get(model, strategy, execution)

    def memory_quantile_bytes(self, estimate: CostEstimate, level: float) -> int:
        """What is compared with a memory budget: the run needs no more with probability ``level``."""
        return memory_quantile_bytes(estimate.memory, level)

    def step_operators(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> list[TracedOp]:
        """The traced operators of a configuration, all phases, for micro-batches with ``seq_length`` tokens per row.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        family = self._families.get(model, strategy, execution)
        return family.operators((execution.micro_batch_size, _padded(seq_length), _rank(strategy)))

    def step_seconds(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> StepTime:
        """Time of one optimizer step whose micro-batches all have ``seq_length`` tokens per row."""
        family = self._families.get(model, strategy, execution)
        return self._step_time(family, model, strategy, execution, seq_length)

    def _memory(
        self,
        family: StepFamily,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        same_length: bool = False,
    ) -> MemoryEstimate:
        shapes = run_shapes(execution, _rank(strategy), data, same_length=same_length)
        return estimate_memory(
            family,
            shapes,
            model,
            self.device,
            self.calibration,
            run_facts(family, shapes, model, strategy, execution, data),
            limit_bytes=self.memory_limit_bytes,
            sweeping=self.sweeping,
        )

    def _time(
        self,
        family: StepFamily,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        peak_bytes: int,
    ) -> TimeEstimate:
        if data is None:
            length = execution.max_seq_length
            known = measured_step(self.calibration, configuration_key(model, strategy, execution, length))
            return _single_step(known or self._step_time(family, model, strategy, execution, length), execution)
        return run_time(
            lambda length: self._step_time(family, model, strategy, execution, length),
            data,
            strategy,
            execution,
            self.device,
            evaluation_time_of=lambda length: self._evaluation_time(family, model, strategy, execution, length),
            shape=run_shape(family, _rank(strategy), model, strategy, execution, peak_bytes=peak_bytes),
            decoding=self._decode_speed(family, model, strategy, execution) if model.task == "causal-lm" else None,
        )

    def _decode_speed(
        self, family: StepFamily, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan
    ) -> tuple[float, str] | None:
        rank = _rank(strategy)
        operators = family.operators((execution.eval_batch_size, _padded(execution.max_seq_length), rank))
        work = decoding(family, rank, model, strategy, execution, operators)
        return decode_speed(work, self.device, self.calibration)

    def _step_time(
        self, family: StepFamily, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> StepTime:
        operators = family.operators((execution.micro_batch_size, _padded(seq_length), _rank(strategy)))
        phases = phase_seconds(operators, self._clock(execution))
        work = optimizer_step(phases, execution.gradient_accumulation_steps)
        setting = _setting(model, strategy, execution, execution.micro_batch_size * seq_length)
        return step_time(work, self.device, self.calibration, setting)

    def _clock(self, execution: ExecutionPlan) -> OperatorClock:
        """Made when first asked for: copies of this cost model get their calibration after they are made."""
        if execution.tf32 not in self._clocks:
            self._clocks[execution.tf32] = OperatorClock(self.device, self.calibration, tf32=execution.tf32)
        return self._clocks[execution.tf32]

    def _evaluation_time(
        self, family: StepFamily, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> StepTime:
        operators = family.operators((execution.eval_batch_size, _padded(seq_length), _rank(strategy)))
        forward = [op for op in operators if op.phase == "evaluation"]
        setting = _setting(model, strategy, execution, execution.eval_batch_size * seq_length)
        return step_time(self._clock(execution).total(forward), self.device, self.calibration, setting, evaluation=True)

    def _quality(
        self, model: ModelSpec, strategy: StrategyConfig, data: DataProfile, min_quality: float | None
    ) -> QualityEstimate:
        if self.quality is None:
            from advisor.costmodel.quality.model import QualityModel, default_prior

            self.quality = QualityModel(default_prior())
        return self.quality.estimate(model, strategy, data, min_quality=min_quality)


def _rank(strategy: StrategyConfig) -> int:
    """The symbolic rank of the family; 1 where the method has none."""
    return strategy.rank if strategy.rank is not None and strategy.method != "peft" else 1


def _padded(seq_length: int) -> int:
    return -(-seq_length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _setting(model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, tokens: int) -> Setting:
    return Setting(model_key(model), strategy.method, execution_key(execution), tokens)


def _single_step(step: StepTime, execution: ExecutionPlan) -> TimeEstimate:
    interval = Interval(step.low, step.high)
    rows = execution.effective_batch_size
    return TimeEstimate(
        step_s=step.seconds,
        samples_per_s=rows / step.seconds,
        tokens_per_s=rows * execution.max_seq_length / step.seconds,
        total_s=step.seconds,
        intervals={"step_s": interval, "total_s": interval},
        parts={"training": step.seconds},
        evidence=step.evidence,
        basis=step.basis,
    )
