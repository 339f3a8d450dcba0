"""``advisor probe`` and ``advisor calibrate``: measure this machine, and what to do with a calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor import pipeline
from advisor.cli.options import PATH, F, json_option, option, picked, task_option, trust_options
from advisor.cli.output import print_answer, progress
from advisor.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.calibration.report import CalibrationReport
    from advisor.core.device import DeviceProfile

RUN, SHOW, EXPORT, IMPORT, FROM_STEPS, RESET = "run", "show", "export", "import", "from-steps", "reset"


@click.command("probe")
@option("--quick", is_flag=True, help="Take about 15 seconds instead of 60; less precise.")
@option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1; by default the first GPU, else the CPU.")
@json_option
def probe_command(quick: bool, device: str | None, as_json: bool) -> None:
    """Measure this machine and store a device profile.

    Tries data types, attention kernels and bitsandbytes; times matrix products, attention, memory traffic by operator,
    optimizer steps, copies and overheads, each with its spread; on a CPU also finds the fastest number of threads for
    training. The other commands use the profile. JSON: the device profile with every measured point.

    \b
    Example:
      advisor probe --quick
    """
    with progress() as on_event:
        profile = pipeline.probe(quick=quick, device=device, on_event=on_event)
    _answer(profile, as_json)


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
    for spelling, command in (("--export", EXPORT), ("--import", IMPORT)):
        if spelling in rest:
            return [command, *(part for part in rest if part != spelling)]
    if "--device" in rest and "--fresh" in rest:
        return [RESET, *(part for part in rest if part != "--fresh")]
    return [RUN, *rest]


@click.group("calibrate", cls=CalibrateGroup)
def calibrate_command() -> None:
    """Fit the cost model to this machine.

    Measures how fast operators and training steps are, and fits the coefficients of the cost model to them. predict,
    recommend, fit and tune use the result. On this machine a calibration counts only with the driver, Python, core
    count and library versions that it was made with; after an upgrade, calibrate again.

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
    return option("--device", default="auto", metavar="NAME", show_default="this machine", help=help_text)


@calibrate_command.command(RUN)
@click.argument("model", required=False)
@option("--quick", is_flag=True, help="At most a minute: fewer operators, steps and repeats; wider intervals.")
@option("--fresh", is_flag=True, help="Measure everything again instead of reusing what is stored.")
@task_option
@trust_options
@json_option
def run_command(model: str | None, quick: bool, fresh: bool, as_json: bool, **options: Any) -> None:
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
    source = pipeline.ModelSource(model, **options) if model is not None else None
    with progress() as on_event:
        report = pipeline.calibrate(source, quick=quick, fresh=fresh, on_event=on_event)
    _answer(report, as_json)


@calibrate_command.command(SHOW)
@_device_option("Device whose calibration or corrected datasheet is shown.")
@json_option
def show_command(device: str, as_json: bool) -> None:
    """Print the stored calibration: what was measured, how well it fits, and what is missing.

    JSON keys: those of `advisor calibrate run`; for a corrected datasheet, the device profile.
    """
    from advisor.pipeline.calibrating import show

    _answer(show(device), as_json)


@calibrate_command.command(EXPORT)
@click.argument("file", type=PATH)
@_device_option("Device whose calibration is exported; `all` for every device that has one.")
@json_option
def export_command(file: Path, device: str, as_json: bool) -> None:
    """Write the stored calibration to a new FILE, for other machines of the same kind.

    The file holds the raw measurements, the device profile, all versions, where each measurement was made, and a
    checksum.

    JSON keys: path, advisor_version, created_at, checksum, calibrations[] (device, versions, replays, points,
    provenance).
    """
    from advisor.pipeline.calibrating import export
    from advisor.reporting.calibration import export_summary, print_export

    print_answer(export_summary(file, export(file, device)), as_json, print_export)


@calibrate_command.command(IMPORT)
@click.argument("files", type=PATH, nargs=-1, required=True)
@option("--fresh", is_flag=True, help="Replace what is stored instead of adding to it.")
@json_option
def import_command(files: tuple[Path, ...], fresh: bool, as_json: bool) -> None:
    """Add exported calibrations of the same device, driver and library versions, and fit again.

    A measurement that is stored already is not added again. If one of the files cannot be used, none is imported.

    JSON keys: calibrations[] (each with the keys of `advisor calibrate run`), shares[].
    """
    from advisor.pipeline.calibrating import import_
    from advisor.reporting.calibration import print_import

    with progress() as on_event:
        report = import_(files, fresh=fresh, on_event=on_event)
    print_answer(report, as_json, print_import)


@calibrate_command.command(FROM_STEPS)
@click.argument("files", type=PATH, nargs=-1)
@option("--steps", "more", type=PATH, multiple=True, hidden=True, help="As FILES; the spelling of version 0.1.")
@option("--device", required=True, metavar="NAME", help="The device that the steps were measured on.")
@option("--fresh", is_flag=True, hidden=True, help="Of version 0.1: every fit begins at the datasheet.")
@trust_options
@json_option
def from_steps_command(
    files: tuple[Path, ...], more: tuple[Path, ...], device: str, as_json: bool, **options: Any
) -> None:
    """Correct the datasheet of another device with steps that were measured on it.

    Each of FILES is a JSON list of steps, or the folder of an `advisor run` (its median step is used). Three steps are
    a start; ten that differ in method, batch and length are plenty. An entry needs model, method, micro_batch_size,
    seq_length (of every row, padding included) and step_s, the seconds of one optimizer step on one card. Further keys
    are options of `advisor predict` with the same defaults, such as task, rank, target_modules, dtype, amp,
    gradient_checkpointing and optim; source is a comment.

    From then on predictions for that device use the fit (source `transferred`). Every fit starts from the datasheet;
    `advisor calibrate reset` goes back to it.

    JSON keys: device, path, labels[], fit (assumed, fitted, steps[], datasheet, held_back), notes[].
    """
    from advisor.pipeline.datasheet_fitting import from_steps
    from advisor.reporting.calibration import print_datasheet_fit

    if not (steps := (*files, *more)):
        raise InputError("at least one file of steps must be named, but got none", fix="`advisor calibrate --help`")
    with progress() as on_event:
        report = from_steps(device, steps, on_event=on_event, **picked(options, "trust_remote_code", "allow_pickle"))
    print_answer(report, as_json, print_datasheet_fit)


@calibrate_command.command(RESET)
@_device_option("Device whose calibration or correction is deleted.")
@json_option
def reset_command(device: str, as_json: bool) -> None:
    """Delete the calibration of a device, or the correction of its datasheet.

    JSON keys: device_id, fit (file that was removed, or null), calibrations (how many were deleted).
    """
    from advisor.pipeline.calibrating import reset
    from advisor.reporting.calibration import print_forgotten

    print_answer(reset(device), as_json, print_forgotten)


def _answer(report: CalibrationReport | DeviceProfile, as_json: bool) -> None:
    from advisor.core.device import DeviceProfile
    from advisor.reporting.calibration import print_calibration
    from advisor.reporting.device import print_device

    def show(console: Console, answer: CalibrationReport | DeviceProfile) -> None:
        if isinstance(answer, DeviceProfile):
            print_device(console, answer)
        else:
            print_calibration(console, answer)

    print_answer(report, as_json, show)
