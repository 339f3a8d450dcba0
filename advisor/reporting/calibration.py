"""A calibration as text: what was measured, every fitted class, how well it predicts what it has not seen, and what
is missing; its export and import; and a datasheet that was corrected by measured steps.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.coefficients import Calibration
from advisor.core.units import counted, format_bytes, format_duration
from advisor.costmodel.time.step import fitted_half_width
from advisor.reporting.text import format_change, format_share, make_table, remark, say

if TYPE_CHECKING:
    from advisor.calibration.datasheet import DatasheetFit, DatasheetReport, FitErrors, FittedStep
    from advisor.calibration.exchange import CalibrationFile
    from advisor.calibration.report import CalibrationReport, Forgotten, ImportReport


def print_calibration(console: Console, report: CalibrationReport) -> None:
    """Print what was measured, the class table, the fits over whole steps, their error, and what is missing."""
    calibration = report.calibration
    say(console, f"[bold]Calibration of {escape(report.device_name)}[/bold] ({calibration.device_id})")
    _print_lines(console, _measured_line(report), "")
    if report.coverage:
        console.print(_coverage_table(report))
    own = f"{len(calibration.operators)} operators have a row of their own"
    _print_lines(console, "", f"Class table: {counted(len(calibration.classes), 'row')} by class; {own}")
    table = make_table("operators", ">calls timed", ">residual")
    for key, fit in sorted(calibration.classes.items()):
        table.add_row(key, str(fit.samples), format_share(fit.residual_relative))
    console.print(table)
    _print_lines(console, "", *_fit_lines(calibration), *_error_lines(calibration), *_origin_lines(calibration))
    if calibration.partial:
        remark(console, calibration.partial, "partial:")
    if report.differences:
        remark(console, "", "not used as calibrated, because versions differ:")
        _print_lines(console, *(f"  - {line}" for line in report.differences))
    if report.unknown:
        _print_lines(console, "Missing:", *(f"  - {line}" for line in report.unknown))
    for note in calibration.notes:
        remark(console, f"note: {note}")
    took = f"took {format_duration(report.wall_s)}; " if report.wall_s else ""
    total = format_duration(calibration.seconds)
    _print_lines(console, f"{took}measured in {total} altogether, stored in {report.path}")


def print_import(console: Console, report: ImportReport) -> None:
    """Print what every file brought, and the calibrations as they are now."""
    table = make_table("from", ">new calls", ">new configurations", ">duplicates dropped")
    for share in report.shares:
        table.add_row(escape(share.name), str(share.replays), str(share.points), str(share.duplicates))
    console.print(table)
    for calibration in report.calibrations:
        console.print()
        print_calibration(console, calibration)


def print_forgotten(console: Console, forgotten: Forgotten) -> None:
    """Print what was forgotten about a device."""
    if forgotten.fit is not None:
        text = f"{forgotten.device_id} is predicted from its datasheet again; removed {forgotten.fit}"
        _print_lines(console, text)
    if forgotten.calibrations:
        _print_lines(console, f"{counted(forgotten.calibrations, 'calibration')} of {forgotten.device_id} forgotten")


def print_export(console: Console, summary: dict[str, Any]) -> None:
    """Print what the file of an :func:`export_summary` holds and how it is used."""
    path = Path(summary["path"])
    for entry in summary["calibrations"]:
        held = f"{entry['device']}: {_both(entry['replays'], entry['points'])}, made with"
        _print_lines(console, held, *(f"  {name} {version}" for name, version in entry["versions"].items()))
    size = format_bytes(path.stat().st_size)
    _print_lines(console, f"written to {path} ({size}, {summary['checksum'][:19]}…)")
    _print_lines(console, f"elsewhere: advisor calibrate import {path.name}")


def export_summary(path: Path, written: CalibrationFile) -> dict[str, Any]:
    """What an export holds, without the points."""
    return {
        "path": str(path),
        "advisor_version": written.advisor_version,
        "created_at": written.created_at,
        "checksum": written.checksum,
        "calibrations": [
            {
                "device": entry.calibration.device_id,
                "versions": entry.calibration.versions,
                "replays": len(entry.calibration.replays),
                "points": len(entry.calibration.points),
                "provenance": entry.calibration.provenance,
            }
            for entry in written.calibrations
        ],
    }


def print_datasheet_fit(console: Console, report: DatasheetReport) -> None:
    """Print the steps with their predictions before and after, the shares, the errors, and where the fit is stored."""
    device, fit = report.device, report.fit
    count = counted(len(fit.steps), "measured step")
    say(console, f"[bold]{escape(device.name)}[/bold] ({device.id}), datasheet fitted to {count}")
    table = make_table(
        ">", "step", ">measured", ">datasheet", ">error", ">fitted", ">error", ">cross-validated", ">error"
    )
    for number, (label, step) in enumerate(zip(report.labels, fit.steps, strict=True), start=1):
        table.add_row(str(number), escape(label), format_duration(step.measured_s), *_predicted(step))
    console.print(table)
    console.print(_shares_table(fit))
    for line in _datasheet_error_lines(fit):
        say(console, line)
    for note in report.notes:
        remark(console, note, "note:")
    _print_lines(
        console,
        f"stored in {report.path}: every command uses it for --device {device.id};"
        f" `advisor calibrate reset --device {device.id}` undoes it",
    )


def _print_lines(console: Console, *lines: str) -> None:
    for line in lines:
        say(console, escape(line))


def _both(calls: int, configurations: int) -> str:
    return f"{counted(calls, 'operator call')} and steps of {counted(configurations, 'configuration')}"


def _measured_line(report: CalibrationReport) -> str:
    calls = len(report.calibration.replays)
    configurations = len({point.same_steps for point in report.calibration.points})
    known = calls - report.new_replays, configurations - report.new_points
    if not report.new_replays and not report.new_points:
        return f"{_both(calls, configurations)}, all measured before"
    parts = [f"new: {_both(report.new_replays, report.new_points)}"]
    if any(known):
        parts.append(f"measured before: {known[0]} and {known[1]}")
    return "; ".join(parts)


def _coverage_table(report: CalibrationReport) -> Table:
    table = make_table("steps of", "methods", "micro-batches", ">configurations", ">repeat noise")
    for model in report.coverage:
        small, large = model.shapes[0], model.shapes[-1]
        shapes = f"{small[0]} x {small[1]}" + (f" to {large[0]} x {large[1]}" if large != small else "") + " tokens"
        noise = format_share(model.noise_median)
        table.add_row(escape(model.model_key), ", ".join(model.methods), shapes, str(model.configurations), noise)
    return table


def _fit_lines(calibration: Calibration) -> list[str]:
    lines = []
    for what, fit in (("whole steps", calibration.step), ("evaluation passes", calibration.evaluation)):
        if fit is not None:
            lines.append(
                f"{what}: {fit.factor:.2f} x operators + {format_duration(fit.host_s_per_operator)} each,"
                f" from {counted(fit.samples, 'configuration')}"
            )
    if (resident := calibration.resident) is not None:
        lines.append(
            f"resident set: {format_bytes(resident.baseline_bytes)} + weights"
            f" + {resident.bytes_per_heap_byte:.2f} x the largest heap of a step,"
            f" error {format_share(resident.residual_relative)}"
        )
    return lines


def _error_lines(calibration: Calibration) -> list[str]:
    """What it predicts of steps that it has not seen, beside what the machine itself repeats."""
    noises = [point.noise_relative for point in calibration.points]
    noise = f"; the machine's own repeat noise is {format_share(statistics.median(noises))}" if noises else ""
    if (held_out := calibration.held_out) is None:
        return [f"the error on other configurations is unknown{noise}"]
    lines = [
        f"cross-validation of step times, {counted(held_out.samples, 'configuration')} ({held_out.how}):"
        f" median error {format_share(held_out.median)}, worst {format_share(held_out.worst)}{noise}"
    ]
    if calibration.step is not None and calibration.step.transfer_relative is not None:
        lines.append(
            "cross-validation over models (each left out as a whole): root mean square error"
            f" {format_share(calibration.step.transfer_relative)}"
        )
    return lines


def _origin_lines(calibration: Calibration) -> list[str]:
    """Who measured what, where that is more than this machine."""
    lines = ["from:"]
    for entry in calibration.provenance:
        where = f"in {entry.file}, " if entry.file else ""
        machine = entry.machine.get("device", "an unknown machine")
        measured = f"measured {entry.measured_at[:10]} on {machine} by finetune-advisor {entry.advisor_version}"
        lines.append(f"  - {_both(entry.replays, entry.points)}, {where}{measured}")
    return lines if any(entry.file for entry in calibration.provenance) else []


def _predicted(step: FittedStep) -> list[str]:
    """Time and signed error by each way to predict it."""
    cells = []
    for value_s in (step.datasheet_s, step.fitted_s, step.held_back_s):
        if value_s is None:
            cells += ["–", ""]
        else:
            cells += [format_duration(value_s), format_change(value_s / step.measured_s - 1)]
    return cells


def _shares_table(fit: DatasheetFit) -> Table:
    table = make_table("share of the datasheet reached", ">assumed", ">fitted")
    before, after = fit.assumed, fit.fitted
    table.add_row("matrix products, of the matrix rate", f"{before.gemm:.2f}", f"{after.gemm:.2f}")
    table.add_row("fused attention, of the matrix rate", f"{before.attention:.2f}", f"{after.attention:.2f}")
    table.add_row("everything else, of the bandwidth", f"{before.bandwidth:.2f}", f"{after.bandwidth:.2f}")
    table.add_row("host, per operator", *(format_duration(each.host_s_per_operator) for each in (before, after)))
    return table


def _datasheet_error_lines(fit: DatasheetFit) -> list[str]:
    held_back = "unknown, with a single step" if fit.held_back is None else _errors(fit.held_back)
    device, host = (f"±{fitted_half_width(r):.0%}" for r in (fit.fitted.device_relative, fit.fitted.host_relative))
    return [
        f"cross-validation, each step left out of the fit: {held_back}",
        f"from the datasheet alone: {_errors(fit.datasheet)}",
        f"90 % intervals from now on: device time {device}, host time {host}".replace("%", " %").replace("  ", " "),
    ]


def _errors(errors: FitErrors) -> str:
    return f"median {format_share(errors.median)}, worst {format_share(errors.worst)}"
