"""The cost model: one configuration in, its memory, time and quality out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.core.budget import Budget
from advisor.core.coefficients import Calibration
from advisor.core.cost import Basis, CostEstimate, Evidence, Interval, MemoryEstimate, PackEstimate, QualityEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.memory.batch_sequence import run_shapes
from advisor.costmodel.memory.estimate import bound_memory, estimate_memory
from advisor.costmodel.memory.overheads import run_overheads
from advisor.costmodel.memory.traced_run import MemoryBounds, TracedRun
from advisor.costmodel.time.model import TimeModel
from advisor.costmodel.time.run import predicted_energy, saved_model_bytes, speed_notes, stopping_notes
from advisor.hardware.backends import backend_of
from advisor.strategies import get_strategy
from advisor.tracing.trace_store import TracedConfiguration, TraceStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from advisor.costmodel.quality.model import QualityModel
    from advisor.tracing.ops import TracedOp

_EVIDENCE_ORDER: tuple[Evidence, ...] = ("measured", "interpolated", "extrapolated", "onset not reached")
_BASIS_ORDER: tuple[Basis, ...] = ("measured", "calibrated", "transferred", "datasheet", "prior")


@dataclass(frozen=True)
class CostBounds:
    """What is known of a cost without a replay of the allocator: enough to discard a configuration.

    Attributes:
        typical: The cost with a typical memory and wide intervals; ``fits`` is open and quality left out.
        memory: Between what the device's memory lies.
    """

    typical: CostEstimate
    memory: MemoryBounds


class CostModel:
    """Predicts the cost of configurations on one device.

    The first configuration of a family (same model, method, checkpointing, data types, attention kernel, optimizer)
    costs a few traces of one to three seconds; further ones, at any batch, length and rank, milliseconds, and a quarter
    of a second for the replay that an exact memory takes. Whoever asks about many configurations asks for bounds first.

    Args:
        device: Where plans will run; its type decides the semantics of the trace.
        calibration: What ``calibrate`` found on this device.
        quality: Prior and evidence; the shipped prior when ``None``.
        cache_dir: Where traces are kept; the user's data directory when ``None``.
        watts_of: Mean power of earlier runs on a device, by its id (``hardware.energy.known_watts``).
        evaluation: Whether runs evaluate on the held-out rows. Those of this package always do; training loops of
            others may not.
    """

    def __init__(
        self,
        device: DeviceProfile,
        calibration: Calibration | None = None,
        *,
        quality: QualityModel | None = None,
        cache_dir: Path | None = None,
        watts_of: Callable[[str], Sequence[float]] = lambda device_id: (),
        evaluation: bool = True,
    ) -> None:
        self.device, self.calibration, self.evaluation = device, calibration, evaluation
        self._quality_model, self._cache_dir, self._watts_of = quality, cache_dir, watts_of
        self._times = TimeModel(device, calibration, watts_of(device.id))
        self.traces = TraceStore.on_disk(
            backend_of(device).traced_as,
            device.compute_capability,
            cache_dir,
            multiprocessors=device.multiprocessors,
        )
        self._stores = {self.traces.shared_by: self.traces}

    def on(self, device: DeviceProfile) -> CostModel:
        """The cost model of another device, uncalibrated; traces are shared where both run the same operators."""
        other = CostModel(
            device,
            quality=self._quality_model,
            cache_dir=self._cache_dir,
            watts_of=self._watts_of,
            evaluation=self.evaluation,
        )
        other._stores = self._stores
        other.traces = self._stores.setdefault(other.traces.shared_by, other.traces)
        return other

    @property
    def quality(self) -> QualityModel:
        """What predicts quality."""
        if self._quality_model is None:
            from advisor.costmodel.quality.model import QualityModel, default_prior

            self._quality_model = QualityModel(default_prior())
        return self._quality_model

    def memory(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        budget: Budget | None = None,
        *,
        same_length: bool = False,
    ) -> MemoryEstimate:
        """Peak memory alone; arguments as in :meth:`estimate`.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._memory(self._traced(model, strategy, execution), None, same_length, budget)

    def bound_memory(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *, same_length: bool = False
    ) -> MemoryBounds:
        """Bounds on peak memory alone; arguments as in :meth:`estimate`.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._bound_memory(self._traced(model, strategy, execution), None, same_length)

    def bounds(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        budget: Budget | None = None,
    ) -> CostBounds:
        """The cost of one configuration without a replay; arguments as in :meth:`estimate`.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        asked = self._traced(model, strategy, execution)
        memory = self._bound_memory(asked, data, same_length=False)
        limited = budget is not None and budget.max_latency_s is not None
        return CostBounds(self._cost(asked, data, memory.typical, None, budget, with_latency=limited), memory)

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        budget: Budget | None = None,
        *,
        with_quality: bool = True,
        same_length: bool = False,
    ) -> CostEstimate:
        """The cost of one exact configuration.

        Args:
            model: Needs no weights.
            strategy: What is learned.
            execution: How it is run.
            data: Without it, time is that of one optimizer step at full length and quality is left out.
            budget: Decides ``fits``, and what the allocator may take; without one ``fits`` is left open. Its
                ``min_quality`` is answered as a probability.
            with_quality: Leave quality out when only cost matters.
            same_length: All batches are as long as the longest, as in a measurement of one shape; otherwise memory is
                that of a run whose batches differ in length.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        asked = self._traced(model, strategy, execution)
        memory = self._memory(asked, data, same_length, budget)
        quality = None
        if with_quality and data is not None:
            quality = self.quality.estimate(
                model,
                strategy,
                data,
                min_quality=budget.min_quality if budget else None,
                batch_size=execution.effective_batch_size,
            )
        cost = self._cost(asked, data, memory, quality, budget)
        no_data = "no data set was given: the time is that of one optimizer step at full length"
        no_evaluation = "without evaluation: `advisor run` evaluates after each epoch and takes what that costs on top"
        notes = (
            *(() if data is not None else (no_data,)),
            *(() if self.evaluation else (no_evaluation,)),
            *speed_notes(execution, data),
            *stopping_notes(strategy),
        )
        fits = None if budget is None else budget.check(cost, self.device).ok
        return replace(cost, fits=fits, notes=notes)

    def least_total_s(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile,
        *,
        traced_as: ExecutionPlan,
    ) -> float:
        """A lower bound on the run time of an execution that accumulates gradients, by the trace of one that does not:
        adding gradients up comes on top of what such a trace holds.

        Args:
            model: As in :meth:`estimate`.
            strategy: Likewise.
            execution: What is asked about.
            data: As in :meth:`estimate`.
            traced_as: The same with the whole batch at once.

        Raises:
            UntraceableError: ``traced_as`` cannot be traced.
        """
        asked = TracedConfiguration(self.traces.get(model, strategy, traced_as), model, strategy, execution)
        return self._times.estimate(asked, self._evaluated(data), peak_bytes=0, with_latency=False).total_s

    def _evaluated(self, data: DataProfile) -> DataProfile:
        """The rows that a run passes over, with or without evaluation."""
        return data if self.evaluation else replace(data, eval_rows=0)

    def _cost(
        self,
        asked: TracedConfiguration,
        data: DataProfile | None,
        memory: MemoryEstimate,
        quality: QualityEstimate | None,
        budget: Budget | None,
        *,
        with_latency: bool = True,
    ) -> CostEstimate:
        evaluated = None if data is None else self._evaluated(data)
        served = self._served(asked) if with_latency else asked
        merged = self._merged(served) if budget is not None and budget.max_latency_s is not None else None
        peak_bytes, whole = memory.allocated_bytes, self._first_pass(asked)
        time = self._times.estimate(
            asked,
            evaluated,
            peak_bytes=peak_bytes,
            merged=merged,
            whole=whole,
            served=served if served is not asked else None,
            with_latency=with_latency,
        )
        saved_bytes, saved_interval = saved_model_bytes(asked)
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
            saved_bytes=saved_bytes,
            saved_interval=saved_interval,
        )

    def _served(self, asked: TracedConfiguration) -> TracedConfiguration:
        """The model as it is used, where training passes more than that through it."""
        task = asked.model.traits.serves_as
        return self._traced(replace(asked.model, task=task), asked.strategy, asked.execution) if task else asked

    def _first_pass(self, asked: TracedConfiguration) -> TracedConfiguration | None:
        """The same with all layers running, where rows pass through them once before training."""
        if not asked.execution.keep_features:
            return None
        return self._traced(asked.model, asked.strategy, replace(asked.execution, keep_features=False))

    def _memory(
        self, asked: TracedConfiguration, data: DataProfile | None, same_length: bool, budget: Budget | None
    ) -> MemoryEstimate:
        found = [estimate_memory(run, self._limit_bytes(budget)) for run in self._runs(asked, data, same_length)]
        return max(found, key=lambda memory: memory.device_bytes)

    def _bound_memory(self, asked: TracedConfiguration, data: DataProfile | None, same_length: bool) -> MemoryBounds:
        found = [bound_memory(run) for run in self._runs(asked, data, same_length)]
        return max(found, key=lambda bounds: bounds.typical.device_bytes)

    def _runs(self, asked: TracedConfiguration, data: DataProfile | None, same_length: bool) -> list[TracedRun]:
        """What may be the run's peak: its steps; where frozen layers run once before training, that is taken for a step
        without skipping them, which holds at least as much.
        """
        whole = self._first_pass(asked) if data is not None else None
        return [self._run(part, data, same_length) for part in (asked, whole) if part is not None]

    def _merged(self, asked: TracedConfiguration) -> TracedConfiguration | None:
        """The model once its adapters are merged into the weights; ``None`` where they are not, or it is not traced."""
        name = get_strategy(asked.strategy.method).merges_into
        if name is None:
            return None
        strategy = get_strategy(name).default_config(asked.model)
        execution = replace(
            asked.execution,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            optim=ExecutionPlan(1).optim,
            loss=ExecutionPlan(1).loss,
            # Weights that are stored in 16 bits are computed with in 16 bits; a trainable model refuses both at once.
            amp=asked.execution.amp if asked.execution.dtype == "float32" else "none",
        )
        try:
            return self._traced(asked.model, strategy, execution)
        except InputError:
            return None

    @property
    def power_unknown(self) -> str:
        """Why the energy of a run cannot be predicted on the device; empty where it can."""
        one_second = Interval(1.0, 1.0)
        energy_j, _, reason = predicted_energy(self.device, 1.0, one_second, self._watts_of(self.device.id))
        return "" if energy_j is not None else reason

    def pack(self, model: ModelSpec, strategies: Sequence[StrategyConfig], execution: ExecutionPlan) -> PackEstimate:
        """The cost of training several configurations in one pass over one frozen model (``training.packing``).

        Memory is traced, with every member's adapter, head and optimizer, which takes seconds to a minute. Time is
        that of a step whose batch holds all members' rows, with adapters of the largest rank; what it saves are
        launches, and products that are too small to fill the device.

        Args:
            model: Needs no weights.
            strategies: Of the members.
            execution: Of each member; the batch size is that of one.

        Raises:
            InputError: they cannot be packed.
            UntraceableError: the configuration cannot be traced.
        """
        from advisor.tracing.packed_step import trace_pack
        from advisor.tracing.step import TraceRequest

        length = execution.max_seq_length
        semantics, capability = self.traces.semantics, self.traces.compute_capability
        request = TraceRequest(model, strategies[0], execution, length, semantics, capability, evaluation=False)
        peak_bytes = trace_pack(request, strategies).peak_bytes
        return PackEstimate(len(strategies), peak_bytes, *self._pack_step_s(model, strategies, execution))

    def pack_speed_up(self, model: ModelSpec, strategies: Sequence[StrategyConfig], execution: ExecutionPlan) -> float:
        """The speed-up of a pack alone, as in :meth:`pack`; without a trace of the pack, so that it takes no time.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        together_s, alone_s = self._pack_step_s(model, strategies, execution)
        return alone_s / together_s

    def _pack_step_s(
        self, model: ModelSpec, strategies: Sequence[StrategyConfig], execution: ExecutionPlan
    ) -> tuple[float, float]:
        """One optimizer step of a pack, and of its members one after the other."""
        length = execution.max_seq_length
        widest = max(strategies, key=lambda strategy: strategy.rank or 0)
        stacked = replace(execution, micro_batch_size=len(strategies) * execution.micro_batch_size)
        return (
            self._times.step(self._traced(model, widest, stacked), length).seconds,
            sum(self._times.step(self._traced(model, alone, execution), length).seconds for alone in strategies),
        )

    def model_figures(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, budget: Budget
    ) -> CostEstimate:
        """The cost of one step at full length with a typical memory: latency and saved size are those of the model.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self.bounds(model, strategy, execution, None, budget).typical

    def _limit_bytes(self, budget: Budget | None) -> int | None:
        return None if budget is None else budget.memory_limit_bytes(self.device)

    def step_operators(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int
    ) -> list[TracedOp]:
        """The traced operators of a configuration, all phases, for micro-batches with ``seq_length`` tokens per row.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        return self._traced(model, strategy, execution).operators(execution.micro_batch_size, seq_length)

    def _traced(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> TracedConfiguration:
        return TracedConfiguration(self.traces.get(model, strategy, execution), model, strategy, execution)

    def _run(self, asked: TracedConfiguration, data: DataProfile | None, same_length: bool) -> TracedRun:
        shapes = run_shapes(asked.execution, asked.rank, data, same_length=same_length, evaluation=self.evaluation)
        overheads = run_overheads(asked, shapes, data)
        expandable = asked.execution.expandable_segments
        return TracedRun(asked.family, shapes, asked.model, self.device, self.calibration, overheads, expandable)
