"""``advisor calibrate``."""

from __future__ import annotations

import click

from advisor.cli.options import json_option
from advisor.core.model import TASKS, Task


@click.command("calibrate")
@click.argument("model", required=False)
@click.option("--quick", is_flag=True, help="Fewer operators and repeats; wider intervals.")
@click.option("--task", type=click.Choice(TASKS), help="Task to take the model's steps for.")
@click.option("--trust-remote-code", is_flag=True, help="Allow Python code that comes with the model.")
@click.option("--allow-pickle", is_flag=True, help="Allow pickled weights; loading them can execute code.")
@json_option
def calibrate_command(
    model: str | None, quick: bool, task: Task | None, trust_remote_code: bool, allow_pickle: bool, as_json: bool
) -> None:
    """Measure how fast operators are on this machine, and fit the cost model to it.

    With MODEL, short steps of that model are taken too, so that predictions for it are at their best. What was fitted
    is stored with its residuals and used by predict, recommend and tune. JSON: the calibration.

    \b
    Example:
      advisor calibrate ./my-model --quick
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline import ModelSource, calibrate

    source = ModelSource(model, task, trust_remote_code, allow_pickle) if model is not None else None
    with progress() as on_event:
        calibration = calibrate(source, quick=quick, on_event=on_event)
    if as_json:
        print_json(calibration)
        return
    from advisor.reporting.calibration import print_calibration

    print_calibration(answer_console(), calibration)
