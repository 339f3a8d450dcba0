"""Whole-run time of finished runs, predicted against measured: ``python -m advisor.reporting.time_table RUN…``."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.core.errors import AdvisorError
from advisor.core.run import RunRecord
from advisor.reporting.record_table import markdown_table, read_records

MEDIAN_BAR, WORST_BAR = 0.08, 0.15
"""Largest relative errors that pass: of the median run and of the worst."""

HEADINGS = ("run", "method", "rows x epochs", "step", "total", "error", "90 %")


def time_table(records: Sequence[RunRecord]) -> str:
    """Two Markdown tables and a verdict: step and whole run (predicted / measured), then every part in seconds.

    Runs without a predicted time, and runs that were resumed or did not complete, are left out.
    """
    kept = [record for record in records if total_error(record) is not None]
    names = list(dict.fromkeys(name for record in kept for name in record.measurement.parts_s))
    totals = [HEADINGS, *(_total_row(record) for record in kept)]
    parts = [("run", *names), *(_parts_row(record, names) for record in kept)]
    return "\n\n".join(
        [markdown_table(totals), "Parts, predicted / measured, s:", markdown_table(parts), verdict(kept)]
    )


def total_error(record: RunRecord) -> float | None:
    """``predicted / measured - 1`` of the whole run; ``None`` where there is nothing to compare."""
    found = next((item for item in record.verifications if item.quantity == "time.total_s"), None)
    return found.relative_error if found is not None else None


@dataclass(frozen=True)
class PhaseErrors:
    """Errors of whole-run predictions.

    Attributes:
        runs: How many were compared.
        median, worst: Relative errors without their sign.
    """

    runs: int
    median: float
    worst: float

    @property
    def within_bars(self) -> bool:
        """Whether both errors are small enough."""
        return self.median <= MEDIAN_BAR and self.worst <= WORST_BAR


def errors_of(records: Sequence[RunRecord]) -> PhaseErrors | None:
    """Of the whole runs; ``None`` where there is nothing to compare."""
    errors = [abs(error) for record in records if (error := total_error(record)) is not None]
    return PhaseErrors(len(errors), statistics.median(errors), max(errors)) if errors else None


def keeps_the_bars(records: Sequence[RunRecord]) -> bool:
    """Whether there are runs to compare and their errors are small enough."""
    errors = errors_of(records)
    return errors is not None and errors.within_bars


def verdict(records: Sequence[RunRecord]) -> str:
    """Median and worst error of the whole runs, and whether they keep the bars, as a sentence."""
    errors = errors_of(records)
    if errors is None:
        return "no runs to compare"
    return (
        f"{errors.runs} runs: median error {_percent(errors.median)} (at most {_percent(MEDIAN_BAR)}), "
        f"worst {_percent(errors.worst)} (at most {_percent(WORST_BAR)}): {'pass' if errors.within_bars else 'fail'}"
    )


def _total_row(record: RunRecord) -> tuple[str, ...]:
    found = {item.quantity: item for item in record.verifications}
    step, total = found.get("time.step_s"), found["time.total_s"]
    profile, strategy = record.plan.data_profile, record.plan.strategy
    error = total_error(record) or 0.0
    step_text = "-" if step is None or step.measured is None else f"{step.predicted:.3f} / {step.measured:.3f} s"
    return (
        Path(record.output_dir).name,
        f"`{strategy.method}`",
        f"{profile.train_rows} x {strategy.num_train_epochs:g}",
        step_text,
        f"{total.predicted:.1f} / {total.measured:.1f} s",
        f"{error:+.1%}".replace("%", " %"),
        total.verdict,
    )


def _parts_row(record: RunRecord, names: Sequence[str]) -> tuple[str, ...]:
    predicted = record.plan.predicted
    promised = predicted.time.parts if predicted is not None and predicted.time is not None else {}
    measured = record.measurement.parts_s
    cells = [
        f"{f'{promised[name]:.2f}' if name in promised else '-'} / {measured.get(name, 0.0):.2f}" for name in names
    ]
    return (Path(record.output_dir).name, *cells)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def main(arguments: Sequence[str]) -> int:
    """Print the tables of the named run folders; 1 when a bar is missed. Folders without a record are named."""
    records = read_records(arguments)
    if not records:
        return AdvisorError.exit_code
    print(time_table(records))
    return 0 if keeps_the_bars(records) and len(records) == len(arguments) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
