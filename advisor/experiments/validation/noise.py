"""How much the machine itself varies: between the repeats of a case, between two measurements of it, over the run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.experiments.validation.record import Record
from advisor.experiments.validation.summary import Summary, percentile_90, summarize

STEADY_WITHIN = 0.10
"""A case is steady whose reference work load took within this share of the run's median."""


@dataclass(frozen=True)
class RepeatNoise:
    """What the same configuration's step time differs by.

    Attributes:
        pairs: Cases that were measured twice, each time in a process of its own, at different moments of the run.
        between: ``|first / second - 1|`` of their medians; no prediction can be better.
        cases: Cases with repeats.
        within_median, within_p90: Over the cases, half the interquartile range of their repeats over their median.
    """

    pairs: int
    between: Summary | None
    cases: int
    within_median: float | None
    within_p90: float | None


@dataclass(frozen=True)
class Drift:
    """What the fixed reference work load took over the run.

    Attributes:
        count: Cases beside which it was taken.
        median_s: Its time, over the run.
        deviation: Of the cases' reference times from that median.
        ratios: By case: its reference over the run's median; above 1 the machine was slow then.
    """

    count: int
    median_s: float | None
    deviation: Summary | None
    ratios: dict[str, float]

    def is_steady(self, key: str) -> bool:
        """Whether the machine was as fast as usual beside a case."""
        ratio = self.ratios.get(key)
        return ratio is not None and abs(ratio - 1) <= STEADY_WITHIN


def repeat_noise(records: Sequence[Record]) -> RepeatNoise:
    """The noise of completed, timed cases, second measurements included."""
    first = {_configuration(record): record for record in records if not record.again}
    errors = []
    for record in records:
        other = first.get(_configuration(record)) if record.again else None
        if other is not None and other.step_s and record.step_s:
            errors.append(other.step_s / record.step_s - 1)
    spreads = [spread for record in records if (spread := relative_spread(record)) is not None]
    return RepeatNoise(
        pairs=len(errors),
        between=summarize(errors),
        cases=len(spreads),
        within_median=statistics.median(spreads) if spreads else None,
        within_p90=percentile_90(spreads) if spreads else None,
    )


def relative_spread(record: Record) -> float | None:
    """Half the interquartile range of a case's repeats over their median; ``None`` below four of them."""
    times = record.measured.step_times_s if record.measured is not None else ()
    if len(times) < 4:
        return None
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def machine_drift(records: Sequence[Record]) -> Drift:
    """How the reference work load went along the cases.

    A case's own figure is the mean over before and after, each against the median of its kind: the first in a fresh
    process may differ from the one after the steps.
    """
    taken = {record.key: record.measured.reference_s for record in records if record.measured is not None}
    taken = {key: times for key, times in taken.items() if times}
    if not taken:
        return Drift(0, None, None, {})
    # A case that has both has the one after the steps last, as a case that has only that one.
    after_s = statistics.median(times[-1] for times in taken.values())
    before = [times[0] for times in taken.values() if len(times) > 1]
    before_s = statistics.median(before) if before else after_s
    ratios = {
        key: (times[0] / before_s + times[-1] / after_s) / 2 if len(times) > 1 else times[-1] / after_s
        for key, times in taken.items()
    }
    return Drift(len(ratios), after_s, summarize([ratio - 1 for ratio in ratios.values()]), ratios)


def _configuration(record: Record) -> str:
    """Everything that a second measurement has in common with the first."""
    knobs = json.dumps([record.knobs, record.execution], sort_keys=True)
    return f"{record.config_hash} {record.task} {record.method} {record.rows}x{record.length} {knobs}"
