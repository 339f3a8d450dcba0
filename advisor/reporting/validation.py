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
from advisor.experiments.error_statistics import AcceptanceThreshold, ErrorGroup, ErrorStatistics, LargestError
from advisor.experiments.runs import TOTAL, RunsComparison
from advisor.experiments.validation.memory import FitVerdicts, MemoryComparison
from advisor.experiments.validation.records import Header, Record
from advisor.experiments.validation.times import (
    DIFFERENT,
    STEADY_WITHIN,
    Baseline,
    MachineDrift,
    RepeatNoise,
    TimeComparison,
)
from advisor.hardware.backends import get_backend
from advisor.reporting.verification import measured_metric

_NAMES = {"allocated_bytes": "allocated", "reserved_bytes": "reserved", "device_bytes": "device", "step_s": "step time"}
_PROFILED = "allocated: the profiler's memory events; device: resident set"
_COUNTED = "allocated and reserved: torch's peaks; device: the driver's figure of the process"
_VERDICTS = {True: "[green]pass[/green]", False: "[bold red]fail[/bold red]", None: "[dim]not judged[/dim]"}
_STATISTICS: dict[str, Callable[[ErrorStatistics], float]] = {
    "MAPE": lambda errors: errors.mape,
    "p50": lambda errors: errors.median,
    "p90": lambda errors: errors.p90,
    "max": lambda errors: errors.worst,
}


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
    console.print(f"[bold]Predicted vs measured on {escape(header.device_name)}[/bold]{driver}", highlight=False)
    _dim(console, versions)
    _dim(console, "errors: |predicted / measured - 1|; bias: median of predicted / measured - 1")
    if comparison is not None:
        _print_memory(console, header, comparison)
    if times is not None:
        _print_times(console, times)
    _print_left_out(console, records)


def _print_memory(console: Console, header: Header, comparison: MemoryComparison) -> None:
    sources = _COUNTED if get_backend(header.device_type).memory.counted else _PROFILED
    console.print(f"[bold]Memory[/bold] [dim]{sources}[/dim]", highlight=False, soft_wrap=True)
    _print_errors(console, comparison.groups)
    _print_fits(console, comparison.fits)
    _print_thresholds(console, comparison.thresholds)
    _print_worst(console, comparison.worst, format_bytes)


def _print_times(console: Console, times: TimeComparison) -> None:
    seen = f"; {times.seen} more were measured by the calibration itself and do not count" if times.seen else ""
    console.print(f"[bold]Step time[/bold] [dim]{counted(times.cases, 'configuration')}{seen}[/dim]", highlight=False)
    _print_errors(console, times.groups)
    if times.predictors > 1:
        console.print(
            f"[yellow]note:[/yellow] the predictions are from {times.predictors} calibrations or versions; "
            "`--records FILE --predict-again` predicts all cases with one",
            highlight=False,
        )
    _print_noise(console, times.noise)
    _print_drift(console, times.drift, times.steady)
    if times.order.share is not None:
        console.print(
            f"order: of {times.order.pairs} pairs that differ by more than {100 * DIFFERENT:.0f} %, "
            f"{times.order.right} ({_percent(times.order.share)}) are predicted in the right order",
            highlight=False,
        )
    if times.baselines:
        console.print(_baselines_table(times.baselines))
    _print_thresholds(console, times.thresholds)
    _print_worst(console, times.worst, format_duration)


def _print_errors(console: Console, groups: Sequence[ErrorGroup]) -> None:
    """One row per group; the bias has a column where there is a single quantity."""
    if not groups:
        return
    quantities = list(groups[0].errors)
    signed = len(quantities) == 1
    headings = [f"{_NAMES[quantity]}\n{name}" for quantity in quantities for name in _STATISTICS]
    table = _table("", "cases", *headings, *(["bias"] if signed else []))
    by = groups[0].by
    for group in groups:
        if group.by != by:
            table.add_section()
        by = group.by
        found = [group.errors.get(quantity) for quantity in quantities]
        cells = [_percent(of(e)) if e is not None else "–" for e in found for of in _STATISTICS.values()]
        bias = [f"{100 * found[0].bias:+.1f} %" if found[0] is not None else "–"] if signed else []
        table.add_row("all cases" if by == "all" else f"{by} {group.value}", str(group.count), *cells, *bias)
    console.print(table)
    coverage = [
        f"{_NAMES[name]} {errors.covered} of {errors.intervals} ({_percent(errors.coverage)})"
        for name, errors in groups[0].errors.items()
        if errors.coverage is not None
    ]
    if coverage:
        console.print(f"coverage of the 90 % intervals: {', '.join(coverage)}", highlight=False)


def _print_fits(console: Console, fits: FitVerdicts) -> None:
    console.print(
        f"fits: {fits.fitted_and_ran} fitted and ran, {fits.refused_and_out_of_memory} refused and ran out of memory, "
        f"{len(fits.violations)} fitted but ran out of memory, {len(fits.false_refusals)} refused but ran",
        highlight=False,
    )
    for kind, labels in (("fitted but ran out", fits.violations), ("refused but ran", fits.false_refusals)):
        for label in labels:
            console.print(f"  {kind}: {escape(label)}", highlight=False, soft_wrap=True)


def _print_noise(console: Console, noise: RepeatNoise) -> None:
    if noise.between is not None:
        between = noise.between
        console.print(
            f"repeat noise: {counted(between.count, 'case')} measured twice, {_percent(between.median)} apart (p50), "
            f"{_percent(between.p90)} (p90)",
            highlight=False,
        )
    if noise.within_median is not None and noise.within_p90 is not None:
        console.print(
            f"repeats of one case: half interquartile range {_percent(noise.within_median)} (p50 of "
            f"{counted(noise.cases, 'case')}), {_percent(noise.within_p90)} (p90)",
            highlight=False,
        )


def _print_drift(console: Console, drift: MachineDrift, steady: ErrorStatistics | None) -> None:
    if drift.deviation is None or drift.median_s is None:
        return
    deviation = drift.deviation
    console.print(
        f"machine drift: the reference workload took {format_duration(drift.median_s)}; deviations "
        f"{_percent(deviation.median)} (p50), {_percent(deviation.p90)} (p90), {_percent(deviation.worst)} (max)",
        highlight=False,
    )
    if steady is not None:
        console.print(
            f"errors of the {counted(steady.count, 'case')} where it deviated by at most {100 * STEADY_WITHIN:.0f} %: "
            f"p50 {_percent(steady.median)}, p90 {_percent(steady.p90)}, max {_percent(steady.worst)}",
            highlight=False,
        )


def _baselines_table(baselines: Sequence[Baseline]) -> Table:
    table = _table("baselines", "cases", "p50", "p90", "bias", "best scale", "p50 scaled", "p90 scaled")
    for baseline in baselines:
        plain, scaled = baseline.plain, baseline.scaled
        table.add_row(
            baseline.name,
            str(plain.count),
            _percent(plain.median),
            _percent(plain.p90),
            f"{100 * plain.bias:+.1f} %",
            f"{baseline.factor:.2f}",
            _percent(scaled.median),
            _percent(scaled.p90),
        )
    return table


def _print_thresholds(console: Console, thresholds: Sequence[AcceptanceThreshold]) -> None:
    for found in thresholds:
        console.print(f"  {_VERDICTS[found.passed]}  {threshold_text(found)}", highlight=False, soft_wrap=True)


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


def _print_worst(console: Console, worst: Sequence[LargestError], show: Callable[[float], str]) -> None:
    if not worst:
        return
    machine = any(case.spread is not None or case.reference_ratio is not None for case in worst)
    table = _table(
        "largest errors", "quantity", "predicted", "measured", "error", *(["repeats", "machine"] if machine else [])
    )
    quantity = worst[0].quantity
    for case in worst:
        if case.quantity != quantity:
            table.add_section()
        quantity = case.quantity
        spread = "–" if case.spread is None else f"±{_percent(case.spread)}"
        ratio = "–" if case.reference_ratio is None else f"{case.reference_ratio:.2f}x"
        error = f"{100 * case.error:+.2f} %" if abs(case.error) >= 0.001 else f"{100 * case.error:+.3f} %"
        figures = [show(case.predicted), show(case.measured), error, *([spread, ratio] if machine else [])]
        table.add_row(escape(case.label), _NAMES[quantity], *figures)
    console.print(table)


def _print_left_out(console: Console, records: Sequence[Record]) -> None:
    outcomes = Counter(record.outcome.replace("_", " ") for record in records)
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    console.print(f"cases: {counts or 'none yet'}", highlight=False)
    for record in records:
        if not record.ran:
            _dim(console, f"  {record.outcome.replace('_', ' ')}: {record.label}: {record.reason}")


def _dim(console: Console, text: str) -> None:
    console.print(f"[dim]{escape(text)}[/dim]", highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _percent(share: float) -> str:
    """Three decimals below 0.1 %, two below 10 %, else one."""
    value = 100 * share
    return f"{value:.3f} %" if value < 0.1 else f"{value:.2f} %" if value < 10 else f"{value:.1f} %"


# Finished runs.

_FIGURES = {
    "quality.value": "quality",
    "memory.allocated_bytes": "allocated peak",
    "memory.device_bytes": "device peak",
    "time.step_s": "step",
    TOTAL: "whole run",
}


def runs_tables(comparison: RunsComparison) -> str:
    """Finished runs as Markdown, every figure as predicted / measured: a row per run, then the phases of the runs that
    have a whole-run time, then the errors of that time.
    """
    rows = [("run", "method", "rows x epochs", "trainable", "metric", *_FIGURES.values(), "error", "90 % interval")]
    rows += [_run_row(record) for record in comparison.records]
    whole = [record for record in comparison.records if _verified(record, TOTAL) is not None]
    names = list(dict.fromkeys(name for record in whole for name in record.measurement.parts_s))
    parts = [("run", *names), *(_parts_row(record, names) for record in whole)]
    found = [_markdown(rows)]
    found += ["Phases, predicted / measured, s:", _markdown(parts)] if whole else []
    found += [f"{_PLAIN_VERDICTS[bound.passed]}  {threshold_text(bound)}" for bound in comparison.thresholds]
    return "\n\n".join(found)


_PLAIN_VERDICTS = {True: "pass", False: "fail", None: "not judged"}


def _run_row(record: RunRecord) -> tuple[str, ...]:
    plan, predicted = record.plan, record.plan.predicted
    quality = predicted.quality if predicted is not None else None
    figures = [_pair(_verified(record, quantity), quantity) for quantity in _FIGURES]
    if quality is not None and quality.value is None:
        measured = measured_metric(quality.metric, record.measurement.metrics)
        figures[0] = f"unknown / {'-' if measured is None else f'{measured:.2f}'}"
    total = _verified(record, TOTAL)
    error = total.relative_error if total is not None else None
    return (
        Path(record.output_dir).name,
        f"`{plan.strategy.method}`",
        f"{plan.data_profile.train_rows} x {plan.strategy.num_train_epochs:g}",
        f"{record.measurement.trainable_parameters:,}",
        quality.metric if quality is not None else "-",
        *figures,
        "-" if error is None else f"{100 * error:+.1f} %",
        "-" if total is None else total.verdict,
    )


def _parts_row(record: RunRecord, names: Sequence[str]) -> tuple[str, ...]:
    predicted = record.plan.predicted
    planned = predicted.time.parts if predicted is not None and predicted.time is not None else {}
    measured = record.measurement.parts_s
    cells = [f"{f'{planned[name]:.2f}' if name in planned else '-'} / {measured.get(name, 0.0):.2f}" for name in names]
    return (Path(record.output_dir).name, *cells)


def _verified(record: RunRecord, quantity: str) -> Verification | None:
    """A verified figure, whole-run times only where they can be compared."""
    found = next((item for item in record.verifications if item.quantity == quantity), None)
    return None if found is None or (quantity == TOTAL and found.relative_error is None) else found


def _pair(verification: Verification | None, quantity: str) -> str:
    if verification is None:
        return "-"
    shown = [verification.predicted, verification.measured]
    return " / ".join("-" if value is None else _figure(value, quantity) for value in shown)


def _figure(value: float, quantity: str) -> str:
    if quantity.endswith("_bytes"):
        return format_bytes(value)
    return format_duration(value) if quantity.endswith("_s") else f"{value:.3f}"


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells, the headings first."""
    ruled = [rows[0], tuple("---" for _ in rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)
