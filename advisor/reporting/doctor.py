"""What was found on a machine, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from advisor.core.units import counted
from advisor.hardware.backends.contact import Check, State
from advisor.reporting.text import make_table, say

COLOURS: dict[State, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}


def print_checks(console: Console, checks: Sequence[Check], wall_s: float) -> None:
    """Print one line a check, and below each what to do about it.

    Args:
        console: Where to print.
        checks: What was looked at.
        wall_s: How long that took.
    """
    table = make_table("", "check", "found, and what to do")
    for check in checks:
        state = f"[{COLOURS[check.state]}]{check.state}[/]"
        action = f"\n[bold]->[/bold] {escape(check.action)}" if check.action else ""
        table.add_row(state, escape(check.name), f"{escape(check.found)}{action}")
    console.print(table, highlight=False)
    problems, notes = (sum(check.state == state for check in checks) for state in ("problem", "note"))
    verdict = f"{counted(problems, 'problem')} to solve first" if problems else "No problem found"
    say(console, f"{verdict}; {counted(notes, 'note')}, {counted(len(checks), 'check')} in {wall_s:.1f} s")
