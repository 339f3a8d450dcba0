"""From raw points to a calibration: every fit made again, so that points of several runs and files count together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from advisor.calibration.class_table import fit_classes
from advisor.calibration.cross_validation import (
    held_out_error,
    held_out_errors,
    residual_relative,
    step_spread,
    transfer_errors,
)
from advisor.calibration.profiled_ops import calls_in_steps
from advisor.calibration.provenance import now_iso
from advisor.calibration.step_fit import evaluation_samples, fit_model_ratios, fit_resident, fit_step, step_samples
from advisor.core.coefficients import Calibration, ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile
from advisor.costmodel.time.device_rates import DeviceRates
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import overlap_power


def refit(
    device: DeviceProfile, versions: dict[str, str], replays: Sequence[ReplayPoint], points: Sequence[StepPoint]
) -> Calibration:
    """Fit everything that raw points allow, and judge it by holding parts of the points back in turn.

    Args:
        device: Where the points were measured.
        versions: With which they were measured.
        replays: Operators timed alone.
        points: Measured steps.

    Returns:
        A calibration without provenance, notes and duration, which only the caller knows.
    """
    classes, operators = fit_classes([*replays, *calls_in_steps(points)], DeviceRates(device))
    table = Calibration(device.id, versions, now_iso(), classes, operators)
    clock = OperatorClock(device, table)
    samples = step_samples(points, clock)
    power = overlap_power(device.type)
    step, errors = fit_step(samples, power), held_out_errors(device, replays, points)
    evaluation = fit_step(evaluation_samples(points, clock), power)
    if step is not None:
        elsewhere = transfer_errors(device, replays, points)
        held_back = {
            "residual_relative": residual_relative(errors),
            "transfer_relative": residual_relative(elsewhere) if elsewhere else None,
            "residual": step_spread(errors, points),
            "transfer": step_spread(elsewhere, points),
        }
        step = dataclasses.replace(step, **held_back)  # type: ignore[arg-type]
        if evaluation is not None:
            evaluation = dataclasses.replace(evaluation, **held_back)  # type: ignore[arg-type]
    return dataclasses.replace(
        table,
        step=step,
        evaluation=evaluation,
        model_ratios=fit_model_ratios(samples, step),
        resident=fit_resident(list(points)) if device.type == "cpu" else None,
        held_out=held_out_error(errors),
        replays=tuple(replays),
        points=tuple(points),
    )
