"""``advisor show``: a plan in words, and where its numbers come from."""

from __future__ import annotations

from pathlib import Path

import click

from advisor.cli.options import PATH, json_option, option
from advisor.cli.output import print_answer


@click.command("show")
@click.argument("plan", type=PATH)
@option("--why", is_flag=True, help="Show where each predicted number comes from.")
@json_option
def show_command(plan: Path, why: bool, as_json: bool) -> None:
    """Show a PLAN, and why its numbers are what they are.

    PLAN is a plan.json, or the folder of a run or a study that holds one. Nothing is computed: everything is read from
    the file, whatever version wrote it. --why names the source of each number: memory by trace, count and allocator;
    times by calibration, probe or datasheet; quality by its state and its parts; and every limit beside what is needed.

    JSON keys: plan, and with --why why[] (section, figure, value, low, high, evidence, origin, shown, shown_interval).

    \b
    Example:
      advisor show plan.json --why
    """
    from advisor.core.plan import load_plan
    from advisor.reporting.why import print_plan, show_answer

    file = plan / "plan.json" if plan.is_dir() else plan
    print_answer(
        load_plan(file),
        as_json,
        lambda console, answer: print_plan(console, answer, title=str(plan), why=why),
        lambda answer: show_answer(answer, why=why),
    )
