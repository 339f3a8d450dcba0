"""The bounds that predicted step times should keep, given the machine's own repeat noise."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.device import DeviceType
from advisor.experiments.validation.noise import RepeatNoise
from advisor.experiments.validation.summary import Summary

MEDIAN_LIMIT: dict[DeviceType, float] = {"cpu": 0.08, "cuda": 0.05}
P90_LIMIT: dict[DeviceType, float] = {"cpu": 0.20, "cuda": 0.15}
NOISE_FACTOR = 1.5
"""On CPU the bounds follow the repeat noise of the same run where that is larger."""
LEAST_CASES, LEAST_INTERVALS = 60, 200
"""Fewer say little; the figure is shown without a verdict."""
LEAST_PAIRS = 6
"""Cases measured twice that it takes to move a bound."""
RIGHT_ORDER = 0.95
COVERAGE = (0.85, 0.95)
"""Of 90 % intervals."""


@dataclass(frozen=True)
class TimeBar:
    """One bound.

    Attributes:
        low, high: The figure should lie between; ``None`` where there is no such end.
        passed: ``None`` where there is no figure or too little stands behind it.
        note: How the bound came about, or what is missing.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    passed: bool | None
    note: str = ""


def time_bars(
    errors: Summary | None,
    noise: RepeatNoise,
    right_order: float | None,
    coverage: float | None,
    intervals: int,
    device_type: DeviceType,
) -> tuple[TimeBar, ...]:
    """The bars of a run's step times.

    Args:
        errors: Of all cases that count.
        noise: Of the run.
        right_order: Share of truly different pairs that are put in the right order.
        coverage: Share of intervals that held the measured figure.
        intervals: How many there are.
        device_type: Where it ran.
    """
    count = errors.count if errors is not None else 0
    enough = "" if count >= LEAST_CASES else f"{count} of the {LEAST_CASES} cases that it takes"
    few_intervals = "" if intervals >= LEAST_INTERVALS else f"{intervals} of the {LEAST_INTERVALS} that it takes"
    between = noise.between if device_type == "cpu" and noise.pairs >= LEAST_PAIRS else None
    median_high, median_note = _limit(MEDIAN_LIMIT[device_type], between.median if between else None)
    p90_high, p90_note = _limit(P90_LIMIT[device_type], between.p90 if between else None)
    return (
        _bar("step time median", errors.median if errors else None, None, median_high, enough, median_note),
        _bar("step time p90", errors.p90 if errors else None, None, p90_high, enough, p90_note),
        _bar("pairs in the right order", right_order, RIGHT_ORDER, None, enough),
        _bar("inside the 90 % interval", coverage, *COVERAGE, few_intervals),
    )


def _limit(limit: float, noise: float | None) -> tuple[float, str]:
    """The bound, or what the machine's noise makes of it."""
    if noise is None or NOISE_FACTOR * noise <= limit:
        return limit, ""
    return NOISE_FACTOR * noise, f"{NOISE_FACTOR} x the repeat noise"


def _bar(
    name: str, value: float | None, low: float | None, high: float | None, missing: str, note: str = ""
) -> TimeBar:
    passed = None
    if value is not None and not missing:
        passed = (low is None or value >= low) and (high is None or value <= high)
    return TimeBar(name, value, low, high, passed, "; ".join(filter(None, (note, missing))))
