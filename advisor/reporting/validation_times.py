"""Step times of a validation as tables: errors by group beside the machine's noise, rules of thumb, bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.units import counted, format_duration
from advisor.experiments.validation.noise import STEADY_WITHIN, Drift, RepeatNoise
from advisor.experiments.validation.summary import Summary
from advisor.experiments.validation.time_bars import TimeBar
from advisor.experiments.validation.times import DIFFERENT, Rival, TimeComparison, TimeGroup, WorstStep

_VERDICTS = {True: "[green]pass[/green]", False: "[bold red]fail[/bold red]", None: "[dim]not judged[/dim]"}


def print_times(console: Console, times: TimeComparison) -> None:
    """Print everything that is known of the step times."""
    seen = f"; {times.seen} more that the calibration measured itself do not count" if times.seen else ""
    console.print(f"[bold]Step time[/bold] [dim]{counted(times.cases, 'configuration')}{seen}[/dim]", highlight=False)
    if times.groups:
        console.print(_errors_table(times.groups))
    if times.predictors > 1:
        console.print(
            f"[yellow]note:[/yellow] the predictions are from {times.predictors} calibrations or versions; "
            "`--records FILE --predict-again` judges all cases by one",
            highlight=False,
        )
    _print_noise(console, times.noise)
    _print_drift(console, times.drift, times.steady)
    _print_order_and_coverage(console, times)
    if times.rivals:
        console.print(_rivals_table(times.rivals))
    for bar in times.bars:
        _print_bar(console, bar)
    if times.worst:
        console.print(_worst_table(times.worst))


def _errors_table(groups: Sequence[TimeGroup]) -> Table:
    table = _table("", "cases", "median", "p90", "worst", "bias")
    by = ""
    for group in groups:
        if by not in ("", group.by):
            table.add_section()
        by = group.by
        name = "all cases" if by == "all" else f"{by} {group.value}"
        table.add_row(name, str(group.errors.count), *_cells(group.errors), _signed(group.errors.bias))
    return table


def _print_noise(console: Console, noise: RepeatNoise) -> None:
    if noise.between is not None:
        between = noise.between
        console.print(
            f"repeat noise: {counted(between.count, 'case')} measured twice, {_percent(between.median)} apart "
            f"(median), {_percent(between.p90)} (p90)",
            highlight=False,
        )
    if noise.within_median is not None and noise.within_p90 is not None:
        console.print(
            f"repeats of one case: half interquartile range {_percent(noise.within_median)} (median of "
            f"{counted(noise.cases, 'case')}), {_percent(noise.within_p90)} (p90)",
            highlight=False,
        )


def _print_drift(console: Console, drift: Drift, steady: Summary | None) -> None:
    if drift.deviation is None or drift.median_s is None:
        return
    console.print(
        f"machine: the reference work load took {format_duration(drift.median_s)}, {_percent(drift.deviation.median)} "
        f"(median), {_percent(drift.deviation.p90)} (p90) and {_percent(drift.deviation.worst)} (worst) off that",
        highlight=False,
    )
    if steady is not None:
        console.print(
            f"errors of the {counted(steady.count, 'case')} where that was within {100 * STEADY_WITHIN:.0f} %: "
            f"median {_percent(steady.median)}, p90 {_percent(steady.p90)}, worst {_percent(steady.worst)}",
            highlight=False,
        )


def _print_order_and_coverage(console: Console, times: TimeComparison) -> None:
    order, coverage = times.order, times.coverage
    if order.share is not None:
        console.print(
            f"order: of {order.pairs} pairs that differ by more than {100 * DIFFERENT:.0f} %, {order.right} "
            f"({_percent(order.share)}) are in the right order",
            highlight=False,
        )
    if coverage.share is not None:
        console.print(
            f"inside the 90 % interval: {coverage.inside} of {coverage.count} ({_percent(coverage.share)})",
            highlight=False,
        )


def _rivals_table(rivals: Sequence[Rival]) -> Table:
    table = _table("", "cases", "median", "p90", "bias", "best factor", "then median", "then p90")
    for rival in rivals:
        plain, scaled = rival.plain, rival.scaled
        table.add_row(
            rival.name,
            str(plain.count),
            _percent(plain.median),
            _percent(plain.p90),
            _signed(plain.bias),
            f"{rival.factor:.2f}",
            _percent(scaled.median),
            _percent(scaled.p90),
        )
    return table


def _print_bar(console: Console, bar: TimeBar) -> None:
    value = "–" if bar.value is None else _percent(bar.value)
    if bar.low is not None and bar.high is not None:
        limit = f"{_percent(bar.low)} to {_percent(bar.high)}"
    else:
        limit = f"at least {_percent(bar.low)}" if bar.low is not None else f"at most {_percent(bar.high or 0.0)}"
    note = f"; {bar.note}" if bar.note else ""
    console.print(f"  {_VERDICTS[bar.passed]}  {bar.name}: {value} ({limit}{note})", highlight=False, soft_wrap=True)


def _worst_table(worst: Sequence[WorstStep]) -> Table:
    table = _table("largest errors", "predicted", "measured", "error", "repeats", "machine")
    for step in worst:
        table.add_row(
            escape(step.label),
            format_duration(step.predicted_s),
            format_duration(step.measured_s),
            _signed(step.error),
            "–" if step.spread is None else f"±{_percent(step.spread)}",
            "–" if step.reference_ratio is None else f"{step.reference_ratio:.2f}x",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _cells(errors: Summary) -> list[str]:
    return [_percent(errors.median), _percent(errors.p90), _percent(errors.worst)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %"
