"""Finished runs side by side, as a Markdown table: ``python -m advisor.reporting.record_table RUN…``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from advisor.core.errors import AdvisorError, InputError
from advisor.core.run import RunRecord, Verification
from advisor.core.serialization import from_dict, read_json
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.verification import measured_metric

HEADINGS = ("method", "trainable", "metric", "quality", "allocated peak", "device peak", "step", "run")
QUANTITIES = ("quality.value", "memory.allocated_bytes", "memory.device_bytes", "time.step_s", "time.total_s")


def read_record(folder: Path) -> RunRecord:
    """``record.json`` of a run folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / "record.json"
    return from_dict(RunRecord, read_json(path, what="the record"), what=str(path))


def record_table(records: Sequence[RunRecord]) -> str:
    """One row per run; every figure as predicted / measured."""
    return markdown_table([HEADINGS, *(_row(record) for record in records)])


def markdown_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells, the headings first."""
    ruled = [rows[0], tuple("---" for _ in rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def read_records(folders: Sequence[str]) -> list[RunRecord]:
    """The records of run folders; one without is named on standard error and left out."""
    records = []
    for name in folders:
        try:
            records.append(read_record(Path(name)))
        except InputError as failure:
            print(failure, file=sys.stderr)
    return records


def _row(record: RunRecord) -> tuple[str, ...]:
    found = {verification.quantity: verification for verification in record.verifications}
    predicted = record.plan.predicted
    quality = predicted.quality if predicted is not None else None
    metric = quality.metric if quality is not None else "-"
    cells = [_pair(found.get(quantity), quantity) for quantity in QUANTITIES]
    if quality is not None and quality.value is None:
        measured = measured_metric(quality.metric, record.measurement.metrics)
        cells[0] = f"unknown / {'-' if measured is None else f'{measured:.2f}'}"
    method, trainable = f"`{record.plan.strategy.method}`", f"{record.measurement.trainable_parameters:,}"
    return (method, trainable, metric, *cells)


def _pair(verification: Verification | None, quantity: str) -> str:
    if verification is None:
        return "-"
    shown = [verification.predicted, verification.measured]
    return " / ".join("-" if value is None else _format(value, quantity) for value in shown)


def _format(value: float, quantity: str) -> str:
    if quantity.endswith("_bytes"):
        return format_bytes(value)
    return format_duration(value) if quantity.endswith("_s") else f"{value:.3f}"


def main(arguments: Sequence[str]) -> int:
    """Print the table of the named run folders; folders without a record are named and left out."""
    records = read_records(arguments)
    print(record_table(records))
    return 0 if records else AdvisorError.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
