"""Profiles of a step as a table: families of operators by phase, several methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from advisor.core.units import format_duration
from advisor.reporting.text import format_share, make_table, print_table, say

if TYPE_CHECKING:
    from advisor.experiments.operator_families import StepFamilies

LEAST_SHARE = 0.001
"""Of the step: smaller rows are left out."""
MANY_UNSEEN = 0.1


def print_profile(console: Console, profile: StepFamilies) -> None:
    """Print one step by family and phase, measured and predicted."""
    title = (
        f"{profile.method}: where a step of {profile.micro_batch_size} rows of {profile.seq_length} tokens goes "
        f"({format_duration(profile.step_s)}, predicted {format_duration(profile.predicted_s)})"
    )
    table = make_table("operators", "phase", ">measured", ">share", ">predicted", ">share", ">calls", title=title)
    for row in profile.families:
        shares = row.measured_s / profile.step_s, row.predicted_s / profile.predicted_s
        if max(shares) >= LEAST_SHARE:
            table.add_row(
                row.family,
                row.phase,
                _milliseconds(row.measured_s),
                format_share(shares[0]),
                _milliseconds(row.predicted_s),
                format_share(shares[1]),
                f"{row.calls:,}" if row.calls else "",
            )
    print_table(console, table, dispensable=("calls",))
    if profile.unseen_share > MANY_UNSEEN:
        say(console, f"  operators that make {profile.unseen_share:.0%} of the predicted time were not found")
    if profile.load:
        say(console, f"  [yellow]measured on a busy machine:[/] {profile.load}")


def print_profiles(console: Console, profiles: Sequence[StepFamilies]) -> None:
    """Print every profile, then the methods side by side: measured seconds and shares by family."""
    for profile in profiles:
        print_profile(console, profile)
    if len(profiles) < 2:
        return
    first = profiles[0]
    columns = [f">{profile.method}" for profile in profiles]
    table = make_table("operators", *columns, title="measured time of a step by method, and its share")
    for family in dict.fromkeys(row.family for profile in profiles for row in profile.families):
        shares = [(profile.measured_share(family), profile.step_s) for profile in profiles]
        table.add_row(family, *(f"{_milliseconds(share * step_s)} ({format_share(share)})" for share, step_s in shares))
    ratios = [f"{_milliseconds(profile.step_s)} ({profile.step_s / first.step_s:.2f}x)" for profile in profiles]
    table.add_row("step", *ratios)
    console.print(table)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"
