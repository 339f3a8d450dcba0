"""``advisor doctor``: the first look at a machine."""

from __future__ import annotations

from pathlib import Path

import click

from advisor import pipeline
from advisor.cli.options import DIR, json_option, option
from advisor.cli.output import print_answer
from advisor.core.errors import EXIT_FAILED


@click.command("doctor")
@option("--output", **DIR, show_default="the current folder", help="Folder in which results would be stored.")
@json_option
@click.pass_context
def doctor_command(context: click.Context, output: Path | None, as_json: bool) -> None:
    """Say what will work on this machine, and what to do about the rest.

    Takes at most ten seconds and stores nothing. Looks at torch's build, the driver and the card, NVML, data types,
    flash attention, bitsandbytes, free memory, load, free disk space, package versions, the hub, and whether this
    machine was probed and calibrated.

    \b
    Exit codes:
      0  nothing keeps training from working
      1  a problem does, or keeps the card from being used

    JSON keys: checks[] (name, state: ok, note or problem, found, action), works, wall_s.

    \b
    Example:
      advisor doctor
    """
    from advisor.reporting.doctor import print_checks

    found = pipeline.doctor(output)
    print_answer(found, as_json, lambda console, answer: print_checks(console, answer.checks, answer.wall_s))
    if not found.works:
        context.exit(EXIT_FAILED)
