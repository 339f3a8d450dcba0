"""Finished runs against their plans: every verified figure, and the errors of all runs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from advisor.core.errors import InputError
from advisor.core.run import RunRecord
from advisor.core.serialization import from_dict, read_json
from advisor.experiments.error_statistics import AcceptanceThreshold, ErrorStatistics, statistics_of, threshold

TOTAL = "time.total_s"
MEDIAN_LIMIT, WORST_LIMIT = 0.08, 0.15
"""Largest relative errors of whole-run time that pass: of the median run and of the worst."""


@dataclass(frozen=True)
class RunsComparison:
    """Everything that a table of finished runs shows.

    Attributes:
        records: Of the runs, in the order of their folders.
        errors: By verified quantity, over all runs; relative, and in points for the quality.
        thresholds: Of the whole-run time.
        unreadable: Why a folder has no record, one sentence each.
    """

    records: tuple[RunRecord, ...]
    errors: dict[str, ErrorStatistics]
    thresholds: tuple[AcceptanceThreshold, ...]
    unreadable: tuple[str, ...] = ()


def read_run(folder: Path) -> RunRecord:
    """``record.json`` of a run folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / "record.json"
    return from_dict(RunRecord, read_json(path, what="the record"), what=str(path))


def compare_runs(folders: Sequence[Path]) -> RunsComparison:
    """Compare finished runs; folders without a record are named and left out.

    Raises:
        InputError: no folder has a record.
    """
    records, unreadable = [], []
    for folder in folders:
        try:
            records.append(read_run(folder))
        except InputError as failure:
            unreadable.append(failure.message)
    if not records:
        raise InputError("the folders must be those of finished runs", problems=unreadable, fix="name `run` outputs")
    return comparison_of(records, unreadable)


def comparison_of(records: Sequence[RunRecord], unreadable: Sequence[str] = ()) -> RunsComparison:
    """The same for records at hand. Resumed runs have no whole-run time to compare."""
    rows = pd.DataFrame(
        [
            {"quantity": v.quantity, "error": v.relative_error, "measured": v.measured, "low": v.low, "high": v.high}
            for record in records
            for v in record.verifications
        ]
    )
    groups = rows.groupby("quantity", sort=False) if len(rows) else ()
    found = {str(quantity): statistics_of(members) for quantity, members in groups}
    errors = {quantity: statistics for quantity, statistics in found.items() if statistics is not None}
    total = errors.get(TOTAL)
    thresholds = tuple(
        threshold(f"whole-run time {statistic}", getattr(total, statistic, None), high=limit)
        for statistic, limit in (("median", MEDIAN_LIMIT), ("worst", WORST_LIMIT))
    )
    return RunsComparison(tuple(records), errors, thresholds, tuple(unreadable))
