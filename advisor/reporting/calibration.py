"""A calibration as text: what was measured, every fitted class, how well it predicts what it has not seen, and what
is missing.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.coefficients import Calibration, Contribution
from advisor.core.units import counted, format_bytes, format_duration
from advisor.reporting.text import format_share

if TYPE_CHECKING:
    from advisor.calibration.exchange import CalibrationFile
    from advisor.calibration.report import CalibrationReport, Forgotten, ImportReport


def print_calibration(console: Console, report: CalibrationReport) -> None:
    """Print what was measured, the class table, the fits over whole steps, their error, and what is missing."""
    calibration = report.calibration
    console.print(
        f"[bold]Calibration of {escape(report.device_name)}[/bold] ({calibration.device_id})", highlight=False
    )
    _print_lines(console, [_measured_line(report), ""])
    if report.coverage:
        console.print(_coverage_table(report))
    own = f"{len(calibration.operators)} operators have a row of their own"
    _print_lines(console, ["", f"Class table: {counted(len(calibration.classes), 'row')} by class; {own}"])
    console.print(_class_table(calibration))
    _print_lines(console, ["", *_fit_lines(calibration), *_error_lines(calibration), *_origin_lines(calibration)])
    if calibration.partial:
        console.print(f"[yellow]partial:[/yellow] {escape(calibration.partial)}", highlight=False)
    if report.differences:
        console.print("[yellow]not used here as calibrated, because versions differ:[/yellow]", highlight=False)
        _print_lines(console, [f"  - {line}" for line in report.differences])
    if report.unknown:
        _print_lines(console, ["Missing:", *(f"  - {line}" for line in report.unknown)])
    for note in calibration.notes:
        console.print(f"[dim]note: {escape(note)}[/dim]", highlight=False)
    _print_lines(console, [_closing_line(report)])


def print_import(console: Console, report: ImportReport) -> None:
    """Print what every file brought, and the calibrations as they are now."""
    table = Table(box=None, pad_edge=False)
    for column in ("from", "new calls", "new configurations", "duplicates dropped"):
        table.add_column(column, justify="left" if column == "from" else "right")
    for share in report.shares:
        table.add_row(escape(share.name), str(share.replays), str(share.points), str(share.duplicates))
    console.print(table)
    for calibration in report.calibrations:
        console.print()
        print_calibration(console, calibration)


def print_forgotten(console: Console, forgotten: Forgotten) -> None:
    """Print what was forgotten about a device."""
    lines = []
    if forgotten.fit is not None:
        lines.append(f"{forgotten.device_id} is predicted from its datasheet again; removed {forgotten.fit}")
    if forgotten.calibrations:
        lines.append(f"{counted(forgotten.calibrations, 'calibration')} of {forgotten.device_id} forgotten")
    _print_lines(console, lines)


def print_export(console: Console, path: Path, written: CalibrationFile) -> None:
    """Print what the file holds and how it is used."""
    summary = export_summary(path, written)
    for entry in summary["calibrations"]:
        _print_lines(
            console,
            [f"{entry['device']}: {_both(entry['replays'], entry['points'])}, made with"]
            + [f"  {name} {version}" for name, version in entry["versions"].items()],
        )
    _print_lines(
        console,
        [
            f"written to {path} ({format_bytes(path.stat().st_size)}, {written.checksum[:19]}…)",
            f"elsewhere: advisor calibrate import {path.name}",
        ],
    )


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


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


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
    table = Table(box=None, pad_edge=False)
    for column in ("steps of", "methods", "micro-batches", "configurations", "repeat noise"):
        table.add_column(column, justify="right" if column in ("configurations", "repeat noise") else "left")
    for model in report.coverage:
        small, large = model.shapes[0], model.shapes[-1]
        shapes = f"{small[0]} x {small[1]}" + (f" to {large[0]} x {large[1]}" if large != small else "") + " tokens"
        table.add_row(
            escape(model.model_key),
            ", ".join(model.methods),
            shapes,
            str(model.configurations),
            format_share(model.noise_median),
        )
    return table


def _class_table(calibration: Calibration) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("operators", "calls timed", "residual"):
        table.add_column(column, justify="left" if column == "operators" else "right")
    for key, fit in sorted(calibration.classes.items()):
        table.add_row(key, str(fit.samples), format_share(fit.residual_relative))
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
            f" + {resident.bytes_per_heap_byte:.2f} x what steps make the heap grow to,"
            f" error {format_share(resident.residual_relative)}"
        )
    return lines


def _error_lines(calibration: Calibration) -> list[str]:
    """What it predicts of steps that it has not seen, beside what the machine itself repeats."""
    noises = [point.noise_relative for point in calibration.points]
    noise = f"; the machine's own repeat noise is {format_share(statistics.median(noises))}" if noises else ""
    if (held_out := calibration.held_out) is None:
        return [f"its error on configurations that it has not seen is unknown{noise}"]
    lines = [
        f"step time of {counted(held_out.samples, 'configuration')} that the fit did not see ({held_out.how}):"
        f" median error {format_share(held_out.median)}, worst {format_share(held_out.worst)}{noise}"
    ]
    if calibration.step is not None and calibration.step.transfer_relative is not None:
        lines.append(
            "unseen models (each left out as a whole): root mean square error"
            f" {format_share(calibration.step.transfer_relative)}"
        )
    return lines


def _origin_lines(calibration: Calibration) -> list[str]:
    """Who measured what, where that is more than this machine."""
    if not any(entry.file for entry in calibration.provenance):
        return []
    return ["from:", *(f"  - {_origin(entry)}" for entry in calibration.provenance)]


def _origin(entry: Contribution) -> str:
    where = f"in {entry.file}, " if entry.file else ""
    machine = entry.machine.get("device", "an unknown machine")
    return (
        f"{_both(entry.replays, entry.points)}, {where}measured {entry.measured_at[:10]} on {machine}"
        f" by finetune-advisor {entry.advisor_version}"
    )


def _closing_line(report: CalibrationReport) -> str:
    took = f"took {format_duration(report.wall_s)}; " if report.wall_s else ""
    return f"{took}measured in {format_duration(report.calibration.seconds)} altogether, stored in {report.path}"
