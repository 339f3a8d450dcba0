"""``advisor calibrate``: measure, show, exchange, correct or forget a device's calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from advisor.cli.options import json_option, task_option, trust_options
from advisor.core.device import DeviceProfile

if TYPE_CHECKING:
    from advisor.calibration.report import CalibrationReport

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
RUN, SHOW, EXPORT, IMPORT, FROM_STEPS, RESET = "run", "show", "export", "import", "from-steps", "reset"


class CalibrateGroup(click.Group):
    """Takes the options of version 0.1 too, and says how they are spelled now."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and (args[0] in self.commands or args[0] in ctx.help_option_names):
            return super().parse_args(ctx, args)
        translated = _translated(args)
        spelled = " ".join(["advisor calibrate", *translated])
        click.echo(f"note: the commands of calibrate have names now; this is `{spelled}`", err=True)
        return super().parse_args(ctx, translated)


def _translated(args: Sequence[str]) -> list[str]:
    """The arguments of version 0.1 (``--show``, ``--export FILE``, ...) as a command and its own arguments."""
    rest = [part for argument in args for part in (argument.split("=", 1) if argument.startswith("--") else [argument])]
    if "--show" in rest:
        return [SHOW, *(part for part in rest if part != "--show")]
    if "--steps" in rest:
        return [FROM_STEPS, *rest]
    for option, command in (("--export", EXPORT), ("--import", IMPORT)):
        if option in rest:
            return [command, *(part for part in rest if part != option)]
    if "--device" in rest and "--fresh" in rest:
        return [RESET, *(part for part in rest if part != "--fresh")]
    return [RUN, *rest]


@click.group("calibrate", cls=CalibrateGroup)
def calibrate_command() -> None:
    """Measure how fast operators and steps are on this machine, and fit the cost model to it.

    predict, recommend, fit and tune use the result. A calibration that was made with another driver, Python, core
    count or library version is used for this machine only as `transferred`.

    \b
    Examples:
      advisor calibrate run ./my-model --quick
      advisor calibrate show
      advisor calibrate export node-1.json
      advisor calibrate import node-1.json node-2.json
      advisor calibrate from-steps steps.json --device a100-sxm4-80gb
      advisor calibrate reset --device a100-sxm4-80gb
    """


def _device_option(help_text: str) -> Callable[[F], F]:
    return click.option("--device", default="auto", metavar="NAME", show_default="this machine", help=help_text)


@calibrate_command.command(RUN)
@click.argument("model", required=False)
@click.option("--quick", is_flag=True, help="At most a minute: fewer operators, steps and repeats; wider intervals.")
@click.option("--fresh", is_flag=True, help="Measure everything again, also what is stored.")
@task_option
@trust_options
@json_option
def run_command(
    model: str | None,
    quick: bool,
    fresh: bool,
    task: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Time this machine's operators and some training steps, and fit the cost model to them.

    With MODEL, steps of that model are timed too; predictions for it are then the most accurate. Stored measurements
    are reused: a second model adds to the first, and an interrupted calibration continues where it stopped.

    \b
    Exit codes:
      0    done
      1    not one operator or step could be measured
      2    the data folder cannot be written; another calibration is running
      130  Ctrl-C: what was measured is fitted and kept, marked partial; the same command completes it

    JSON keys: calibration, device_name, path, new_replays, new_points, coverage[], unknown[], differences[], wall_s.
    """
    from advisor.cli.output import progress
    from advisor.pipeline import ModelSource, calibrate

    source = ModelSource(model, task, trust_remote_code, allow_pickle) if model is not None else None
    with progress() as on_event:
        report = calibrate(source, quick=quick, fresh=fresh, on_event=on_event)
    _answer(report, as_json)


@calibrate_command.command(SHOW)
@_device_option("Whose calibration, or whose corrected datasheet.")
@json_option
def show_command(device: str, as_json: bool) -> None:
    """Print the stored calibration: what was measured, how well it fits, and what is missing.

    JSON keys: as of `advisor calibrate run`; of a corrected datasheet, the device profile.
    """
    from advisor.pipeline.calibrating import show

    _answer(show(device), as_json)


@calibrate_command.command(EXPORT)
@click.argument("file", type=FILE)
@_device_option("Whose calibration; `all` for every device that has one.")
@json_option
def export_command(file: Path, device: str, as_json: bool) -> None:
    """Write the stored calibration to a new FILE for other machines of the same kind.

    The file holds the raw measurements, the device profile, versions and who measured what, under a checksum.

    JSON keys: those of the file without its calibrations, and path.
    """
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.calibrating import export
    from advisor.reporting.calibration import export_summary, print_export

    written = export(file, device)
    if as_json:
        print_json(export_summary(file, written))
    else:
        print_export(answer_console(), file, written)


@calibrate_command.command(IMPORT)
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option("--fresh", is_flag=True, help="Replace what is stored instead of adding to it.")
@json_option
def import_command(files: tuple[Path, ...], fresh: bool, as_json: bool) -> None:
    """Add exported calibrations of the same device, driver and library versions, and fit again.

    Measurements that are stored already count once. Either every file is imported or none.

    JSON keys: calibrations[] (each as of `advisor calibrate run`), shares[].
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline.calibrating import import_

    with progress() as on_event:
        report = import_(files, fresh=fresh, on_event=on_event)
    if as_json:
        print_json(report)
        return
    from advisor.reporting.calibration import print_import

    print_import(answer_console(), report)


@calibrate_command.command(FROM_STEPS)
@click.argument("files", type=FILE, nargs=-1)
@click.option("--steps", "more", type=FILE, multiple=True, hidden=True, help="As FILES; the spelling of version 0.1.")
@click.option("--device", required=True, metavar="NAME", help="The device that the steps were measured on.")
@click.option("--fresh", is_flag=True, hidden=True, help="Of version 0.1: every fit begins at the datasheet.")
@trust_options
@json_option
def from_steps_command(
    files: tuple[Path, ...],
    more: tuple[Path, ...],
    device: str,
    fresh: bool,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Correct the datasheet of a device that is not here by steps that were measured on it.

    Each of FILES is a JSON list of steps, or the folder of an `advisor run`, whose median step counts. Three steps are
    a start; ten that differ in method, batch and length are plenty. An entry needs model, method, micro_batch_size,
    seq_length (of every row, padding included) and step_s, the seconds of one optimizer step on one card. Further keys
    are the options of `advisor predict` with its defaults, such as task, rank, target_modules, dtype, amp,
    gradient_checkpointing, optim; and source, a remark.

    Predictions for that device then come from the fit (`transferred`). Fitting again begins at the datasheet;
    `advisor calibrate reset` returns to it.

    JSON keys: device, path, labels[], fit (assumed, fitted, steps[], datasheet, held_back), notes[].
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.core.errors import InputError
    from advisor.pipeline.datasheet_fitting import from_steps
    from advisor.reporting.datasheet_fit import print_datasheet_fit

    if not (steps := (*files, *more)):
        raise InputError("at least one file of steps must be named, but got none", fix="`advisor calibrate --help`")
    with progress() as on_event:
        report = from_steps(
            device, steps, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, on_event=on_event
        )
    if as_json:
        print_json(report)
    else:
        print_datasheet_fit(answer_console(), report)


@calibrate_command.command(RESET)
@_device_option("Whose calibration, or whose corrected datasheet.")
@json_option
def reset_command(device: str, as_json: bool) -> None:
    """Forget the calibration of a device, or the correction of its datasheet.

    JSON keys: device, forgotten[] (files or databases that no longer hold it).
    """
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.calibrating import reset

    forgotten = reset(device)
    if as_json:
        print_json(forgotten)
    else:
        from advisor.reporting.calibration import print_forgotten

        print_forgotten(answer_console(), forgotten)


def _answer(report: CalibrationReport | DeviceProfile, as_json: bool) -> None:
    from advisor.cli.output import answer_console, print_json

    if as_json:
        print_json(report)
        return
    if isinstance(report, DeviceProfile):
        from advisor.reporting.device import print_device

        print_device(answer_console(), report)
        return
    from advisor.reporting.calibration import print_calibration

    print_calibration(answer_console(), report)
