"""``advisor run``."""

from __future__ import annotations

from pathlib import Path

import click

from advisor.cli.options import json_option


@click.command("run")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), metavar="DIR", help="New folder for the results."
)
@click.option("--resume", is_flag=True, help="Continue the interrupted run in --output.")
@click.option("--any-device", is_flag=True, help="Run on this machine even if the plan was made for another device.")
@json_option
def run_command(plan: Path, output: Path, resume: bool, any_device: bool, as_json: bool) -> None:
    """Train a plan, evaluate and save the result, and compare it with the prediction.

    After Ctrl-C or a crash, --resume continues from the last checkpoint. DIR receives the trained adapter or model
    (safetensors), checkpoints, and record.json with all measurements.

    JSON keys: outcome, method, metrics, verifications[] (quantity, predicted, measured, low, high, verdict,
    relative_error), predicted, measured, device_id, output_dir.

    \b
    Example:
      advisor run plan.json --output runs/first
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline import run

    with progress() as on_event:
        record = run(plan, output, resume=resume, any_device=any_device, on_event=on_event)
    if as_json:
        from advisor.reporting.answers import run_answer

        print_json(run_answer(record))
        return
    from advisor.reporting.run import print_run

    print_run(answer_console(), record)
    click.echo(f"\nresult and record.json are in {output}")
