"""Times of configurations on one device: of a step, of an evaluation batch, of a whole run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from advisor.core.coefficients import Calibration
from advisor.core.cost import Interval, TimeEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.lengths import padded_lengths
from advisor.costmodel.time.operator_times import (
    OperatorClock,
    OperatorSeconds,
    configuration_key,
    execution_key,
    model_key,
)
from advisor.costmodel.time.run import decode_speed, loaded_bytes, run_shape, run_time
from advisor.costmodel.time.step import (
    StepConditions,
    StepTime,
    measured_step,
    optimizer_step,
    step_time,
)
from advisor.strategies import get_strategy
from advisor.tracing.trace_store import TracedConfiguration


class TimeModel:
    """Predicts times on one device.

    Args:
        device: Its rates.
        calibration: What was measured on it; without one, times follow from the rates alone.
        watts: Mean power of earlier runs on it.
    """

    def __init__(self, device: DeviceProfile, calibration: Calibration | None, watts: Sequence[float] = ()) -> None:
        self.device, self.calibration, self._watts = device, calibration, watts
        self._clocks: dict[bool, OperatorClock] = {}

    def estimate(
        self,
        asked: TracedConfiguration,
        data: DataProfile | None,
        *,
        peak_bytes: int,
        merged: TracedConfiguration | None = None,
        whole: TracedConfiguration | None = None,
        served: TracedConfiguration | None = None,
        with_latency: bool = True,
    ) -> TimeEstimate:
        """Of a whole run over ``data``, or of one optimizer step at full length without data: as it was measured where
        the calibration has measured it.

        Args:
            asked: What is run.
            data: Lengths and row counts.
            peak_bytes: What is allocated at the peak.
            merged: The model with its adapters merged, where its latency is asked for.
            whole: The same with all layers running, where rows pass through them once and their features are kept.
            served: As the model is used, where that is less than what an evaluation does with it.
            with_latency: Leave latencies out where nobody asks for them: they are another forward pass to price.
        """
        found = self._run_or_step(asked, data, peak_bytes, whole)
        if not with_latency:
            return found
        length = _typical_length(data, asked.execution)
        latencies = {"latency_s": self.latency(served or whole or asked, length)}
        if merged is not None:
            latencies["merged_latency_s"] = self.latency(merged, length)
        intervals = {name: Interval(time.low, time.high) for name, time in latencies.items()}
        return dataclasses.replace(
            found,
            intervals=found.intervals | intervals,
            latency_s=latencies["latency_s"].seconds,
            merged_latency_s=latencies["merged_latency_s"].seconds if merged is not None else None,
        )

    def latency(self, asked: TracedConfiguration, seq_length: int) -> StepTime:
        """Of one forward pass of one row with ``seq_length`` tokens."""
        one_row = dataclasses.replace(asked.execution, eval_batch_size=1)
        return self.evaluation(dataclasses.replace(asked, execution=one_row), seq_length)

    def _run_or_step(
        self, asked: TracedConfiguration, data: DataProfile | None, peak_bytes: int, whole: TracedConfiguration | None
    ) -> TimeEstimate:
        execution = asked.execution
        if data is None:
            length = execution.max_seq_length
            key = configuration_key(asked.model, asked.strategy, execution, length)
            return _single_step(measured_step(self.calibration, key) or self.step(asked, length), execution)
        return run_time(
            lambda length: self.step(asked, length),
            data,
            asked.strategy,
            execution,
            self.device,
            evaluation_time_of=lambda length: self.evaluation(asked, length),
            first_pass_time_of=(lambda length: self.evaluation(whole, length)) if whole is not None else None,
            shape=run_shape(asked, peak_bytes=peak_bytes),
            decoding=self._decode_speed(asked) if asked.model.traits.predicts_next_token else None,
            watts=self._watts,
        )

    def step(self, asked: TracedConfiguration, seq_length: int) -> StepTime:
        """Of one optimizer step whose micro-batches all have ``seq_length`` tokens per row."""
        execution = asked.execution
        shape = asked.shape(execution.micro_batch_size, seq_length)
        phases = self._clock(execution).phase_seconds(asked.family.training_table, shape)
        work = optimizer_step(phases, execution.gradient_accumulation_steps)
        setting = _setting(asked, execution.micro_batch_size * seq_length)
        forward_only = get_strategy(asked.strategy.method).fits_frozen_features
        return step_time(work, self.device, self.calibration, setting, evaluation=forward_only)

    def evaluation(self, asked: TracedConfiguration, seq_length: int) -> StepTime:
        """Of one evaluation batch with ``seq_length`` tokens per row."""
        execution = asked.execution
        shape = asked.shape(execution.evaluation_batch_size, seq_length)
        phases = self._clock(execution).phase_seconds(asked.family.evaluation_table, shape)
        setting = _setting(asked, execution.evaluation_batch_size * seq_length)
        forward = phases.get("evaluation", OperatorSeconds())
        return step_time(forward, self.device, self.calibration, setting, evaluation=True)

    def _decode_speed(self, asked: TracedConfiguration) -> tuple[float, str] | None:
        operators = sum(asked.family.evaluation_table.counts)
        return decode_speed(loaded_bytes(asked), operators, self.device, self.calibration)

    def _clock(self, execution: ExecutionPlan) -> OperatorClock:
        if execution.tf32 not in self._clocks:
            self._clocks[execution.tf32] = OperatorClock(self.device, self.calibration, tf32=execution.tf32)
        return self._clocks[execution.tf32]


def _typical_length(data: DataProfile | None, execution: ExecutionPlan) -> int:
    """Padded tokens of a row of median length; of the longest where no data are known."""
    if data is None:
        return execution.max_seq_length
    return padded_lengths(data, 1, max_seq_length=execution.max_seq_length, padded=execution.padded).quantile(0.5)


def _setting(asked: TracedConfiguration, tokens: int) -> StepConditions:
    return StepConditions(model_key(asked.model), asked.strategy.method, execution_key(asked.execution), tokens)


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
