"""A calibration as a table: every fitted coefficient with its sample count and residual."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.units import format_bytes, format_duration
from advisor.costmodel.calibration import Calibration


def print_calibration(console: Console, calibration: Calibration) -> None:
    """Print the class table, the fits over whole steps, and how well configurations came out that were held back."""
    table = Table(title=f"Calibration of {calibration.device_id}", title_justify="left", box=None, pad_edge=False)
    for column in ("operators", "calls timed", "residual"):
        table.add_column(column, justify="left" if column == "operators" else "right")
    for key, fit in sorted(calibration.classes.items()):
        table.add_row(key, str(fit.samples), f"{fit.residual_relative:.0%}".replace("%", " %"))
    console.print(table)
    for line in _step_lines(calibration):
        console.print(line, highlight=False)
    if calibration.partial:
        console.print(f"[yellow]partial:[/yellow] {calibration.partial}")
    for note in calibration.notes:
        console.print(f"[dim]note: {note}[/dim]")


def _step_lines(calibration: Calibration) -> list[str]:
    lines = []
    if (step := calibration.step) is not None:
        lines.append(
            f"whole steps: {step.factor:.2f} x operators + {format_duration(step.host_s_per_operator)} each,"
            f" from {step.samples} configurations,"
            f" error {step.residual_relative:.1%}, repeat noise {step.noise_relative:.1%}"
        )
    if (resident := calibration.resident) is not None:
        lines.append(
            f"resident set: {format_bytes(resident.baseline_bytes)} + allocated"
            f" + {resident.bytes_per_transient_byte:.2f} x what a step allocates,"
            f" error {resident.residual_relative:.1%}"
        )
    if (held_out := calibration.held_out) is not None:
        lines.append(
            f"step time of {held_out.samples} configurations that the fit did not see ({held_out.how}):"
            f" median error {held_out.median:.1%}, worst {held_out.worst:.1%}"
        )
    lines.append(f"took {format_duration(calibration.seconds)}")
    return [line.replace("%", " %") for line in lines]
