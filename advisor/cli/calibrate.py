"""``advisor calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from advisor.cli.options import json_option
from advisor.core.errors import InputError
from advisor.core.model import TASKS, Task

if TYPE_CHECKING:
    from advisor.costmodel.calibration.summary import CalibrationReport

FILE = click.Path(path_type=Path)


@click.command("calibrate")
@click.argument("model", required=False)
@click.option("--quick", is_flag=True, help="At most a minute: fewer operators, steps and repeats; wider intervals.")
@click.option("--fresh", is_flag=True, help="Forget what is known and measure everything anew.")
@click.option("--task", type=click.Choice(TASKS), help="Task to take the model's steps for.")
@click.option("--trust-remote-code", is_flag=True, help="Allow Python code that comes with the model.")
@click.option("--allow-pickle", is_flag=True, help="Allow pickled weights; loading them can execute code.")
@click.option("--show", is_flag=True, help="Measure nothing: print what is stored.")
@click.option(
    "--export", "export_path", type=FILE, metavar="FILE", help="Measure nothing: write what is stored to FILE."
)
@click.option(
    "--import", "import_paths", type=FILE, multiple=True, metavar="FILE", help="Measure nothing: add FILE; repeatable."
)
@click.option(
    "--device",
    metavar="NAME",
    show_default="this machine",
    help="With --show or --export: of which device; `--export FILE --device all` for all.",
)
@json_option
def calibrate_command(
    model: str | None,
    quick: bool,
    fresh: bool,
    task: Task | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    show: bool,
    export_path: Path | None,
    import_paths: tuple[Path, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Measure how fast operators and steps are on this machine, and fit the cost model to it.

    With MODEL, steps of that model are taken, so that predictions for it are at their best. What is known already is
    not measured again: a second model adds to the first, and an interrupted or killed calibration goes on where it
    ended. predict, recommend, fit and tune use the result; none of them uses one that was made with another driver,
    Python, core count or library version as if it were this machine's.

    An export holds the raw points, the device profile, versions, and who measured what, under a checksum. Importing
    adds files of the same device, driver and library versions to what is stored, drops duplicates and fits again; with
    --fresh the files replace it. Nothing is imported unless every file can be.

    \b
    Exit codes:
      0    done
      1    not one operator or step could be measured
      2    a file is damaged, changed or newer; devices or versions differ; the data folder cannot be written;
           another calibration is under way
      130  Ctrl-C: what was measured is fitted and kept, marked partial; the same command completes it

    JSON keys: calibration, device_name, path, new_replays, new_points, coverage[], unknown[], differences[], wall_s;
    with --import: calibrations[] of these, shares[]; with --export: the file without its calibrations, and path.

    \b
    Examples:
      advisor calibrate ./my-model --quick
      advisor calibrate ./my-model
      advisor calibrate --show
      advisor calibrate --export node-1.json
      advisor calibrate --import node-1.json --import node-2.json
    """
    _check_combination(
        measuring={"MODEL": model, "--quick": quick, "--task": task},
        jobs={"--show": show, "--export": export_path, "--import": import_paths},
        fresh=fresh,
        device=device,
    )
    if export_path is not None:
        _export(export_path, device or "auto", as_json)
    elif import_paths:
        _import(import_paths, fresh, as_json)
    elif show:
        from advisor.pipeline.calibrating import stored_calibration

        _answer(stored_calibration(device or "auto"), as_json)
    else:
        from advisor.cli.output import progress
        from advisor.pipeline import ModelSource, calibrate

        source = ModelSource(model, task, trust_remote_code, allow_pickle) if model is not None else None
        with progress() as on_event:
            report = calibrate(source, quick=quick, fresh=fresh, on_event=on_event)
        _answer(report, as_json)


def _check_combination(
    *, measuring: dict[str, object], jobs: dict[str, object], fresh: bool, device: str | None
) -> None:
    """Refuse options that do not go together, all at once.

    Raises:
        InputError: naming them.
    """
    asked = [name for name, value in jobs.items() if value]
    given = [name for name, value in measuring.items() if value]
    problems = []
    if len(asked) > 1:
        problems.append(f"only one of {', '.join(jobs)} can be done at once, but got {' and '.join(asked)}")
    if asked and given:
        problems.append(f"{asked[0]} measures nothing, but got {', '.join(given)}")
    if fresh and asked and asked != ["--import"]:
        problems.append(f"--fresh goes with measuring or --import, but got {asked[0]}")
    if device is not None and not asked:
        problems.append(f"only the machine at hand can be calibrated, but got --device {device}")
    if device is not None and "--import" in asked:
        problems.append("--device goes with --show or --export, but got --import")
    if problems:
        raise InputError("these options do not go together", problems=problems, fix="`advisor calibrate --help`")


def _answer(report: CalibrationReport, as_json: bool) -> None:
    from advisor.cli.output import answer_console, print_json

    if as_json:
        print_json(report)
        return
    from advisor.reporting.calibration import print_calibration

    print_calibration(answer_console(), report)


def _export(path: Path, device: str, as_json: bool) -> None:
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.calibrating import export_calibration
    from advisor.reporting.calibration import export_summary, print_export

    written = export_calibration(path, device)
    if as_json:
        print_json(export_summary(path, written))
    else:
        print_export(answer_console(), path, written)


def _import(paths: tuple[Path, ...], fresh: bool, as_json: bool) -> None:
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline.calibrating import import_calibrations

    with progress() as on_event:
        report = import_calibrations(paths, fresh=fresh, on_event=on_event)
    if as_json:
        print_json(report)
        return
    from advisor.reporting.calibration import print_import

    print_import(answer_console(), report)
