"""Predicted against measured step times, beside the machine's own noise and two rules of thumb."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.experiments.error_statistics import (
    AcceptanceThreshold,
    ErrorGroup,
    ErrorStatistics,
    LargestError,
    error_groups,
    error_statistics,
    largest_errors,
    percentile,
    relative_spread,
    threshold,
)
from advisor.experiments.validation.baselines import rule_of_thumb_s
from advisor.experiments.validation.records import Record
from advisor.hardware.backends import get_backend

WORST = 8
DIFFERENT = 0.15
"""Two step times that differ by more than this share should be predicted in the right order."""
STEADY_WITHIN = 0.10
"""A case is steady whose reference workload took within this share of the run's median."""
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)
GROUPINGS = {"method": None, "model": None, "tokens": "token_count", "switch": None}

MEDIAN_LIMIT, P90_LIMIT = 0.08, 0.20
CARD_MEDIAN_LIMIT, CARD_P90_LIMIT = 0.05, 0.15
NOISE_FACTOR = 1.5
"""On CPU the limits follow the repeat noise of the same run where that is larger."""
LEAST_CASES, LEAST_INTERVALS = 60, 200
"""Fewer say little; the figure is shown without a verdict."""
LEAST_PAIRS = 6
"""Cases measured twice that it takes to move a limit."""
RIGHT_ORDER = 0.95
COVERAGE = (0.85, 0.95)
"""Of 90 % intervals."""

_SWITCHES: dict[str, Callable[[Any], str]] = {
    "gradient_checkpointing": lambda value: "checkpointing",
    "amp": lambda value: f"amp {value}",
    "dtype": str,
    "attn_implementation": str,
    "optim": str,
    "gradient_accumulation_steps": lambda value: "accumulation",
    "padded": lambda value: "no padding",
    "loss": str,
}
"""How a field of ``ExecutionPlan`` that differs from its default is named in the table."""


@dataclass(frozen=True)
class RepeatNoise:
    """By how much the step time of one configuration varies.

    Attributes:
        pairs: Cases that were measured twice, each time in a process of its own, at different moments of the run.
        between: Errors of the first measurement against the second; no prediction can be better.
        cases: Cases with at least four repeats.
        within_median, within_p90: Over those cases, half the interquartile range of the repeats over their median.
    """

    pairs: int
    between: ErrorStatistics | None
    cases: int
    within_median: float | None
    within_p90: float | None


@dataclass(frozen=True)
class MachineDrift:
    """What the fixed reference workload took over the run.

    Attributes:
        count: Cases beside which it was timed.
        median_s: Its time, over the run.
        deviation: Of the cases' reference times from that median.
        ratios: By case: its reference over the run's median; above 1 the machine was slow.
    """

    count: int
    median_s: float | None
    deviation: ErrorStatistics | None
    ratios: dict[str, float]


@dataclass(frozen=True)
class PairOrder:
    """Pairs of cases whose measured step times differ by more than ``DIFFERENT``, and those predicted in that order."""

    pairs: int
    right: int
    share: float | None


@dataclass(frozen=True)
class Baseline:
    """The errors of one way to predict the step time, on the same cases.

    Attributes:
        name: ``"advisor"``, ``"two-ceiling roofline"`` or ``"6 x parameters x tokens / peak"``.
        plain: As it is.
        factor: Median of measured over predicted, over these very cases: the scale that suits them best.
        scaled: Errors after multiplying with it; not a prediction, because it knows what was measured.
    """

    name: str
    plain: ErrorStatistics
    factor: float
    scaled: ErrorStatistics


@dataclass(frozen=True)
class TimeComparison:
    """Everything that a table of step times shows.

    Attributes:
        cases: Timed cases with a prediction, each configuration once, without those that the calibration measured.
        seen: How many the calibration measured itself; they are in nothing below but ``noise`` and ``drift``.
        predictors: How many calibrations and versions made the predictions: more than one where a validation was
            resumed after calibrating again.
        groups: All cases first, then by ``"method"``, ``"model"``, ``"tokens"`` (per micro-batch) and ``"switch"``; a
            case with several switches is in several groups.
        steady: Errors of the cases beside which the machine was as fast as usual.
        baselines: The advisor first.
    """

    cases: int
    seen: int
    predictors: int
    groups: tuple[ErrorGroup, ...]
    steady: ErrorStatistics | None
    noise: RepeatNoise
    drift: MachineDrift
    order: PairOrder
    baselines: tuple[Baseline, ...]
    thresholds: tuple[AcceptanceThreshold, ...]
    worst: tuple[LargestError, ...]

    @property
    def errors(self) -> ErrorStatistics | None:
        """Of all cases; its coverage is that of the 90 % intervals."""
        return self.groups[0].errors.get("step_s") if self.groups else None


def compare_times(records: Iterable[Record], device_type: str, device: DeviceProfile | None = None) -> TimeComparison:
    """Compare every timed case that completed with its predicted step time.

    Args:
        records: Of a grid.
        device_type: Decides the thresholds.
        device: Whose rates a rule of thumb takes; without it that one is missing.
    """
    ran = [record for record in records if record.outcome == "completed" and record.step_s]
    noise, drift = repeat_noise(ran), machine_drift(ran)
    everything = [record for record in ran if not record.again and record.predicted is not None]
    timed = [record for record in everything if record.predicted and not record.predicted.seen]
    rows = pd.DataFrame([_row(record, drift.ratios.get(record.key)) for record in timed])
    groups, order = error_groups(rows, GROUPINGS), _order(rows)
    errors = groups[0].errors.get("step_s") if groups else None
    return TimeComparison(
        cases=len(timed),
        seen=len(everything) - len(timed),
        predictors=len({(p.calibration, p.code) for record in timed if (p := record.predicted) is not None}),
        groups=groups,
        steady=None if rows.empty else error_statistics(rows.loc[_steady(rows), "error"]),
        noise=noise,
        drift=drift,
        order=order,
        baselines=_baselines(timed, device),
        thresholds=time_thresholds(errors, noise, order.share, device_type),
        worst=() if rows.empty else largest_errors(rows, WORST),
    )


def repeat_noise(records: Sequence[Record]) -> RepeatNoise:
    """The noise of completed, timed cases, second measurements included."""
    first = {_configuration(record): record.step_s for record in records if not record.again}
    errors = []
    for record in records:
        first_s = first.get(_configuration(record)) if record.again else None
        if first_s and record.step_s:
            errors.append(first_s / record.step_s - 1)
    spreads = [spread for record in records if (spread := _spread(record)) is not None]
    return RepeatNoise(
        pairs=len(errors),
        between=error_statistics(errors),
        cases=len(spreads),
        within_median=statistics.median(spreads) if spreads else None,
        within_p90=percentile(spreads, 0.9) if spreads else None,
    )


def machine_drift(records: Sequence[Record]) -> MachineDrift:
    """How the time of the reference workload changed over the run.

    A case's own figure is the mean over before and after, each against the median of its kind: the first in a fresh
    process may differ from the one after the steps.
    """
    taken = {r.key: r.measured.reference_s for r in records if r.measured is not None and r.measured.reference_s}
    if not taken:
        return MachineDrift(0, None, None, {})
    # The one after the steps is the last, or the only one.
    times = pd.DataFrame({key: {"before": t[0] if len(t) > 1 else np.nan, "after": t[-1]} for key, t in taken.items()})
    ratios = times.div(times.median(axis=1), axis=0).mean()
    after_s = float(times.loc["after"].median())
    return MachineDrift(len(ratios), after_s, error_statistics(ratios - 1), ratios.to_dict())


def time_thresholds(
    errors: ErrorStatistics | None, noise: RepeatNoise, right_order: float | None, device_type: str
) -> tuple[AcceptanceThreshold, ...]:
    """The thresholds of a run's step times.

    Args:
        errors: Of all cases that count, with their coverage.
        noise: Of the run.
        right_order: Share of truly different pairs that are put in the right order.
        device_type: Where it ran.
    """
    count, intervals = (errors.count, errors.intervals) if errors is not None else (0, 0)
    enough = "" if count >= LEAST_CASES else f"{count} cases; a verdict needs {LEAST_CASES}"
    few_intervals = "" if intervals >= LEAST_INTERVALS else f"{intervals} intervals; a verdict needs {LEAST_INTERVALS}"
    backend = get_backend(device_type)
    median_limit, p90_limit = (MEDIAN_LIMIT, P90_LIMIT) if backend.is_host else (CARD_MEDIAN_LIMIT, CARD_P90_LIMIT)
    between = noise.between if backend.is_host and noise.pairs >= LEAST_PAIRS else None

    def limited(name: str, statistic: str, limit: float) -> AcceptanceThreshold:
        noise_limit = NOISE_FACTOR * getattr(between, statistic) if between is not None else 0.0
        note = f"{NOISE_FACTOR} x the repeat noise" if noise_limit > limit else ""
        value = getattr(errors, statistic, None)
        return threshold(name, value, high=max(limit, noise_limit), missing=enough, note=note)

    low, high = COVERAGE
    coverage = errors.coverage if errors is not None else None
    return (
        limited("step time median", "median", median_limit),
        limited("step time p90", "p90", p90_limit),
        threshold("pairs in the right order", right_order, low=RIGHT_ORDER, missing=enough),
        threshold("coverage of the 90 % intervals", coverage, low=low, high=high, missing=few_intervals),
    )


def _row(record: Record, reference_ratio: float | None) -> dict[str, Any]:
    """A timed case with its figures and the values of its groups."""
    predicted, measured_s, tokens = record.predicted, record.step_s or 0.0, record.rows * record.length
    low, high = (predicted.step_interval_s if predicted is not None else None) or (None, None)
    predicted_s = predicted.step_s if predicted is not None else 0.0
    switches = [
        name(value)
        for field, name in _SWITCHES.items()
        if (value := record.execution.get(field, getattr(ExecutionPlan, field))) != getattr(ExecutionPlan, field)
    ]
    return {
        "key": record.key,
        "label": record.label,
        "quantity": "step_s",
        "predicted": predicted_s,
        "measured": measured_s,
        "error": predicted_s / measured_s - 1,
        "low": low,
        "high": high,
        "spread": _spread(record),
        "reference_ratio": reference_ratio,
        "method": record.method,
        "model": record.model,
        "token_count": tokens,
        "tokens": next((f"up to {limit}" for limit in TOKENS if tokens <= limit), f"above {TOKENS[-1]}"),
        "switch": switches or ["none"],
    }


def _steady(rows: pd.DataFrame) -> pd.Series:
    return (rows["reference_ratio"].astype(float) - 1).abs() <= STEADY_WITHIN


def _spread(record: Record) -> float | None:
    return relative_spread(record.measured.step_times_s) if record.measured is not None else None


def _configuration(record: Record) -> str:
    """Everything that a second measurement has in common with the first."""
    knobs = json.dumps([record.knobs, record.execution], sort_keys=True)
    return f"{record.config_hash} {record.task} {record.method} {record.rows}x{record.length} {knobs}"


def _order(rows: pd.DataFrame) -> PairOrder:
    if rows.empty:
        return PairOrder(0, 0, None)
    measured, predicted = rows["measured"].to_numpy(), rows["predicted"].to_numpy()
    slower = measured[:, None] > (1 + DIFFERENT) * measured
    pairs, right = int(slower.sum()), int((slower & (predicted[:, None] > predicted)).sum())
    return PairOrder(pairs, right, right / pairs if pairs else None)


def _baselines(timed: Sequence[Record], device: DeviceProfile | None) -> tuple[Baseline, ...]:
    def roofline_s(record: Record) -> float | None:
        work = record.predicted.work if record.predicted is not None else None
        return work.roofline_s if work is not None else None

    ways: dict[str, Callable[[Record], float | None]] = {
        "advisor": lambda record: record.predicted.step_s if record.predicted is not None else None,
        "two-ceiling roofline": roofline_s,
        "6 x parameters x tokens / peak": lambda record: rule_of_thumb_s(record, device) if device else None,
    }
    found = []
    for name, predict_s in ways.items():
        pairs = [(predict_s(record), record.step_s) for record in timed]
        ratios = pd.Series(
            [predicted_s / measured_s for predicted_s, measured_s in pairs if predicted_s and measured_s]
        )
        plain = error_statistics(ratios - 1)
        if plain is not None:
            factor = float(1 / ratios.median())
            scaled = error_statistics(factor * ratios - 1)
            found.append(Baseline(name, plain, factor, scaled or plain))
    return tuple(found)
