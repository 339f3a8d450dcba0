"""Timing one small piece of work: warmed up, synchronised, repeated, median with spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

MIN_REPEATS = 5
NOISY_SPREAD = 0.15
"""A half spread above this makes a figure worth a warning: it moves a predicted step by more than its own 90 % interval
should."""


@dataclass(frozen=True)
class Timing:
    """Repeated wall-clock times of the same work.

    Attributes:
        median_s: Median of the repeats.
        spread: Half of the interquartile range, relative to the median.
        samples_s: The raw repeats, per call.
    """

    median_s: float
    spread: float
    samples_s: tuple[float, ...]


def summarise(samples_s: list[float]) -> Timing:
    """Median and relative half spread of at least one sample."""
    median = statistics.median(samples_s)
    if len(samples_s) < 4 or median <= 0:
        return Timing(median, 0.0, tuple(samples_s))
    low, _, high = statistics.quantiles(samples_s, n=4)
    return Timing(median, (high - low) / 2 / median, tuple(samples_s))


def time_call(
    work: Callable[[], object],
    *,
    budget_s: float,
    synchronize: Callable[[], object] | None = None,
    min_repeats: int = MIN_REPEATS,
    target_s: float = 1e-3,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time ``work`` until the budget is used up, at least ``min_repeats`` times.

    Work shorter than ``target_s`` is called several times per sample, because the clock and the interpreter would
    dominate. One call longer than the whole budget is repeated twice only.

    Args:
        work: Called without arguments; its result is dropped.
        budget_s: Wall clock to spend, warm-up included.
        synchronize: Waits for the device, called around every sample.
        min_repeats: Samples to take even when the budget runs out.
        target_s: Shortest sample.
        clock: Monotonic seconds.
    """
    sync = synchronize or (lambda: None)
    start = clock()
    work()
    sync()
    begin = clock()
    work()
    sync()
    once = max(clock() - begin, 1e-9)
    inner = max(1, round(target_s / once))
    repeats_needed = min_repeats if once * inner < budget_s else 2
    samples: list[float] = [once] if inner == 1 else []
    while len(samples) < repeats_needed or clock() - start < budget_s:
        begin = clock()
        for _ in range(inner):
            work()
        sync()
        samples.append((clock() - begin) / inner)
    return summarise(samples)
