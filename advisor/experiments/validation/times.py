"""How far predicted and measured step times are apart, beside the machine's own noise and two rules of thumb."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from advisor.core.device import DeviceProfile, DeviceType
from advisor.experiments.validation.baselines import rule_of_thumb_s
from advisor.experiments.validation.noise import Drift, RepeatNoise, machine_drift, relative_spread, repeat_noise
from advisor.experiments.validation.record import Record
from advisor.experiments.validation.summary import Summary, summarize
from advisor.experiments.validation.time_bars import TimeBar, time_bars
from advisor.experiments.validation.time_groups import TIME_GROUPINGS

WORST = 8
DIFFERENT = 0.15
"""Two step times that differ by more than this share should be put in the right order."""


@dataclass(frozen=True)
class TimeGroup:
    """Cases that share a value; one with several switches is in several groups.

    Attributes:
        by: What they share: ``"all"``, ``"method"``, ``"model"``, ``"tokens"`` (per micro-batch) or ``"switch"``.
    """

    by: str
    value: str
    errors: Summary


@dataclass(frozen=True)
class PairOrder:
    """Pairs of cases whose measured step times differ by more than ``DIFFERENT``, and those predicted in that order."""

    pairs: int
    right: int
    share: float | None


@dataclass(frozen=True)
class Coverage:
    """Cases with a 90 % interval, and those whose measured step time it held."""

    count: int
    inside: int
    share: float | None


@dataclass(frozen=True)
class Rival:
    """The errors of one way to tell the step time, on the same cases.

    Attributes:
        name: ``"advisor"``, ``"two-ceiling roofline"`` or ``"6 x parameters x tokens / peak"``.
        plain: As it is.
        factor: Median of measured over told, over these very cases: what suits them best.
        scaled: Errors after multiplying with it; not a prediction, because it knows what was measured.
    """

    name: str
    plain: Summary
    factor: float
    scaled: Summary


@dataclass(frozen=True)
class WorstStep:
    """One of the largest errors.

    Attributes:
        reference_ratio: The machine's slowness beside it, as in ``Drift.ratios``.
        spread: Of its repeats.
    """

    label: str
    predicted_s: float
    measured_s: float
    error: float
    reference_ratio: float | None
    spread: float | None


@dataclass(frozen=True)
class TimeComparison:
    """Everything that a table of step times says.

    Attributes:
        cases: Timed cases with a prediction, each configuration once, those aside that the calibration measured.
        seen: How many the calibration measured itself; they are in nothing below but ``noise`` and ``drift``.
        predictors: How many calibrations and versions the predictions are from: more than one where a validation was
            resumed after calibrating again.
        groups: All cases first, then by what they share.
        steady: Errors of the cases beside which the machine was as fast as usual.
        rivals: The advisor first.
    """

    cases: int
    seen: int
    predictors: int
    groups: tuple[TimeGroup, ...]
    steady: Summary | None
    noise: RepeatNoise
    drift: Drift
    order: PairOrder
    coverage: Coverage
    rivals: tuple[Rival, ...]
    bars: tuple[TimeBar, ...]
    worst: tuple[WorstStep, ...]


@dataclass(frozen=True)
class _Timed:
    """A timed case with its figures at hand."""

    record: Record
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1


def compare_times(
    records: Iterable[Record], device_type: DeviceType, device: DeviceProfile | None = None
) -> TimeComparison:
    """Compare every timed case that ended with its predicted step time.

    Args:
        records: Of a grid.
        device_type: Decides the bars.
        device: Whose rates a rule of thumb takes; without it that one is missing.
    """
    ran = [record for record in records if record.outcome == "completed" and record.step_s]
    noise, drift = repeat_noise(ran), machine_drift(ran)
    everything = [_timed(record) for record in ran if not record.again and record.predicted is not None]
    timed = [case for case in everything if not (case.record.predicted and case.record.predicted.seen)]
    groups = _groups(timed)
    order, coverage = _order(timed), _coverage(timed)
    errors = groups[0].errors if groups else None
    return TimeComparison(
        cases=len(timed),
        seen=len(everything) - len(timed),
        predictors=len({(p.calibration, p.code) for case in timed if (p := case.record.predicted) is not None}),
        groups=groups,
        steady=summarize([case.error for case in timed if drift.is_steady(case.record.key)]),
        noise=noise,
        drift=drift,
        order=order,
        coverage=coverage,
        rivals=_rivals(timed, device),
        bars=time_bars(errors, noise, order.share, coverage.share, coverage.count, device_type),
        worst=_worst(timed, drift),
    )


def _timed(record: Record) -> _Timed:
    predicted_s = record.predicted.step_s if record.predicted is not None else 0.0
    return _Timed(record, predicted_s, record.step_s or 0.0)


def _groups(timed: Sequence[_Timed]) -> tuple[TimeGroup, ...]:
    groups = []
    by_size = sorted(timed, key=lambda case: case.record.rows * case.record.length)
    for by, values_of in TIME_GROUPINGS.items():
        members: dict[str, list[float]] = {}
        for case in by_size if by == "tokens" else timed:
            for value in values_of(case.record):
                members.setdefault(value, []).append(case.error)
        groups += [TimeGroup(by, value, found) for value, errors in members.items() if (found := summarize(errors))]
    return tuple(groups)


def _order(timed: Sequence[_Timed]) -> PairOrder:
    pairs = right = 0
    by_time = sorted(timed, key=lambda case: case.measured_s)
    for index, fast in enumerate(by_time):
        for slow in by_time[index + 1 :]:
            if slow.measured_s > (1 + DIFFERENT) * fast.measured_s:
                pairs += 1
                right += slow.predicted_s > fast.predicted_s
    return PairOrder(pairs, right, right / pairs if pairs else None)


def _coverage(timed: Sequence[_Timed]) -> Coverage:
    count = inside = 0
    for case in timed:
        interval = case.record.predicted.step_interval_s if case.record.predicted is not None else None
        if interval is not None:
            count += 1
            inside += interval[0] <= case.measured_s <= interval[1]
    return Coverage(count, inside, inside / count if count else None)


def _rivals(timed: Sequence[_Timed], device: DeviceProfile | None) -> tuple[Rival, ...]:
    def roofline_s(case: _Timed) -> float | None:
        work = case.record.predicted.work if case.record.predicted is not None else None
        return work.roofline_s if work is not None else None

    ways: dict[str, Callable[[_Timed], float | None]] = {
        "advisor": lambda case: case.predicted_s,
        "two-ceiling roofline": roofline_s,
        "6 x parameters x tokens / peak": lambda case: rule_of_thumb_s(case.record, device) if device else None,
    }
    rivals = []
    for name, tell in ways.items():
        ratios = [told / case.measured_s for case in timed if (told := tell(case))]
        if not ratios:
            continue
        factor = 1 / statistics.median(ratios)
        plain = summarize([ratio - 1 for ratio in ratios])
        scaled = summarize([factor * ratio - 1 for ratio in ratios])
        if plain is not None and scaled is not None:
            rivals.append(Rival(name, plain, factor, scaled))
    return tuple(rivals)


def _worst(timed: Sequence[_Timed], drift: Drift) -> tuple[WorstStep, ...]:
    return tuple(
        WorstStep(
            case.record.label,
            case.predicted_s,
            case.measured_s,
            case.error,
            drift.ratios.get(case.record.key),
            relative_spread(case.record),
        )
        for case in sorted(timed, key=lambda case: -abs(case.error))[:WORST]
    )
