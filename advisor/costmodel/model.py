"""The cost model: one configuration in, its memory, time and quality out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.coefficients import Calibration
from advisor.core.cost import Basis, CostEstimate, Evidence, MemoryEstimate, QualityEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.store import user_data_dir
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.memory import estimate_memory, run_overheads, run_shapes
from advisor.costmodel.time import StepTime
from advisor.costmodel.time.model import TimeModel
from advisor.hardware.backends import backend_of
from advisor.tracing.full_depth import FullDepthTrace
from advisor.tracing.trace_store import TracedConfiguration, TraceStore

if TYPE_CHECKING:
    from advisor.costmodel.quality.model import QualityModel
    from advisor.tracing.ops import TracedOp

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
        self._times = TimeModel(device, calibration)
        self._cache_dir = cache_dir or user_data_dir("traces")
        self._families = TraceStore(backend_of(device).traced_as, device.compute_capability, self._cache_dir)
        self._stores = {(self._families.semantics, self._families.compute_capability): self._families}

    def on(self, device: DeviceProfile) -> CostModel:
        """The cost model of another device, uncalibrated; traces are shared where both run the same operators."""
        return self._sharing_traces(CostModel(device, quality=self.quality, cache_dir=self._cache_dir))

    def thorough(self) -> CostModel:
        """The same cost model, with the allocator replayed for every configuration."""
        return self._again(self.memory_limit_bytes, sweeping=False)

    def near(self, limit_bytes: int) -> CostModel:
        """The same cost model where many configurations are asked whether they stay within one limit."""
        return self._again(limit_bytes, sweeping=True)

    def _again(self, memory_limit_bytes: int | None, *, sweeping: bool) -> CostModel:
        other = CostModel(
            self.device,
            self.calibration,
            quality=self.quality,
            cache_dir=self._cache_dir,
            memory_limit_bytes=memory_limit_bytes,
            sweeping=sweeping,
        )
        return self._sharing_traces(other)

    def _sharing_traces(self, other: CostModel) -> CostModel:
        families = other._families
        other._stores = self._stores
        other._families = self._stores.setdefault((families.semantics, families.compute_capability), families)
        return other

    def before_first_trace(self, function: Callable[[], None]) -> None:
        """Call ``function`` once, before the first trace that is not on disk."""
        self._families.before_first_trace = function

    def memory(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *, same_length: bool = False
    ) -> MemoryEstimate:
        """Peak memory alone, for whoever asks about many points; ``same_length`` as in :meth:`estimate`.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._memory(self._traced(model, strategy, execution), None, same_length)

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
        asked = self._traced(model, strategy, execution)
        memory = self._memory(asked, data, same_length)
        time = self._times.estimate(asked, data, peak_bytes=memory.allocated_bytes)
        quality = self._quality(model, strategy, data, min_quality) if with_quality and data is not None else None
        parts = [part for part in (memory, time, quality) if part is not None]
        return CostEstimate(
            memory=memory,
            time=time,
            quality=quality,
            fits=None,
            trainable_parameters=asked.family.trainable_parameters(asked.rank),
            total_parameters=asked.family.total_parameters(asked.rank),
            evidence=max((part.evidence for part in parts), key=_EVIDENCE_ORDER.index),
            basis=max((part.basis for part in parts), key=_BASIS_ORDER.index),
            notes=()
            if data is not None
            else ("no data set was given: the time is that of one optimizer step at full length",),
        )

    def family(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> FullDepthTrace:
        """The traced step of a configuration: its operators and allocations at every batch, length and rank.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._families.get(model, strategy, execution)

    def step_operators(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> list[TracedOp]:
        """The traced operators of a configuration, all phases, for micro-batches with ``seq_length`` tokens per row.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._traced(model, strategy, execution).operators(execution.micro_batch_size, seq_length)

    def step_seconds(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> StepTime:
        """Time of one optimizer step whose micro-batches all have ``seq_length`` tokens per row."""
        return self._times.step(self._traced(model, strategy, execution), seq_length)

    def _traced(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> TracedConfiguration:
        return TracedConfiguration(self._families.get(model, strategy, execution), model, strategy, execution)

    def _memory(
        self, asked: TracedConfiguration, data: DataProfile | None, same_length: bool = False
    ) -> MemoryEstimate:
        shapes = run_shapes(asked.execution, asked.rank, data, same_length=same_length)
        return estimate_memory(
            asked.family,
            shapes,
            asked.model,
            self.device,
            self.calibration,
            run_overheads(asked.family, shapes, asked.model, asked.strategy, asked.execution, data),
            limit_bytes=self.memory_limit_bytes,
            sweeping=self.sweeping,
        )

    def _quality(
        self, model: ModelSpec, strategy: StrategyConfig, data: DataProfile, min_quality: float | None
    ) -> QualityEstimate:
        if self.quality is None:
            from advisor.costmodel.quality.model import QualityModel, default_prior

            self.quality = QualityModel(default_prior())
        return self.quality.estimate(model, strategy, data, min_quality=min_quality)
