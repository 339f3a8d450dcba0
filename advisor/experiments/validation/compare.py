"""Predicted against measured: memory with the verdicts of ``fits``, and step times beside the machine's own noise and
two rules of thumb.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.experiments.error_statistics import (
    AcceptanceThreshold,
    ErrorRow,
    LargestError,
    error_rows,
    grouped,
    largest_errors,
    relative_spread,
    threshold,
)
from advisor.experiments.validation.baselines import rule_of_thumb_s
from advisor.experiments.validation.records import QUANTITIES, Record
from advisor.hardware.backends import get_backend

SIZES = ((1e7, "below 10M"), (1e8, "10M-100M"), (5e8, "100M-500M"), (2e9, "0.5B-2B"), (5e9, "2B-5B"))
LARGEST = "above 5B"
MEMORY_GROUPS = dict.fromkeys(("method", "size", "attention", "optimizer", "checkpointing", "precision"), "parameters")
"""Groups of every kind in the order of their smallest model."""
MEMORY_WORST = 5
MEMORY_LIMITS = (("allocated_bytes", "max", 0.001),)
CARD_MEMORY_LIMITS = (
    ("allocated_bytes", "p50", 0.01),
    ("allocated_bytes", "max", 0.03),
    ("reserved_bytes", "p50", 0.03),
    ("reserved_bytes", "max", 0.08),
    ("device_bytes", "p50", 0.05),
)
MOST_FALSE_REFUSALS = 0.05

TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)
TIME_GROUPS = {"method": None, "model": None, "tokens": "token_count", "switch": None}
TIME_WORST = 8
TIME_LIMITS, CARD_TIME_LIMITS = (("p50", 0.08), ("p90", 0.20)), (("p50", 0.05), ("p90", 0.15))
NOISE_FACTOR, LEAST_PAIRS = 1.5, 6
"""On a host the limits follow the repeat noise of the same run where that is larger, given so many pairs."""
LEAST_CASES, LEAST_INTERVALS = 60, 200
"""Fewer say little; the figure is shown without a verdict."""
DIFFERENT, RIGHT_ORDER = 0.15, 0.95
"""Two step times that differ by more than this share should be predicted in the right order, so often."""
COVERAGE = (0.85, 0.95)
"""Of 90 % intervals."""
STEADY_WITHIN = 0.10
"""A case is steady whose reference workload took within this share of the run's median."""

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


_FITS = {
    "fitted_and_ran": (True, "completed"),
    "refused_and_out_of_memory": (False, "out_of_memory"),
    "fitted_but_out_of_memory": (True, "out_of_memory"),
    "refused_but_ran": (False, "completed"),
}
"""Predicted ``fits`` and outcome; the first two were predicted right."""
_CONFIGURATION = ("config_hash", "task", "method", "rows", "length", "knobs", "execution")
"""Everything that a second measurement of a case has in common with the first."""


@dataclass(frozen=True)
class MemoryComparison:
    """Everything that a table of memory errors shows.

    Attributes:
        outcomes: Cases by how they ended.
        errors: Of all cases, then by ``"method"``, ``"size"`` of the model, ``"attention"``, ``"optimizer"``,
            ``"checkpointing"`` and ``"precision"``.
        fits: Labels of the cases by predicted ``fits`` and ending: ``fitted_and_ran``, ``refused_and_out_of_memory``
            (both right), ``fitted_but_out_of_memory``, ``refused_but_ran``.
        worst: The largest errors of every quantity.
    """

    outcomes: dict[str, int]
    errors: tuple[ErrorRow, ...]
    fits: dict[str, tuple[str, ...]]
    thresholds: tuple[AcceptanceThreshold, ...]
    worst: tuple[LargestError, ...]


@dataclass(frozen=True)
class TimeComparison:
    """Everything that a table of step times shows.

    Attributes:
        cases: Timed cases with a prediction, each configuration once, without those that the calibration measured.
        seen: How many the calibration measured itself; they only count for the noise.
        predictors: How many calibrations and versions made the predictions: more than one where a validation was
            resumed after calibrating again.
        errors: Of all cases, then by ``"method"``, ``"model"``, ``"tokens"`` (per micro-batch) and ``"switch"`` (a case
            with several is in several groups); of the ``"steady"`` cases, beside which the machine was as fast as
            usual; as ``"noise"`` the first against the second measurement of the cases that were measured twice, half
            the interquartile range of a case's repeats over their median, and the reference workload against its
            median; as ``"baseline"`` every way to predict the step time, as it is and with the factor that suits these
            very cases best, which is no prediction.
        reference_s: Median time of the reference workload.
        pairs, pairs_in_order: Pairs of cases that truly differ, and those predicted in the right order.
    """

    cases: int
    seen: int
    predictors: int
    errors: tuple[ErrorRow, ...]
    reference_s: float | None
    pairs: int
    pairs_in_order: int
    thresholds: tuple[AcceptanceThreshold, ...]
    worst: tuple[LargestError, ...]


def row_of(
    errors: Iterable[ErrorRow], by: str = "all", value: str = "all", quantity: str = "step_s"
) -> ErrorRow | None:
    """One row of a table of errors, if it is there."""
    return next((row for row in errors if (row.by, row.value, row.quantity) == (by, value, quantity)), None)


def compare_memory(records: Iterable[Record], device_type: str) -> MemoryComparison:
    """Compare every completed case with its prediction, and every ending with ``fits``; each configuration once."""
    once = sorted((record for record in records if not record.again), key=lambda record: record.label)
    cells = pd.DataFrame([cell for record in once if record.outcome == "completed" for cell in _memory_cells(record)])
    errors = error_rows(grouped(cells, MEMORY_GROUPS)) if len(cells) else ()
    judged = [(record.predicted.fits, str(record.outcome), record.label) for record in once if record.predicted]
    fits = {
        name: tuple(label for fit, outcome, label in judged if (fit, outcome) == ended) for name, ended in _FITS.items()
    }
    violations, refusals = len(fits["fitted_but_out_of_memory"]), len(fits["refused_but_ran"])
    ran = refusals + len(fits["fitted_and_ran"])
    missing = "" if errors or any(fits.values()) else "no case ran"
    thresholds = (
        *(
            threshold(f"{quantity} {figure}", getattr(row_of(errors, quantity=quantity), figure, None), high=limit)
            for quantity, figure, limit in (MEMORY_LIMITS if get_backend(device_type).is_host else CARD_MEMORY_LIMITS)
        ),
        threshold("fits but ran out of memory", float(violations), high=0.0, missing=missing, unit="cases"),
        threshold("false refusals", refusals / ran if ran else 0.0, high=MOST_FALSE_REFUSALS, missing=missing),
    )
    outcomes = dict(Counter(str(record.outcome) for record in once))
    return MemoryComparison(outcomes, errors, fits, thresholds, largest_errors(cells, MEMORY_WORST))


def compare_times(records: Iterable[Record], device_type: str, device: DeviceProfile | None = None) -> TimeComparison:
    """Compare every timed case that completed with its predicted step time.

    Args:
        records: Of a grid.
        device_type: Decides the thresholds.
        device: Whose rates a rule of thumb takes; without it that one is missing.
    """
    ran = [record for record in records if record.outcome == "completed" and record.step_s]
    if not ran:
        return TimeComparison(0, 0, 0, (), None, 0, 0, _time_thresholds((), 0, 0, device_type), ())
    cells = pd.DataFrame([_time_cell(record, device) for record in ran])
    references = cells[["before", "after"]].astype(float)
    # The first reference in a fresh process may differ from the one after the steps: each has its own median.
    cells["reference_ratio"] = (references / references.median()).mean(axis=1)
    once = cells[~cells["again"] & cells["predicted"].notna()]
    timed = once[~once["seen"]]
    steady = timed[(timed["reference_ratio"] - 1).abs() <= STEADY_WITHIN]
    steady = steady.assign(by="steady", value=f"machine within {STEADY_WITHIN:.0%}")
    errors = error_rows(pd.concat([grouped(timed, TIME_GROUPS), steady, *_noise(cells), *_baselines(timed)]))
    measured, predicted = timed["measured"].to_numpy(), timed["predicted"].to_numpy()
    slower = measured[:, None] > (1 + DIFFERENT) * measured
    pairs, in_order = int(slower.sum()), int((slower & (predicted[:, None] > predicted)).sum())
    after_s = references["after"].median()
    return TimeComparison(
        cases=len(timed),
        seen=len(once) - len(timed),
        predictors=len(timed["predictor"].unique()),
        errors=errors,
        reference_s=None if pd.isna(after_s) else float(after_s),
        pairs=pairs,
        pairs_in_order=in_order,
        thresholds=_time_thresholds(errors, pairs, in_order, device_type),
        worst=largest_errors(timed, TIME_WORST),
    )


def _memory_cells(record: Record) -> list[dict[str, Any]]:
    """One per quantity; one without a figure has no error."""
    execution, amp, predicted = record.execution, record.execution.get("amp"), record.predicted
    case = {
        "label": record.label,
        "parameters": record.total_parameters,
        "method": record.method,
        "size": next((name for limit, name in SIZES if record.total_parameters < limit), LARGEST),
        "attention": str(execution.get("attn_implementation")),
        "optimizer": str(execution.get("optim", ExecutionPlan.optim)),
        "checkpointing": "on" if execution.get("gradient_checkpointing") else "off",
        "precision": str(execution.get("dtype", ExecutionPlan.dtype)) + (f" + {amp} amp" if amp else ""),
    }
    cells = []
    for quantity in QUANTITIES:
        low, high = predicted.intervals.get(quantity, (None, None)) if predicted is not None else (None, None)
        figures = {"quantity": quantity, "error": record.relative_error(quantity), "low": low, "high": high}
        sides = {"predicted": getattr(predicted, quantity, None), "measured": getattr(record.measured, quantity, None)}
        cells.append({**case, **figures, **sides})
    return cells


def _time_cell(record: Record, device: DeviceProfile | None) -> dict[str, Any]:
    predicted, tokens = record.predicted, record.rows * record.length
    times, references = (m.step_times_s, m.reference_s) if (m := record.measured) is not None else ((), ())
    low, high = (predicted.step_interval_s if predicted is not None else None) or (None, None)
    predicted_s, measured_s = predicted.step_s if predicted is not None else None, record.step_s or 0.0
    switches = [
        name(value)
        for field, name in _SWITCHES.items()
        if (value := record.execution.get(field, getattr(ExecutionPlan, field))) != getattr(ExecutionPlan, field)
    ]
    return {
        "label": record.label,
        "configuration": json.dumps([getattr(record, name) for name in _CONFIGURATION], sort_keys=True),
        "again": bool(record.again),
        "seen": predicted is not None and predicted.seen,
        "predictor": (predicted.calibration, predicted.code) if predicted is not None else None,
        "quantity": "step_s",
        "predicted": predicted_s,
        "measured": measured_s,
        "error": predicted_s / measured_s - 1 if predicted_s is not None else None,
        "low": low,
        "high": high,
        "spread": relative_spread(times),
        "before": references[0] if len(references) > 1 else None,
        "after": references[-1] if references else None,
        "roofline": predicted.work.roofline_s if predicted is not None and predicted.work is not None else None,
        "rule_of_thumb": rule_of_thumb_s(record, device) if device is not None else None,
        "method": record.method,
        "model": record.model,
        "token_count": tokens,
        "tokens": next((f"up to {limit}" for limit in TOKENS if tokens <= limit), f"above {TOKENS[-1]}"),
        "switch": switches or ["none"],
    }


def _noise(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """How much the machine itself varies: between two measurements of a case, between its repeats, over the run."""
    first = cells[~cells["again"]].drop_duplicates("configuration", keep="last").set_index("configuration")["measured"]
    twice = cells[cells["again"]]
    figures: Mapping[str, Any] = {
        "measured twice": twice["configuration"].map(first).astype(float) / twice["measured"] - 1,
        "repeats of one case": cells["spread"],
        "reference workload": cells["reference_ratio"] - 1,
    }
    return [pd.DataFrame({"by": "noise", "value": v, "quantity": "step_s", "error": e}) for v, e in figures.items()]


def _baselines(timed: pd.DataFrame) -> list[pd.DataFrame]:
    """Every way to predict the step time, on the same cases; no user could know the best factor beforehand."""
    columns = {"advisor": "predicted", "two-ceiling roofline": "roofline"}
    columns["6 x parameters x tokens / peak"] = "rule_of_thumb"
    parts = []
    for name, column in columns.items():
        ratios = (timed[column].astype(float) / timed["measured"]).replace(0.0, np.nan).dropna()
        factor = 1 / ratios.median() if len(ratios) else 1.0
        for value, errors in ((name, ratios - 1), (f"{name}, x {factor:.2f}", factor * ratios - 1)):
            parts.append(pd.DataFrame({"by": "baseline", "value": value, "quantity": "step_s", "error": errors}))
    return parts


def _time_thresholds(
    errors: tuple[ErrorRow, ...], pairs: int, in_order: int, device_type: str
) -> tuple[AcceptanceThreshold, ...]:
    overall, noise = row_of(errors), row_of(errors, "noise", "measured twice")
    count, intervals = (overall.count, overall.intervals) if overall is not None else (0, 0)
    few = "" if count >= LEAST_CASES else f"{count} cases; a verdict needs {LEAST_CASES}"
    few_intervals = "" if intervals >= LEAST_INTERVALS else f"{intervals} intervals; a verdict needs {LEAST_INTERVALS}"
    is_host = get_backend(device_type).is_host
    noisy = is_host and noise is not None and noise.count >= LEAST_PAIRS
    found = []
    for figure, limit in TIME_LIMITS if is_host else CARD_TIME_LIMITS:
        noise_limit = NOISE_FACTOR * getattr(noise, figure) if noisy else 0.0
        note = f"{NOISE_FACTOR} x the repeat noise" if noise_limit > limit else ""
        value = getattr(overall, figure, None)
        found.append(threshold(f"step time {figure}", value, high=max(limit, noise_limit), missing=few, note=note))
    share = in_order / pairs if pairs else None
    coverage = overall.coverage if overall is not None else None
    return (
        *found,
        threshold("pairs in the right order", share, RIGHT_ORDER, missing=few, note=f"{in_order} of {pairs}"),
        threshold("coverage of the 90 % intervals", coverage, *COVERAGE, missing=few_intervals),
    )
