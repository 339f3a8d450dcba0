"""A step that the calibration measured itself needs no prediction."""

from __future__ import annotations

import math
import statistics

from advisor.costmodel.calibration.record import Calibration, noise_relative
from advisor.costmodel.student import t_quantile_95
from advisor.costmodel.time.step import StepTime

PROCESS_SIGMA = 0.05
"""Relative standard deviation between processes that take the same steps: over 16 configurations of a quiet machine the
medians of two processes differed by 3.4 % in the median, one pair in ten by 16 %."""


def measured_step(calibration: Calibration | None, configuration: str) -> StepTime | None:
    """The median of the repeats of exactly this configuration and shape; ``None`` where there are none.

    Args:
        calibration: Of the device, made with the versions in use.
        configuration: ``configuration_key`` of what is asked for.
    """
    if calibration is None or calibration.transferred:
        return None
    times = [p.step_times_s for p in calibration.points if p.configuration == configuration]
    if not times:
        return None
    seconds = statistics.median(statistics.median(repeats) for repeats in times)
    noise = max(noise_relative(repeats) for repeats in times)
    sigma = math.hypot(PROCESS_SIGMA, noise) * math.sqrt(1 + 1 / len(times))
    half = t_quantile_95(sum(len(repeats) for repeats in times) - 1) * sigma
    return StepTime(seconds, seconds / (1 + half), seconds * (1 + half), "measured", "measured")
