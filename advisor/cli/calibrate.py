"""``advisor calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from advisor.cli.options import json_option
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import TASKS, Task

if TYPE_CHECKING:
    from advisor.calibration.report import CalibrationReport

FILE = click.Path(path_type=Path)


@click.command("calibrate")
@click.argument("model", required=False)
@click.option("--quick", is_flag=True, help="At most a minute: fewer operators, steps and repeats; wider intervals.")
@click.option("--fresh", is_flag=True, help="Forget what is known and measure everything anew.")
@click.option(
    "--steps",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Measure nothing: fit the datasheet of --device to these steps; a JSON list or a run's folder; repeatable.",
)
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
    help="With --steps, --show or --export: of which device (`--export FILE --device all` for all); with --fresh "
    "alone: predict it from its datasheet again.",
)
@json_option
def calibrate_command(
    model: str | None,
    quick: bool,
    fresh: bool,
    steps: tuple[Path, ...],
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

    A card that is not here is predicted from its datasheet. A handful of steps measured on one (--steps) tell what it
    really reaches: three are a start, ten that differ in method, batch and length are plenty. Each entry of the JSON
    list needs model, method, micro_batch_size, seq_length (of every row, padding included) and step_s, the seconds of
    one optimizer step on one card; further keys are those of `advisor predict`, with its defaults: task, num_labels,
    rank, lora_alpha, lora_dropout, target_modules, unfrozen_layers, sparsity, peft_config, max_grad_norm,
    gradient_accumulation_steps, padded, dtype, amp, gradient_checkpointing, reentrant_checkpointing,
    attn_implementation, optim, kbit_upcast, zero_grad_set_to_none, hold_outputs, loss, tf32; and source, a remark. Of
    the folder of an `advisor run` the median step counts. Predictions for that device then rest on the fit
    (transferred); fitting again begins at the datasheet, and --fresh returns to it.

    \b
    Exit codes:
      0    done
      1    not one operator or step could be measured
      2    a file is damaged, changed or newer; devices or versions differ; the data folder cannot be written;
           another calibration is under way; steps that cannot be read, traced or used
      130  Ctrl-C: what was measured is fitted and kept, marked partial; the same command completes it

    JSON keys: calibration, device_name, path, new_replays, new_points, coverage[], unknown[], differences[], wall_s;
    with --import: calibrations[] of these, shares[]; with --export: the file without its calibrations, and path;
    with --steps: device, path, labels[], fit (assumed, fitted, steps[], datasheet, held_back), notes[].

    \b
    Examples:
      advisor calibrate ./my-model --quick
      advisor calibrate ./my-model
      advisor calibrate --show
      advisor calibrate --export node-1.json
      advisor calibrate --import node-1.json --import node-2.json
      advisor calibrate --device a100-sxm4-80gb --steps steps.json
      advisor calibrate --device a100-sxm4-80gb --fresh
    """
    _check_combination(
        measuring={"MODEL": model, "--quick": quick, "--task": task},
        jobs={"--show": show, "--export": export_path, "--import": import_paths, "--steps": steps},
        fresh=fresh,
        device=device,
    )
    if steps and device is not None:
        from advisor.cli.datasheet import fit_to_steps

        fit_to_steps(device, steps, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, as_json=as_json)
    elif export_path is not None:
        _export(export_path, device or "auto", as_json)
    elif import_paths:
        _import(import_paths, fresh, as_json)
    elif show:
        _show(device or "auto", as_json)
    elif device is not None:
        from advisor.cli.datasheet import forget_fit

        forget_fit(device, as_json=as_json)
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
    if fresh and asked and asked[0] not in ("--import", "--steps"):
        problems.append(f"--fresh goes with measuring, --import or --steps, but got {asked[0]}")
    if device is not None and not asked and (given or not fresh):
        problems.append(f"only the machine at hand can be calibrated without --steps, but got --device {device}")
    if device is not None and "--import" in asked:
        problems.append("--device goes with --steps, --show or --export, but got --import")
    if device is None and "--steps" in asked:
        problems.append("--steps needs the --device that they were measured on, but got none")
    if problems:
        raise InputError("these options do not go together", problems=problems, fix="`advisor calibrate --help`")


def _show(device: str, as_json: bool) -> None:
    from advisor.pipeline.calibrating import show

    _answer(show(device), as_json)


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


def _export(path: Path, device: str, as_json: bool) -> None:
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.calibrating import export
    from advisor.reporting.calibration import export_summary, print_export

    written = export(path, device)
    if as_json:
        print_json(export_summary(path, written))
    else:
        print_export(answer_console(), path, written)


def _import(paths: tuple[Path, ...], fresh: bool, as_json: bool) -> None:
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline.calibrating import import_

    with progress() as on_event:
        report = import_(paths, fresh=fresh, on_event=on_event)
    if as_json:
        print_json(report)
        return
    from advisor.reporting.calibration import print_import

    print_import(answer_console(), report)
