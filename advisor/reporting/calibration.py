"""A calibration as a table: every coefficient with its residual."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from advisor.core.serialization import to_dict


def print_calibration(console: Console, calibration: Any) -> None:
    """Print the calibration's own summary lines, or its scalar fields when it brings none."""
    summary = getattr(calibration, "summary_lines", None)
    if callable(summary):
        for line in summary():
            console.print(line, highlight=False)
        return
    for name, value in to_dict(calibration).items():
        if isinstance(value, str | int | float | bool):
            console.print(f"{name.replace('_', ' ')}: {value}", highlight=False)
