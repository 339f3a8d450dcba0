"""A calibration fitted to raw points, and how well it predicts what it has not seen.

For the cross-validation parts of the steps are left out in turn, and everything, the class table included, is fitted
again without them.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from advisor.calibration.fit import (
    Floats,
    evaluation_samples,
    expected_seconds,
    fit_classes,
    fit_model_ratios,
    fit_resident,
    fit_step,
    step_samples,
)
from advisor.calibration.profiled_ops import calls_in_steps
from advisor.core.coefficients import Calibration, HeldOutError, ReplayPoint, StepPoint, StepSpread
from advisor.core.device import DeviceProfile
from advisor.core.units import now_iso
from advisor.costmodel.time.device_rates import DeviceRates
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import host_share
from advisor.hardware.backends import backend_of

FOLDS = 8
"""Each part of the points is predicted from the others; with fewer points than this every one is a part."""

LEAST_FOR_SPREAD = 12
"""Errors from which two parts of their spread are distinguished: with fewer, a single step may decide one of them."""
LEAST_SPREAD, MOST_SPREAD = 0.01, 3.0
UNTESTED_RESIDUAL = 0.3
"""Assumed of a fit to a single step, which nothing can test; a calibration of eight steps of one model came out at 0.1
on a quiet machine."""


def clock_from(device: DeviceProfile, replays: Sequence[ReplayPoint], points: Sequence[StepPoint]) -> OperatorClock:
    """The class table of these calls and steps."""
    classes, operators = fit_classes([*replays, *calls_in_steps(points)], DeviceRates(device))
    return OperatorClock(device, Calibration(device.id, {}, "", classes, operators))


def held_out_errors(
    device: DeviceProfile, replays: Sequence[ReplayPoint], points: Sequence[StepPoint]
) -> tuple[float, ...]:
    """``predicted / measured - 1`` of every step, predicted without it and the others of its part.

    Replays stay: they are calls and not steps. Steps of one configuration are left out together. Empty with fewer than
    two configurations.
    """
    configurations = [p.same_steps for p in points]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(configurations))}
    if len(number_of) < 2:
        return ()
    folds = min(FOLDS, len(number_of))
    return _errors(device, replays, points, [number_of[key] % folds for key in configurations])


def transfer_errors(
    device: DeviceProfile, replays: Sequence[ReplayPoint], points: Sequence[StepPoint]
) -> tuple[float, ...]:
    """The same with all steps of a model left out at once: the error on an unseen model.

    Empty with fewer than two models.
    """
    keys = [p.model_key for p in points]
    return _errors(device, replays, points, keys) if len(set(keys)) > 1 else ()


def _errors(
    device: DeviceProfile,
    replays: Sequence[ReplayPoint],
    points: Sequence[StepPoint],
    groups: Sequence[int] | Sequence[str],
) -> tuple[float, ...]:
    """The error of every step, predicted from the steps of the other groups."""
    from sklearn.model_selection import LeaveOneGroupOut

    errors = [0.0] * len(points)
    for kept, left_out in LeaveOneGroupOut().split(errors, groups=groups):
        others = [points[index] for index in kept]
        clock = clock_from(device, replays, others)
        known = step_samples(others, clock)
        fit = fit_step(known, backend_of(device).overhead.overlap_power)
        if fit is None:
            continue
        ratios = fit_model_ratios(known, fit)
        for index, sample in zip(left_out, step_samples([points[i] for i in left_out], clock), strict=True):
            expected_s = ratios.get(sample.model_key, 1.0) * expected_seconds(fit, sample)
            errors[index] = expected_s / sample.seconds - 1
    return tuple(errors)


def held_out_error(errors: Sequence[float]) -> HeldOutError | None:
    """Their summary; ``None`` without errors."""
    if not errors:
        return None
    sizes = [abs(error) for error in errors]
    return HeldOutError(statistics.median(sizes), max(sizes), len(sizes), "cross-validation")


def step_spread(errors: Sequence[float], points: Sequence[StepPoint]) -> StepSpread | None:
    """The two parts of the spread that make these errors most likely; ``None`` with too few of them."""
    from scipy.optimize import minimize

    if len(errors) < LEAST_FOR_SPREAD:
        return None
    squares = np.array([_log_ratio(error) ** 2 for error in errors])
    shares = np.array([host_share(p.operators, p.median_s) for p in points])

    def surprise(logs: Floats) -> float:
        variances = np.exp(2 * logs[0]) + np.exp(2 * logs[1]) * shares**2
        return float(np.sum(np.log(variances) + squares / variances))

    least, most = math.log(LEAST_SPREAD), math.log(MOST_SPREAD)
    start = np.clip(math.log(max(residual_relative(errors), LEAST_SPREAD)), least, most)
    found = minimize(surprise, [start, start], bounds=[(least, most)] * 2)
    operators, host = np.exp(found.x)
    return StepSpread(float(operators), float(host))


def residual_relative(errors: Sequence[float]) -> float:
    """Root mean square of the logarithms of the ratios, so that half and double count the same."""
    if not errors:
        return UNTESTED_RESIDUAL
    return math.sqrt(statistics.fmean(_log_ratio(error) ** 2 for error in errors))


def _log_ratio(error: float) -> float:
    return math.log1p(max(error, -0.99))


def refit(device: DeviceProfile, calibration: Calibration) -> Calibration:
    """Fit everything that raw points allow, and judge it by cross-validation."""
    replays, points = calibration.replays, calibration.points
    classes, operators = fit_classes([*replays, *calls_in_steps(points)], DeviceRates(device))
    table = dataclasses.replace(calibration, created_at=now_iso(), classes=classes, operators=operators)
    clock = OperatorClock(device, table)
    samples = step_samples(points, clock)
    backend = backend_of(device)
    power = backend.overhead.overlap_power
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
        resident=fit_resident(list(points)) if backend.memory.allocator == "heap" else None,
        held_out=held_out_error(errors),
    )
