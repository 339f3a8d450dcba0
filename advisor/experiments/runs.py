"""Finished runs against their plans: every verified figure, and the errors of all runs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from advisor.core.errors import InputError
from advisor.core.run import RunRecord, load_record
from advisor.experiments.error_statistics import AcceptanceThreshold, ErrorRow, error_rows, threshold

TOTAL = "time.total_s"
LIMITS = (("p50", 0.08), ("max", 0.15))
"""Largest relative errors of whole-run time that pass: of the median run and of the worst."""


@dataclass(frozen=True)
class RunsComparison:
    """Everything that a table of finished runs shows.

    Attributes:
        records: Of the runs, in the order of their folders.
        errors: By verified quantity, over all runs; relative, and in points for the quality.
        thresholds: Of the whole-run time; resumed runs have none to compare.
        unreadable: Why a folder has no record, one sentence each.
    """

    records: tuple[RunRecord, ...]
    errors: tuple[ErrorRow, ...]
    thresholds: tuple[AcceptanceThreshold, ...]
    unreadable: tuple[str, ...] = ()


def read_runs(folders: Sequence[Path]) -> RunsComparison:
    """Compare the runs of some folders; those without a ``record.json`` are named and left out.

    Raises:
        InputError: no folder has a record.
    """
    records, unreadable = [], []
    for folder in folders:
        path = folder / "record.json"
        try:
            records.append(load_record(path))
        except InputError as failure:
            unreadable.append(failure.message)
    if not records:
        raise InputError(
            "the folders must be those of finished runs",
            problems=unreadable,
            fix="name folders that `advisor run --output` wrote",
        )
    return compare_runs(records, unreadable)


def compare_runs(records: Sequence[RunRecord], unreadable: Sequence[str] = ()) -> RunsComparison:
    """The same for records at hand."""
    cells = pd.DataFrame([asdict(found) for record in records for found in record.verifications])
    if len(cells):
        cells = cells.rename(columns={"relative_error": "error"}).assign(by="all", value="all")
    errors = error_rows(cells)
    total = next((row for row in errors if row.quantity == TOTAL), None)
    thresholds = [threshold(f"whole-run time {name}", getattr(total, name, None), high=limit) for name, limit in LIMITS]
    return RunsComparison(tuple(records), errors, tuple(thresholds), tuple(unreadable))
