"""A validation as tables: errors by group, coverage, thresholds and the largest errors, of memory, of step time, or of
both; and finished runs as Markdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.run import RunRecord, Verification
from advisor.core.units import counted, format_bytes, format_duration
from advisor.experiments.error_statistics import AcceptanceThreshold, ErrorRow, LargestError
from advisor.experiments.runs import TOTAL, RunsComparison
from advisor.experiments.validation.compare import DIFFERENT, MemoryComparison, TimeComparison
from advisor.experiments.validation.records import Header, Record
from advisor.hardware.backends import get_backend
from advisor.reporting.text import make_table, remark, say

_NAMES = {"allocated_bytes": "allocated", "reserved_bytes": "reserved", "device_bytes": "device", "step_s": "step time"}
_PROFILED = "allocated: the profiler's memory events; device: resident set"
_COUNTED = "allocated and reserved: torch's peaks; device: the driver's figure of the process"
_WRONG = {
    "fitted_but_out_of_memory": "predicted to fit, but ran out of memory",
    "refused_but_ran": "predicted not to fit, but ran",
}
_VERDICTS = {True: "[green]pass[/green]", False: "[bold red]fail[/bold red]", None: "[dim]not judged[/dim]"}
_PLAIN_VERDICTS = {True: "pass", False: "fail", None: "not judged"}


def print_validation(
    console: Console,
    header: Header,
    records: Sequence[Record],
    comparison: MemoryComparison | None,
    times: TimeComparison | None = None,
) -> None:
    """Print everything; quantities that were not measured have no columns."""
    versions = ", ".join(f"{name} {version}" for name, version in header.versions.items())
    driver = f", driver {header.driver}" if header.driver else ""
    say(console, f"[bold]Predicted vs measured on {escape(header.device_name)}[/bold]{driver}")
    remark(console, versions)
    remark(console, "errors: |predicted / measured - 1|; bias: median of predicted / measured - 1")
    if comparison is not None:
        sources = _COUNTED if get_backend(header.device_type).memory.counted else _PROFILED
        say(console, f"[bold]Memory[/bold] [dim]{sources}[/dim]")
        _print_comparison(console, comparison, format_bytes)
        _print_fits(console, comparison)
    if times is not None:
        seen = f"; {times.seen} more were measured by the calibration itself and do not count" if times.seen else ""
        say(console, f"[bold]Step time[/bold] [dim]{counted(times.cases, 'configuration')}{seen}[/dim]")
        _print_comparison(console, times, format_duration)
        _print_time_notes(console, times)
    outcomes = Counter(record.outcome.replace("_", " ") for record in records)
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    say(console, f"cases: {counts or 'none yet'}")
    for record in records:
        if not record.ran:
            remark(console, f"  {record.outcome.replace('_', ' ')}: {record.label}: {record.reason}")


def _print_comparison(console: Console, found: MemoryComparison | TimeComparison, show: Callable[[float], str]) -> None:
    if found.errors:
        console.print(_errors_table(found.errors))
    overall = [row for row in found.errors if row.by == "all" and row.coverage is not None]
    coverage = [f"{_NAMES[r.quantity]} {r.covered} of {r.intervals} ({_percent(r.coverage or 0.0)})" for r in overall]
    if coverage:
        say(console, f"coverage of the 90 % intervals: {', '.join(coverage)}")
    for bound in found.thresholds:
        say(console, f"  {_VERDICTS[bound.passed]}  {threshold_text(bound)}")
    if found.worst:
        console.print(_worst_table(found.worst, show))


def _errors_table(errors: Sequence[ErrorRow]) -> Table:
    """One row per group; the bias has a column where there is a single quantity."""
    quantities = list(dict.fromkeys(row.quantity for row in errors))
    signed = len(quantities) == 1
    statistics = ("MAPE", "p50", "p90", "max")
    headings = [f">{_NAMES[quantity]}\n{name}" for quantity in quantities for name in statistics]
    table = make_table("", ">cases", *headings, *([">bias"] if signed else []))
    groups: dict[tuple[str, str], dict[str, ErrorRow]] = {}
    for row in errors:
        groups.setdefault((row.by, row.value), {})[row.quantity] = row
    last = "all"
    for (by, value), found in groups.items():
        if by != last:
            table.add_section()
        last = by
        cells = [
            _percent(getattr(found[quantity], name.lower())) if quantity in found else "–"
            for quantity in quantities
            for name in statistics
        ]
        count = max(row.count for row in found.values())
        bias = [f"{100 * row.bias:+.1f} %" for row in found.values()] if signed else []
        table.add_row("all cases" if by == "all" else f"{by}: {value}", str(count), *cells, *bias)
    return table


def _print_fits(console: Console, comparison: MemoryComparison) -> None:
    counts = {name: len(labels) for name, labels in comparison.fits.items()}
    fitted = f"{counts['fitted_and_ran']} ran, {counts['fitted_but_out_of_memory']} ran out of memory"
    refused = f"{counts['refused_and_out_of_memory']} ran out of memory, {counts['refused_but_ran']} ran"
    say(console, f"predicted to fit: {fitted}; predicted not to fit: {refused}")
    for name, text in _WRONG.items():
        for label in comparison.fits[name]:
            say(console, f"  {text}: {escape(label)}")


def _print_time_notes(console: Console, times: TimeComparison) -> None:
    if times.predictors > 1:
        remark(
            console,
            f"the predictions are from {times.predictors} calibrations or versions; "
            "`--records FILE --predict-again` predicts all cases with one",
            "note:",
        )
    notes = {
        "noise": "what one configuration varies by on this machine; no prediction can be closer than `measured twice`",
        "baseline": "other ways to predict the step time; `x` is the factor that suits these cases best",
        "pairs": f"cases whose step times differ by more than {100 * DIFFERENT:.0f} %",
    }
    if times.reference_s is not None:
        notes["reference workload"] = f"timed with every case; {format_duration(times.reference_s)} in the median"
    for name, text in notes.items() if times.errors else ():
        remark(console, f"{name}: {text}")


def threshold_text(found: AcceptanceThreshold) -> str:
    """``"step time p90: 6.1 % (at most 20.0 %)"``."""

    def shown(value: float) -> str:
        return f"{value:.0f}" if found.unit == "cases" else _percent(value)

    if found.low is not None and found.high is not None:
        limit = f"{shown(found.low)} to {shown(found.high)}"
    else:
        limit = f"at least {shown(found.low)}" if found.low is not None else f"at most {shown(found.high or 0.0)}"
    value = "–" if found.value is None else shown(found.value)
    note = f"; {found.note}" if found.note else ""
    return f"{found.name.replace('_bytes', '')}: {value} ({limit}{note})"


def _worst_table(worst: Sequence[LargestError], show: Callable[[float], str]) -> Table:
    timed = any(case.spread is not None or case.reference_ratio is not None for case in worst)
    extra = [">spread of repeats", ">reference workload"] if timed else []
    table = make_table("largest errors", ">quantity", ">predicted", ">measured", ">error", *extra)
    quantity = worst[0].quantity
    for case in worst:
        if case.quantity != quantity:
            table.add_section()
        quantity = case.quantity
        spread = "–" if case.spread is None else f"±{_percent(case.spread)}"
        ratio = "–" if case.reference_ratio is None else f"{case.reference_ratio:.2f}x"
        error = f"{100 * case.error:+.2f} %" if abs(case.error) >= 0.001 else f"{100 * case.error:+.3f} %"
        figures = [show(case.predicted), show(case.measured), error, *([spread, ratio] if timed else [])]
        table.add_row(escape(case.label), _NAMES[quantity], *figures)
    return table


def _percent(share: float) -> str:
    """Three decimals below 0.1 %, two below 10 %, else one."""
    value = 100 * share
    return f"{value:.3f} %" if value < 0.1 else f"{value:.2f} %" if value < 10 else f"{value:.1f} %"


# Finished runs.

_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "quality.value": ("quality", lambda value: f"{value:.3f}"),
    "memory.allocated_bytes": ("allocated peak", format_bytes),
    "memory.device_bytes": ("device peak", format_bytes),
    "time.step_s": ("step", format_duration),
    TOTAL: ("whole run", format_duration),
}


def runs_tables(comparison: RunsComparison) -> str:
    """Finished runs as Markdown, every figure as predicted / measured: a row per run, then the phases of the runs that
    have a whole-run time, then the errors of that time.
    """
    headings = ("run", "method", "rows x epochs", "trainable", "metric", *(name for name, _ in _FIGURES.values()))
    rows = [(*headings, "error", "90 % interval"), *map(_run_row, comparison.records)]
    whole = [record for record in comparison.records if _verified(record, TOTAL) is not None]
    names = list(dict.fromkeys(name for record in whole for name in record.measurement.parts_s))
    phases = [("run", *names), *(_phases_row(record, names) for record in whole)]
    found = [_markdown(rows), *(["Phases, predicted / measured, s:", _markdown(phases)] if whole else [])]
    found += [f"{_PLAIN_VERDICTS[bound.passed]}  {threshold_text(bound)}" for bound in comparison.thresholds]
    return "\n\n".join(found)


def _run_row(record: RunRecord) -> tuple[str, ...]:
    plan, predicted = record.plan, record.plan.predicted
    quality = predicted.quality if predicted is not None else None
    figures = [_pair(_verified(record, quantity), show) for quantity, (_, show) in _FIGURES.items()]
    if quality is not None and quality.value is None:
        measured = quality.metric.measured(record.measurement.metrics)
        figures[0] = f"unknown / {'-' if measured is None else f'{measured:.2f}'}"
    total = _verified(record, TOTAL)
    return (
        Path(record.output_dir).name,
        f"`{plan.strategy.method}`",
        f"{plan.data_profile.train_rows} x {plan.strategy.num_train_epochs:g}",
        f"{record.measurement.trainable_parameters:,}",
        quality.metric.title if quality is not None else "-",
        *figures,
        f"{100 * total.relative_error:+.1f} %" if total is not None and total.relative_error is not None else "-",
        total.verdict if total is not None else "-",
    )


def _phases_row(record: RunRecord, names: Sequence[str]) -> tuple[str, ...]:
    predicted = record.plan.predicted
    planned = predicted.time.parts if predicted is not None and predicted.time is not None else {}
    measured = record.measurement.parts_s
    cells = [f"{f'{planned[name]:.2f}' if name in planned else '-'} / {measured.get(name, 0.0):.2f}" for name in names]
    return (Path(record.output_dir).name, *cells)


def _verified(record: RunRecord, quantity: str) -> Verification | None:
    """A verified figure; whole-run times only where they can be compared."""
    found = next((item for item in record.verifications if item.quantity == quantity), None)
    return None if found is None or (quantity == TOTAL and found.relative_error is None) else found


def _pair(found: Verification | None, show: Callable[[float], str]) -> str:
    sides = () if found is None else (found.predicted, found.measured)
    return " / ".join("-" if value is None else show(value) for value in sides) or "-"


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells, the headings first."""
    ruled = [rows[0], tuple("---" for _ in rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)
