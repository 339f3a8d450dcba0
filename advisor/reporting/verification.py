"""Predicted against measured: every predicted figure beside the one that the run produced."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from advisor.core.cost import CostEstimate, Interval, TimeEstimate
from advisor.core.plan import Plan
from advisor.core.run import Measurement, Verification
from advisor.costmodel.time.run import optimizer_steps

QUALITY_QUANTITY = "quality.value"


def verify(plan: Plan, measurement: Measurement, *, resumed: bool = False) -> tuple[Verification, ...]:
    """Compare the predictions of a plan with the measurements of its run.

    Args:
        plan: With ``predicted`` filled in; a hand-written plan has no predictions and gives an empty result.
        measurement: Of the run of this very plan.
        resumed: The run continued from a checkpoint, so its wall clock is not that of a whole run.

    Returns:
        One verification per predicted figure: allocated, reserved and device peak, step and total time, quality,
        trainable parameters; speed and latency of inference, saved size and energy where they were measured. Figures
        that were predicted without an interval are left out.
    """
    if plan.predicted is None:
        return ()
    partial = resumed or stopped_early(plan, measurement)
    return tuple(_verifications(plan.predicted, measurement, plan.data_profile.eval_rows, partial=partial))


def stopped_early(plan: Plan, measurement: Measurement) -> bool:
    """Whether the run ended because its held-out figures did not improve any more, before all of its steps."""
    if plan.strategy.early_stopping_patience is None or not measurement.step_times_s:
        return False
    return len(measurement.step_times_s) < optimizer_steps(plan.data_profile, plan.strategy, plan.execution)


def _verifications(
    predicted: CostEstimate, measured: Measurement, eval_rows: int, *, partial: bool
) -> Iterator[Verification]:
    memory, time, quality = predicted.memory, predicted.time, predicted.quality
    peaks: dict[str, float | None] = {
        "allocated_bytes": measured.allocated_peak_bytes,
        "reserved_bytes": measured.reserved_peak_bytes,
        "device_bytes": measured.device_peak_bytes,
    }
    for name, peak_bytes in peaks.items():
        if name in memory.intervals and not (name == "reserved_bytes" and peak_bytes is None):
            yield _compare(f"memory.{name}", getattr(memory, name), peak_bytes, memory.intervals[name])
    if time is not None:
        whole = measured.outcome == "completed" and not partial
        step_s = statistics.median(measured.step_times_s) if measured.step_times_s else None
        for name, value_s in {"step_s": step_s, "total_s": measured.total_s if whole else None}.items():
            if name in time.intervals:
                yield _compare(f"time.{name}", getattr(time, name), value_s, time.intervals[name])
        if whole:
            yield from _measured_extras(time, measured, eval_rows)
        yield from _latencies(time, measured)
    if predicted.saved_bytes is not None and (saved := _core_figure(measured, "saved_bytes")) is not None:
        interval = predicted.saved_interval or Interval(predicted.saved_bytes, predicted.saved_bytes)
        yield _compare("saved_bytes", predicted.saved_bytes, saved, interval)
    if quality is not None and quality.value is not None and quality.interval is not None:
        value = quality.metric.measured(measured.metrics)
        yield _compare(QUALITY_QUANTITY, quality.value, value, quality.interval, difference=True)
    if measured.trainable_parameters:
        count = predicted.trainable_parameters
        yield _compare("trainable_parameters", count, measured.trainable_parameters, Interval(count, count, level=1.0))


def _measured_extras(time: TimeEstimate, measured: Measurement, eval_rows: int) -> Iterator[Verification]:
    """Figures that not every run can measure; left out where it could not."""
    passes = len(measured.metric_history)
    if time.inference is not None and measured.evaluation_s > 0 and passes:
        speed, interval = time.inference.samples_per_s, time.inference.intervals["samples_per_s"]
        yield _compare("time.inference.samples_per_s", speed, passes * eval_rows / measured.evaluation_s, interval)
    if time.energy_j is not None and measured.energy_j is not None and "energy_j" in time.intervals:
        yield _compare("time.energy_j", time.energy_j, measured.energy_j, time.intervals["energy_j"])


LATENCIES = {
    "latency_s": "inference_batch_1_latency_s",
    "merged_latency_s": "merged_inference_batch_1_latency_s",
}
"""Predicted figure and the one of the benchmark core that it is a prediction of."""


def _latencies(time: TimeEstimate, measured: Measurement) -> Iterator[Verification]:
    for name, figure in LATENCIES.items():
        value, seconds = getattr(time, name), _core_figure(measured, figure)
        if value is not None and seconds is not None and name in time.intervals:
            yield _compare(f"time.{name}", value, seconds, time.intervals[name])


def _core_figure(measured: Measurement, name: str) -> float | None:
    """A figure of the benchmark core; ``None`` where it was not measured."""
    found = measured.benchmark.efficiency.get(name) if measured.benchmark is not None else None
    return found.value if found is not None else None


def _compare(
    quantity: str, predicted: float, measured: float | None, interval: Interval, *, difference: bool = False
) -> Verification:
    error: float | None = None
    if measured is not None:
        error = predicted - measured if difference else predicted / measured - 1 if measured else None
    return Verification(
        *(quantity, predicted, measured, interval.low, interval.high),
        verdict="not measured" if measured is None else "inside" if interval.contains(measured) else "outside",
        relative_error=error,
    )
