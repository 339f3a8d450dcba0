"""Efficiencies of a datasheet fitted to steps, and steps timed with them, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.calibration.datasheet import StepWork, TimedStep, check_fittable, fit_works
from advisor.core.device import DeviceProfile
from advisor.costmodel.time.device_rates import Efficiencies, datasheet_efficiencies
from advisor.costmodel.time.operator_times import OperatorClock, OperatorSeconds
from advisor.costmodel.time.step import optimizer_step, phase_seconds, side_by_side
from advisor.hardware.backends import backend_of


def fit_efficiencies(steps: Sequence[TimedStep], device: DeviceProfile) -> Efficiencies:
    """Fit the efficiencies to measured steps."""
    check_fittable([step.seconds for step in steps], device)
    return fit_works([StepWork(step, device) for step in steps], device)


def spread_steps(steps: Sequence[TimedStep], device: DeviceProfile, number: int) -> list[int]:
    """Which steps to fit on: the most different ones by device time, number of operators and time per operator.

    Greedy: the middle one first, then always the one farthest from those chosen.
    """
    assumed = datasheet_efficiencies(device)
    totals = [step_total(step, OperatorClock(device, tf32=step.tf32, efficiencies=assumed)) for step in steps]
    points = np.log([[total.device_s, total.operators] for total in totals])
    points = (points - np.median(points, axis=0)) / np.maximum(points.std(axis=0), 1e-9)
    chosen = [int(np.argmin((points**2).sum(axis=1)))]
    while len(chosen) < min(number, len(steps)):
        distances = ((points[:, None] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        distances[chosen] = -1.0
        chosen.append(int(np.argmax(distances)))
    return chosen


def step_seconds(step: TimedStep, device: DeviceProfile, efficiencies: Efficiencies) -> float:
    """Time of the step's operators under these efficiencies."""
    clock = OperatorClock(device, tf32=step.tf32, efficiencies=efficiencies)
    total = step_total(step, clock)
    host_s = total.operators * efficiencies.host_s_per_operator
    return side_by_side(host_s, total.device_s, backend_of(device).overhead.overlap_power)


def step_total(step: TimedStep, clock: OperatorClock) -> OperatorSeconds:
    """All operators of the step by this clock."""
    return optimizer_step(phase_seconds(step.operators, clock), step.gradient_accumulation_steps)
