"""Timing one small piece of work: warmed up, synchronised, repeated, median with spread; proof against bad clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from advisor.core.stats import half_iqr

MIN_REPEATS = 5
NOISY_SPREAD = 0.15
"""A half spread above this makes a figure worth a warning: it moves a predicted step by more than its own 90 % interval
should."""
MAX_SAMPLES = 2000
"""Ends the sampling when the clock does not advance; a second of one-millisecond samples stays below it."""
MAX_LOST_SAMPLES = 100
"""Samples that a clock may spoil by standing still or going backwards before the work counts as untimeable."""
MAX_CALLS = 100_000
"""Calls in one sample at most: enough to make the fastest operator (1 us) visible to a clock that ticks every 15 ms."""
OUTLIER = 10.0
"""A sample this many times the median is an interruption and no property of the work: it does not enter the spread."""
JUMP_S = 3600.0
"""No sample may take this long; one that seems to was interrupted by a clock that jumped, or by a sleeping machine."""
CFS_PERIOD_S = 0.1
"""Linux refills a cgroup's quota this often (``cpu.cfs_period_us`` = 100 ms unless set otherwise): samples that are
shorter see either the whole processor or none of it."""

QUICK_FIGURE_S, FULL_FIGURE_S = 0.1, 0.8
"""Longest time for one figure of a probe: more repeats than fit into it hardly narrow the spread."""


class ClockError(RuntimeError):
    """The clock gave no usable time."""


@dataclass(frozen=True)
class SamplingPolicy:
    """How samples are taken.

    Attributes:
        longest_s: Time for one figure at most.
        target_s: Shortest sample.
        min_repeats: Samples of a figure.
    """

    longest_s: float
    target_s: float = 1e-3
    min_repeats: int = MIN_REPEATS

    @classmethod
    def usual(cls, *, quick: bool) -> SamplingPolicy:
        """Short samples, as many as fit into a figure's time."""
        return cls(QUICK_FIGURE_S if quick else FULL_FIGURE_S)


@dataclass(frozen=True)
class Timing:
    """Repeated wall-clock times of the same work.

    Attributes:
        median_s: Median of the repeats.
        spread: Half of the interquartile range, relative to the median; without the outliers.
        samples_s: The raw repeats, per call.
        lost: Samples that the clock spoiled; not among ``samples_s``.
    """

    median_s: float
    spread: float
    samples_s: tuple[float, ...]
    lost: int = 0


def summarise(samples_s: list[float], lost: int = 0) -> Timing:
    """Median and relative half spread of at least one sample; of fewer than four the spread is half their range."""
    median = statistics.median(samples_s)
    usual = [sample for sample in samples_s if sample <= OUTLIER * median]
    if len(usual) < 2 or median <= 0:
        return Timing(median, 0.0, tuple(samples_s), lost)
    return Timing(median, half_iqr(usual) / median, tuple(samples_s), lost)


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
    dominate. One call longer than the whole budget is repeated twice only, if the two agree. A sample during which the
    clock stood still, went backwards or leapt by more than an hour is dropped; smaller leaps are outliers that the
    median ignores.

    Args:
        work: Called without arguments; its result is dropped.
        budget_s: Wall clock to spend, warm-up included.
        synchronize: Waits for the device, called around every sample.
        min_repeats: Samples to take even when the budget runs out.
        target_s: Shortest sample.
        clock: Monotonic seconds.

    Raises:
        ClockError: the clock spoiled every sample.
    """
    stopwatch = _Stopwatch(work, synchronize or (lambda: None), clock)
    stopwatch.sample(1)  # the first call loads, tunes and allocates
    inner, once = _calls_per_sample(stopwatch, target_s)
    repeats_needed = min_repeats if once is None or once * inner < budget_s else 2
    samples: list[float] = [once] if inner == 1 and once is not None else []
    while len(samples) < MAX_SAMPLES:
        agreed = len(samples) >= min_repeats or not samples or max(samples) <= 2 * min(samples)
        if len(samples) >= repeats_needed and stopwatch.spent_s >= budget_s and agreed:
            break
        elapsed = stopwatch.sample(inner)
        if elapsed is not None:
            samples.append(elapsed / inner)
        elif stopwatch.lost > MAX_LOST_SAMPLES:
            break
    if not samples:
        raise ClockError(f"the clock stood still or went backwards in all of {stopwatch.lost} samples")
    return summarise(samples, stopwatch.lost)


class _Stopwatch:
    """Times groups of calls and adds up what can be believed."""

    def __init__(
        self, work: Callable[[], object], synchronize: Callable[[], object], clock: Callable[[], float]
    ) -> None:
        self._work, self._synchronize, self._clock = work, synchronize, clock
        self.spent_s = 0.0
        self.lost = 0

    def sample(self, calls: int) -> float | None:
        """Seconds of that many calls; ``None`` when the clock was of no use."""
        work = self._work
        begin = self._clock()
        for _ in range(calls):
            work()
        self._synchronize()
        elapsed = self._clock() - begin
        if not 0.0 < elapsed < JUMP_S:
            self.lost += 1
            return None
        self.spent_s += elapsed
        return elapsed


def _calls_per_sample(stopwatch: _Stopwatch, target_s: float) -> tuple[int, float | None]:
    """How many calls make a sample of ``target_s``, and the time of one call.

    Grows by doubling from one call, as ``timeit.Timer.autorange`` does, so that one wrong reading can at most make the
    samples shorter than wanted and never a million times longer.
    """
    calls = 1
    while True:
        elapsed = stopwatch.sample(calls)
        if elapsed is not None and elapsed >= target_s / 2:
            once = elapsed / calls
            return max(1, min(2 * calls, round(target_s / once))), once
        if calls >= MAX_CALLS or stopwatch.lost > MAX_LOST_SAMPLES:
            return (1, None) if elapsed is None else (calls, elapsed / calls)
        calls = min(2 * calls, MAX_CALLS)
