"""A validation as tables: errors by group, coverage, verdicts, the bars, the worst cases, and what was left out; of
memory, of time, or of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.units import format_bytes
from advisor.experiments.validation.comparison import ErrorStatistics, GridComparison, Group
from advisor.experiments.validation.record import QUANTITIES, Header, Record
from advisor.experiments.validation.times import TimeComparison
from advisor.reporting.validation_times import print_times

_NAMES = {"allocated_bytes": "allocated", "reserved_bytes": "reserved", "device_bytes": "device"}
_SOURCES = {
    "cpu": "allocated: the profiler's memory events; device: resident set",
    "cuda": "allocated and reserved: torch's peaks; device: the driver's figure of the process",
}


def print_validation(
    console: Console,
    header: Header,
    records: Sequence[Record],
    comparison: GridComparison | None,
    times: TimeComparison | None = None,
) -> None:
    """Print everything; quantities that were not measured have no columns."""
    versions = ", ".join(f"{name} {version}" for name, version in header.versions.items())
    driver = f", driver {header.driver}" if header.driver else ""
    console.print(f"[bold]Predicted and measured on {escape(header.device_name)}[/bold]{driver}", highlight=False)
    console.print(f"[dim]{versions}[/dim]", highlight=False, soft_wrap=True)
    if comparison is not None:
        _print_memory(console, header, comparison)
    if times is not None:
        print_times(console, times)
    _print_left_out(console, records)


def _print_memory(console: Console, header: Header, comparison: GridComparison) -> None:
    console.print(f"[bold]Memory[/bold] [dim]{_SOURCES[header.device_type]}[/dim]", highlight=False, soft_wrap=True)
    if comparison.groups:
        console.print(_errors_table(comparison.groups))
        _print_coverage(console, comparison)
    _print_fits(console, comparison)
    _print_bars(console, comparison)
    if comparison.worst:
        console.print(_worst_table(comparison))


def _errors_table(groups: Sequence[Group]) -> Table:
    quantities = [name for name in QUANTITIES if name in groups[0].errors]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("cases", justify="right")
    for quantity in quantities:
        for statistic in ("median", "p90", "worst"):
            table.add_column(f"{_NAMES[quantity]}\n{statistic}", justify="right")
    by = ""
    for group in groups:
        if group.by != by and group.by != "all":
            table.add_section()
        by = group.by
        name = "all cases" if group.by == "all" else f"{group.by} {group.value}"
        cells = [text for quantity in quantities for text in _error_cells(group.errors.get(quantity))]
        table.add_row(name, str(group.count), *cells)
    return table


def _error_cells(errors: ErrorStatistics | None) -> list[str]:
    return ["–"] * 3 if errors is None else [_percent(errors.median), _percent(errors.p90), _percent(errors.worst)]


def _percent(value: float) -> str:
    return f"{value:.3f} %" if (value := 100 * value) < 0.1 else f"{value:.2f} %"


def _print_coverage(console: Console, comparison: GridComparison) -> None:
    parts = [
        f"{_NAMES[name]} {errors.inside} of {errors.count} ({errors.inside / errors.count:.0%})".replace("%", " %")
        for name, errors in comparison.groups[0].errors.items()
    ]
    console.print(f"inside the 90 % interval: {', '.join(parts)}", highlight=False)


def _print_fits(console: Console, comparison: GridComparison) -> None:
    fits = comparison.fits
    console.print(
        f"fits: {fits.fitted_and_ran} fitted and ran, {fits.refused_and_out_of_memory} refused and ran out of memory, "
        f"{len(fits.violations)} fitted but ran out of memory, {len(fits.false_refusals)} refused but ran",
        highlight=False,
    )
    for kind, labels in (("fitted but ran out", fits.violations), ("refused but ran", fits.false_refusals)):
        for label in labels:
            console.print(f"  {kind}: {escape(label)}", highlight=False, soft_wrap=True)


def _print_bars(console: Console, comparison: GridComparison) -> None:
    for bar in comparison.bars:
        verdict = {True: "[green]pass[/green]", False: "[bold red]fail[/bold red]", None: "[dim]not measured[/dim]"}
        counted = bar.limit == 0
        value = "–" if bar.value is None else f"{bar.value:.0f}" if counted else _percent(bar.value)
        limit = "none" if counted else f"at most {_percent(bar.limit)}"
        name = bar.name.replace("_bytes", "")
        console.print(f"  {verdict[bar.passed]}  {name}: {value} ({limit})", highlight=False)


def _worst_table(comparison: GridComparison) -> Table:
    table = Table(title="Largest errors", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("", "case", "predicted", "measured", "error"):
        table.add_column(column, justify="left" if column in ("", "case") else "right")
    quantity = ""
    for worst in comparison.worst:
        if worst.quantity != quantity and quantity:
            table.add_section()
        quantity = worst.quantity
        error = f"{100 * worst.error:+.2f} %" if abs(worst.error) >= 0.001 else f"{100 * worst.error:+.3f} %"
        table.add_row(
            _NAMES[quantity],
            escape(worst.label),
            format_bytes(worst.predicted_bytes),
            format_bytes(worst.measured_bytes),
            error,
        )
    return table


def _print_left_out(console: Console, records: Sequence[Record]) -> None:
    outcomes = Counter(record.outcome.replace("_", " ") for record in records)
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    console.print(f"cases: {counts or 'none yet'}", highlight=False)
    for record in records:
        if record.outcome in ("refused", "skipped", "failed", "over_time"):
            text = f"  {record.outcome.replace('_', ' ')}: {record.label}: {record.reason}"
            console.print(f"[dim]{escape(text)}[/dim]", highlight=False, soft_wrap=True)
