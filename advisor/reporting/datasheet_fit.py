"""A fitted datasheet as text: step by step, the shares that were fitted, and the cross-validation error."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.calibration.datasheet import DatasheetFit, DatasheetReport, FitErrors, FittedStep
from advisor.core.units import counted, format_duration
from advisor.costmodel.time.step import fitted_half_width
from advisor.reporting.text import format_share


def print_datasheet_fit(console: Console, report: DatasheetReport) -> None:
    """Print the steps with their predictions before and after, the shares, the errors, and where the fit is stored."""
    device, fit = report.device, report.fit
    count = counted(len(fit.steps), "measured step")
    console.print(f"[bold]{escape(device.name)}[/bold] ({device.id}), datasheet fitted to {count}", highlight=False)
    console.print(_steps_table(report))
    console.print(_shares_table(fit))
    for line in _error_lines(fit):
        console.print(line, highlight=False, soft_wrap=True)
    for note in report.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
    console.print(
        f"stored in {escape(str(report.path))}: every command uses it for --device {device.id};"
        f" `advisor calibrate reset --device {device.id}` undoes it",
        highlight=False,
        soft_wrap=True,
    )


def _steps_table(report: DatasheetReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "step", "measured", "datasheet", "error", "fitted", "error", "left out", "error"):
        table.add_column(column, justify="left" if column == "step" else "right", no_wrap=column != "step")
    for number, (label, step) in enumerate(zip(report.labels, report.fit.steps, strict=True), start=1):
        table.add_row(str(number), escape(label), format_duration(step.measured_s), *_predicted(step))
    return table


def _predicted(step: FittedStep) -> list[str]:
    """Time and signed error by each way to predict it."""
    cells = []
    for seconds in (step.datasheet_s, step.fitted_s, step.held_back_s):
        if seconds is None:
            cells += ["–", ""]
        else:
            cells += [format_duration(seconds), f"{seconds / step.measured_s - 1:+.1%}".replace("%", " %")]
    return cells


def _shares_table(fit: DatasheetFit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what kernels reach of the datasheet", "assumed", "fitted"):
        table.add_column(column, justify="left" if column.startswith("what") else "right")
    before, after = fit.assumed, fit.fitted
    table.add_row("matrix products, of the matrix rate", f"{before.gemm:.2f}", f"{after.gemm:.2f}")
    table.add_row("fused attention, of the matrix rate", f"{before.attention:.2f}", f"{after.attention:.2f}")
    table.add_row("everything else, of the bandwidth", f"{before.bandwidth:.2f}", f"{after.bandwidth:.2f}")
    host = (format_duration(each.host_s_per_operator) for each in (before, after))
    table.add_row("host, per operator", *host)
    return table


def _error_lines(fit: DatasheetFit) -> list[str]:
    held_back = "unknown, with a single step" if fit.held_back is None else _errors(fit.held_back)
    device, host = (f"±{fitted_half_width(r):.0%}" for r in (fit.fitted.device_relative, fit.fitted.host_relative))
    return [
        f"error on a step that the fit did not see (cross-validation): {held_back}",
        f"from the datasheet alone: {_errors(fit.datasheet)}",
        f"90 % intervals from now on: device time {device}, host time {host}".replace("%", " %").replace("  ", " "),
    ]


def _errors(errors: FitErrors) -> str:
    return f"median {format_share(errors.median)}, worst {format_share(errors.worst)}"
