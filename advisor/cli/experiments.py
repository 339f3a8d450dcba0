"""``advisor validate``: compare predictions with measurements."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor import pipeline
from advisor.cli.options import (
    DIR,
    DURATION,
    FILE,
    PATH,
    RegisteredName,
    json_option,
    option,
    picked,
    stacked,
    switch,
)
from advisor.cli.output import print_answer, progress
from advisor.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.pipeline.validating import Validation

WHAT = ("memory", "time", "all", "runs")


def shard(text: str) -> tuple[int, int]:
    """``2/3`` as ``(2, 3)``."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard must be i/n with 1 <= i <= n, but got {text!r}", fix="write for example --shard 1/2")
    return int(match[1]), int(match[2])


def _back_ends() -> list[str]:
    from advisor.hardware.backends import backend_names

    return ["auto", *backend_names()]


def _back_end(name: str) -> str:
    from advisor.hardware.backends import get_backend

    return name if name == "auto" else get_backend(name).name


_GRIDS = click.Choice(("cpu", "cpu-wide", "cuda", "quick"))
_grid_options = stacked(
    option("--grid", type=_GRIDS, show_default="that of the device here", help="Cases to run."),
    option("--device", type=RegisteredName(_back_ends, _back_end), default="auto", help="Where to run them."),
    option(
        "--shard", type=shard, default="1/1", metavar="i/n", help="Run only every n-th case, starting with the i-th."
    ),
    option("--time-limit", "time_limit_s", **DURATION, help="Start no case that would end after this time: 8min."),
    option("--output", **DIR, show_default="the user's data directory", help="Folder of the records."),
    option(
        "--repeats",
        type=click.IntRange(3, 1000),
        show_default="5",
        help="Timed steps per case; short steps are repeated more often.",
    ),
    switch("resume", True, "Keep what was measured before."),
)
_record_options = stacked(
    option(
        "--records",
        **FILE,
        multiple=True,
        help="Run nothing: compare these records. Files of the same device are taken together.",
    ),
    option("--predict-again", is_flag=True, help="With --records: predict the cases with this version."),
    option(
        "--calibration",
        **FILE,
        show_default="that of this machine",
        help="With --predict-again: predict with this calibration.",
    ),
)


@click.command("validate")
@click.argument("what", type=click.Choice(WHAT))
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN...]")
@_grid_options
@_record_options
@option("--strict", is_flag=True, help="Exit with 1 when a threshold is missed.")
@json_option
@click.pass_context
def validate_command(
    context: click.Context, what: Any, runs: tuple[Path, ...], strict: bool, as_json: bool, **options: Any
) -> None:
    """Compare predictions with real training steps.

    `memory` and `time` (of a step) predict every configuration of a grid, run it, and compare; `all` does both in one
    run. `runs` trains nothing: it compares the finished runs in the folders RUN... with what their plans predicted.

    Every case is a few steps of the stock Trainer with random weights, in a process of its own; nothing is downloaded.
    Running out of memory is a result. A case is saved as soon as it ends: stop at any time, and the same command
    continues. The grid `cuda` has configurations from 66M to 8B parameters and suits any card; `cpu-wide` (time only)
    has more than 200.

    A step time is the median of timed repeats after a warm-up; the machine should do nothing else. The table shows the
    errors beside the machine's repeat noise (some cases are measured twice), its drift (a fixed reference workload is
    timed with every case) and two rules of thumb. Configurations that the calibration measured itself are left out.

    JSON keys: header, path, records[], comparison (outcomes, errors[], fits, thresholds[], worst[]), times (cases,
    seen, predictors, errors[], reference_s, pairs, pairs_in_order, thresholds[], worst[]), remaining, stopped; for
    `runs`: records[], errors[], thresholds[], unreadable[].

    Exit codes: 0; 1 when a threshold is missed or a run has no record and --strict is given; 2 for bad input; 130 for
    Ctrl-C.

    \b
    Examples:
      advisor validate memory --grid quick
      advisor validate time --grid cpu-wide --time-limit 20min
      advisor validate all --grid cuda --shard 1/3 --time-limit 8min --output calibration/validation
      advisor validate time --records calibration/validation/time-cpu-wide-my-cpu.jsonl --predict-again
      advisor validate runs runs/first runs/second --strict
    """
    if (what == "runs") != bool(runs):
        raise InputError(
            f"`runs` needs folders of finished runs, nothing else takes any, but got {what} and {len(runs)} folders",
            fix="write for example: advisor validate runs runs/first runs/second",
        )
    if runs:
        passed = _validate_runs(runs, as_json)
    else:
        from advisor.reporting.validation import print_validation

        def show(console: Console, found: Validation) -> None:
            print_validation(console, found.header, found.records, found.comparison, found.times)

        validation = _validate(what, options)
        print_answer(validation, as_json, show)
        if validation.remaining:
            reason = f"stopped by {'Ctrl-C' if validation.stopped == 'interrupted' else 'the time limit'}"
            left = f"{validation.remaining} cases are left; the same command continues with them"
            click.echo(f"{reason}: {left}", err=True)
        if validation.stopped == "interrupted":
            context.exit(EXIT_INTERRUPTED)
        passed = not any(found.passed is False for found in validation.thresholds)
    if strict and not passed:
        context.exit(EXIT_FAILED)


def _validate(what: Any, options: dict[str, Any]) -> Validation:
    records, again = options["records"], options["predict_again"]
    if again and not records:
        raise InputError("--predict-again needs --records, but got none", fix="name the file of records")
    if options["calibration"] is not None and not again:
        raise InputError("--calibration needs --predict-again, but it was not given", fix="add --predict-again")
    with progress() as on_event:
        if records:
            chosen = picked(options, "predict_again", "calibration")
            return pipeline.recorded_validation(records, what=what, on_event=on_event, **chosen)
        chosen = picked(options, "grid", "device", "shard", "time_limit_s", "output", "resume", "repeats")
        return pipeline.validate(what, on_event=on_event, **chosen)


def _validate_runs(folders: tuple[Path, ...], as_json: bool) -> bool:
    """Whether every folder has a record and every threshold is met."""
    from advisor.reporting.validation import runs_tables

    comparison = pipeline.validate_runs(folders)
    print_answer(comparison, as_json, lambda console, answer: click.echo(runs_tables(answer)))
    for reason in () if as_json else comparison.unreadable:
        click.echo(f"left out: {reason}", err=True)
    return all(found.passed is True for found in comparison.thresholds) and not comparison.unreadable
