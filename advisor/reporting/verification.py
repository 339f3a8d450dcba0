"""Predicted against measured: every predicted figure beside the one that the run produced."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from advisor.core.cost import CostEstimate, Interval, TimeEstimate
from advisor.core.plan import Plan
from advisor.core.run import Measurement, Verification

QUALITY_QUANTITY = "quality.value"


def verify(plan: Plan, measurement: Measurement, *, resumed: bool = False) -> tuple[Verification, ...]:
    """Compare the predictions of a plan with the measurements of its run.

    Args:
        plan: With ``predicted`` filled in; a hand-written plan has no predictions and gives an empty result.
        measurement: Of the run of this very plan.
        resumed: The run continued from a checkpoint, so its wall clock is not that of a whole run.

    Returns:
        One verification per predicted figure: allocated, reserved and device peak, step and total time, quality,
        trainable parameters; speed of inference and energy where they were measured. Figures that were
        predicted without an interval are left out.
    """
    if plan.predicted is None:
        return ()
    return tuple(_verifications(plan.predicted, measurement, plan.data_profile.eval_rows, resumed=resumed))


def _verifications(
    predicted: CostEstimate, measurement: Measurement, eval_rows: int, *, resumed: bool
) -> Iterator[Verification]:
    memory = predicted.memory
    measured_memory: dict[str, float | None] = {
        "allocated_bytes": measurement.allocated_peak_bytes,
        "reserved_bytes": measurement.reserved_peak_bytes,
        "device_bytes": measurement.device_peak_bytes,
    }
    for name, measured in measured_memory.items():
        if name in memory.intervals and not (name == "reserved_bytes" and measured is None):
            yield _compare(f"memory.{name}", getattr(memory, name), measured, memory.intervals[name])
    if predicted.time is not None:
        steps = measurement.step_times_s
        whole = measurement.outcome == "completed" and not resumed
        measured_time = {
            "step_s": statistics.median(steps) if steps else None,
            "total_s": measurement.total_s if whole else None,
        }
        for name, measured in measured_time.items():
            interval = predicted.time.intervals.get(name)
            if interval is not None:
                yield _compare(f"time.{name}", getattr(predicted.time, name), measured, interval)
        if whole:
            yield from _measured_extras(predicted.time, measurement, eval_rows)
    quality = predicted.quality
    if quality is not None and quality.value is not None and quality.interval is not None:
        measured_quality = quality.metric.measured(measurement.metrics)
        yield _compare(QUALITY_QUANTITY, quality.value, measured_quality, quality.interval, difference=True)
    if measurement.trainable_parameters:
        count = predicted.trainable_parameters
        exact = Interval(count, count, level=1.0)
        yield _compare("trainable_parameters", count, measurement.trainable_parameters, exact)


def _measured_extras(time: TimeEstimate, measurement: Measurement, eval_rows: int) -> Iterator[Verification]:
    """Figures that not every run can measure; left out where it could not."""
    passes = len(measurement.metric_history)
    if time.inference is not None and measurement.evaluation_s > 0 and passes:
        speed, interval = time.inference.samples_per_s, time.inference.intervals["samples_per_s"]
        measured = passes * eval_rows / measurement.evaluation_s
        yield _compare("time.inference.samples_per_s", speed, measured, interval)
    if time.energy_j is not None and measurement.energy_j is not None and "energy_j" in time.intervals:
        yield _compare("time.energy_j", time.energy_j, measurement.energy_j, time.intervals["energy_j"])


def _compare(
    quantity: str, predicted: float, measured: float | None, interval: Interval, *, difference: bool = False
) -> Verification:
    error: float | None = None
    if measured is not None:
        if difference:
            error = predicted - measured
        elif measured:
            error = predicted / measured - 1
    return Verification(
        quantity=quantity,
        predicted=predicted,
        measured=measured,
        low=interval.low,
        high=interval.high,
        verdict="not measured" if measured is None else "inside" if interval.contains(measured) else "outside",
        relative_error=error,
    )
