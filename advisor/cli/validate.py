"""``advisor validate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor.cli.options import DURATION, json_option
from advisor.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from advisor.pipeline.validating import Validation

WHAT = ("memory", "time", "all", "runs")


class ShardType(click.ParamType):
    """``2/3`` as ``(2, 3)``."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", value)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(
                f"--shard must be i/n with 1 <= i <= n, but got {value!r}", fix="write for example --shard 1/2"
            )
        return int(match[1]), int(match[2])


class BackEndType(click.ParamType):
    """The name of a registered back end, built in or of another package, or ``auto``."""

    name = "back end"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        from advisor.hardware.backends import backend_names

        return f"[auto|{'|'.join(backend_names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from advisor.hardware.backends import get_backend

        return value if value == "auto" else get_backend(value).name


@click.command("validate")
@click.argument("what", type=click.Choice(WHAT))
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN...]")
@click.option(
    "--grid",
    type=click.Choice(("cpu", "cpu-wide", "cuda", "quick")),
    show_default="that of the device here",
    help="Cases to run.",
)
@click.option("--device", type=BackEndType(), default="auto", show_default=True, help="Where to run them.")
@click.option("--shard", type=ShardType(), default="1/1", metavar="i/n", help="Every n-th case from the i-th on.")
@click.option(
    "--time-limit", "time_limit_s", type=DURATION, metavar="DURATION", help="Begin no case that would end later: 8min."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="the user's data directory",
    help="Folder of the records.",
)
@click.option(
    "--repeats", type=click.IntRange(3, 1000), show_default="5", help="Timed steps per case, more of short ones."
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Keep what was measured before.")
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="Run nothing: compare these records, of whatever device; several files of one device count as one.",
)
@click.option("--predict-again", is_flag=True, help="With --records: predict the cases with this version.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default="that of this machine",
    help="With --predict-again: predict with this calibration.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 when a threshold is missed.")
@json_option
@click.pass_context
def validate_command(
    context: click.Context,
    what: Any,
    runs: tuple[Path, ...],
    grid: Any,
    device: Any,
    shard: tuple[int, int],
    time_limit_s: float | None,
    output: Path | None,
    repeats: int | None,
    resume: bool,
    records: tuple[Path, ...],
    predict_again: bool,
    calibration: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Check the predictions: run a grid of configurations for real and compare them with what was predicted beforehand.

    WHAT is `memory`, `time` (of a step), `all` (both in one run), or `runs`: the finished runs in the folders RUN...

    Every case runs in a process of its own, a few steps of the stock Trainer with random weights; nothing is
    downloaded. Running out of memory is a result. Every case is on disk as soon as it has ended: stop at any time, and
    the same command continues. The grid `cuda` has configurations from 66M to 8B parameters and suits any card;
    `cpu-wide` (time) has more than 200.

    Step times are medians of timed repeats after a warm-up, on a machine that should do nothing else. The table shows
    their errors beside the machine's own repeat noise (some cases are measured twice), its drift (a fixed workload is
    timed with every case), and two baselines. Configurations that the calibration measured itself do not count.

    JSON keys: header, path, remaining, stopped, comparison (outcomes, groups[], fits, thresholds[], worst[]), times
    (cases, seen, predictors, groups[], steady, noise, drift, order, baselines[], thresholds[], worst[]), records[]; of
    runs: records[], errors, thresholds[], unreadable[].

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
    if what == "runs":
        _validate_runs(context, runs, strict, as_json)
        return
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline import recorded_validation, validate

    if predict_again and not records:
        raise InputError("--predict-again needs --records, but got none", fix="name the file of records")
    if calibration is not None and not predict_again:
        raise InputError("--calibration needs --predict-again, but it was not given", fix="add --predict-again")
    with progress() as on_event:
        if records:
            validation = recorded_validation(
                records, what=what, predict_again=predict_again, calibration=calibration, on_event=on_event
            )
        else:
            validation = validate(
                what,
                grid=grid,
                device=device,
                shard=shard,
                time_limit_s=time_limit_s,
                output=output,
                resume=resume,
                repeats=repeats,
                on_event=on_event,
            )
    if as_json:
        print_json(validation)
    else:
        from advisor.reporting.validation import print_validation

        print_validation(
            answer_console(), validation.header, validation.records, validation.comparison, validation.times
        )
    _say_what_is_left(validation)
    if validation.stopped == "interrupted":
        context.exit(EXIT_INTERRUPTED)
    if strict and any(found.passed is False for found in validation.thresholds):
        context.exit(EXIT_FAILED)


def _validate_runs(context: click.Context, folders: tuple[Path, ...], strict: bool, as_json: bool) -> None:
    from advisor.cli.output import print_json
    from advisor.pipeline import validate_runs

    comparison = validate_runs(folders)
    if as_json:
        print_json(comparison)
    else:
        from advisor.reporting.validation import runs_tables

        click.echo(runs_tables(comparison))
        for reason in comparison.unreadable:
            click.echo(f"left out: {reason}", err=True)
    missed = any(found.passed is not True for found in comparison.thresholds)
    if strict and (missed or comparison.unreadable):
        context.exit(EXIT_FAILED)


def _say_what_is_left(validation: Validation) -> None:
    if validation.remaining:
        reason = f"stopped by {'Ctrl-C' if validation.stopped == 'interrupted' else 'the time limit'}"
        click.echo(f"{reason}: {validation.remaining} cases are left; the same command continues with them", err=True)
