"""Predicted against measured memory: errors by group, coverage of the intervals, and the verdicts of ``fits``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from advisor.core.plan import ExecutionPlan
from advisor.experiments.error_statistics import (
    AcceptanceThreshold,
    ErrorGroup,
    LargestError,
    error_groups,
    largest_errors,
    threshold,
)
from advisor.experiments.validation.records import QUANTITIES, Record
from advisor.hardware.backends import get_backend

WORST = 5
SIZES = ((1e7, "below 10M"), (1e8, "10M-100M"), (5e8, "100M-500M"), (2e9, "0.5B-2B"), (5e9, "2B-5B"))
LARGEST = "above 5B"
GROUPINGS = dict.fromkeys(("method", "size", "attention", "optimizer", "checkpointing", "precision"), "parameters")
"""Groups of every kind in the order of their smallest model."""
LIMITS = (("allocated_bytes", "worst", 0.001),)
CARD_LIMITS = (
    ("allocated_bytes", "median", 0.01),
    ("allocated_bytes", "worst", 0.03),
    ("reserved_bytes", "median", 0.03),
    ("reserved_bytes", "worst", 0.08),
    ("device_bytes", "median", 0.05),
)
MOST_FALSE_REFUSALS = 0.05


@dataclass(frozen=True)
class FitVerdicts:
    """Predicted ``fits`` against what happened.

    Attributes:
        fitted_and_ran, refused_and_out_of_memory: Right.
        violations: Labels of cases that were predicted to fit and ran out of memory.
        false_refusals: Labels of cases that were predicted not to fit and ran.
    """

    fitted_and_ran: int
    refused_and_out_of_memory: int
    violations: tuple[str, ...]
    false_refusals: tuple[str, ...]

    @property
    def false_refusal_share(self) -> float:
        """Of the cases that ran."""
        ran = self.fitted_and_ran + len(self.false_refusals)
        return len(self.false_refusals) / ran if ran else 0.0


@dataclass(frozen=True)
class MemoryComparison:
    """Everything that a table of memory errors shows.

    Attributes:
        outcomes: Cases by how they ended.
        groups: All cases first, then by what they share: ``"method"``, ``"size"``, ``"attention"``, ``"optimizer"``,
            ``"checkpointing"``, ``"precision"``.
        worst: The largest errors of every quantity.
    """

    outcomes: dict[str, int]
    groups: tuple[ErrorGroup, ...]
    fits: FitVerdicts
    thresholds: tuple[AcceptanceThreshold, ...]
    worst: tuple[LargestError, ...]


def compare_memory(records: Iterable[Record], device_type: str) -> MemoryComparison:
    """Compare every completed case with its prediction, and every ending with ``fits``; each configuration once."""
    once = sorted((record for record in records if not record.again), key=lambda record: record.label)
    rows = pd.DataFrame([row for record in once if record.outcome == "completed" for row in _rows(record)])
    groups, fits = error_groups(rows, GROUPINGS), _fits(once)
    return MemoryComparison(
        outcomes=dict(Counter(record.outcome for record in once)),
        groups=groups,
        fits=fits,
        thresholds=_thresholds(groups, fits, device_type),
        worst=() if rows.empty else largest_errors(rows, WORST),
    )


def _rows(record: Record) -> list[dict[str, Any]]:
    """A row per quantity; one without a figure has no error."""
    execution, amp = record.execution, record.execution.get("amp")
    case = {
        "key": record.key,
        "label": record.label,
        "parameters": record.total_parameters,
        "method": record.method,
        "size": next((name for limit, name in SIZES if record.total_parameters < limit), LARGEST),
        "attention": str(execution.get("attn_implementation")),
        "optimizer": str(execution.get("optim", ExecutionPlan.optim)),
        "checkpointing": "on" if execution.get("gradient_checkpointing") else "off",
        "precision": str(execution.get("dtype", ExecutionPlan.dtype)) + (f" + {amp} amp" if amp else ""),
    }
    rows = []
    for quantity in QUANTITIES:
        low, high = record.predicted.intervals.get(quantity, (None, None)) if record.predicted else (None, None)
        figures = {
            "quantity": quantity,
            "predicted": getattr(record.predicted, quantity, None),
            "measured": getattr(record.measured, quantity, None),
            "error": record.relative_error(quantity),
        }
        rows.append({**case, **figures, "low": low, "high": high})
    return rows


def _fits(records: Sequence[Record]) -> FitVerdicts:
    def labels(fits: bool, outcome: str) -> tuple[str, ...]:
        return tuple(r.label for r in records if r.predicted and r.predicted.fits is fits and r.outcome == outcome)

    return FitVerdicts(
        fitted_and_ran=len(labels(True, "completed")),
        refused_and_out_of_memory=len(labels(False, "out_of_memory")),
        violations=labels(True, "out_of_memory"),
        false_refusals=labels(False, "completed"),
    )


def _thresholds(groups: Sequence[ErrorGroup], fits: FitVerdicts, device_type: str) -> tuple[AcceptanceThreshold, ...]:
    errors = groups[0].errors if groups else {}
    decided = bool(groups) or bool(fits.violations) or bool(fits.refused_and_out_of_memory)
    missing = "" if decided else "no case ran"
    return (
        *(
            threshold(f"{quantity} {statistic}", getattr(errors.get(quantity), statistic, None), high=limit)
            for quantity, statistic, limit in (LIMITS if get_backend(device_type).is_host else CARD_LIMITS)
        ),
        threshold("fits but ran out of memory", float(len(fits.violations)), high=0.0, missing=missing, unit="cases"),
        threshold("false refusals", fits.false_refusal_share, high=MOST_FALSE_REFUSALS, missing=missing),
    )
