"""The root of the command line: the list of commands and the handling of every error."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from advisor import __version__
from advisor.cli.output import report_failure
from advisor.core.errors import DEBUG_VARIABLE

_COMMANDS = {
    "doctor": "doctor",
    "probe": "calibrate",
    "calibrate": "calibrate",
    "predict": "predict",
    "fit": "predict",
    "recommend": "plans",
    "tune": "plans",
    "show": "plans",
    "run": "plans",
    "evaluate": "results",
    "compare": "results",
    "validate": "experiments",
    "bench": "bench",
    "devices": "listings",
    "methods": "listings",
}
"""Command name -> module of this package that defines it as ``<name>_command``."""

_QUIET_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""The advisor shows its own progress; a user's setting of the same name wins."""


class CommandGroup(click.Group):
    """Imports a command on first use, and turns every failure into one screen and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"advisor.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            near = difflib.get_close_matches(args[0], _COMMANDS, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(_COMMANDS)}"
            raise click.UsageError(f"no such command: {args[0]!r}{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run and leave the process; never with a traceback unless ``ADVISOR_DEBUG=1``."""
        arguments = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        _quiet_libraries()
        _print_anything()
        try:
            code = super().main(arguments, *rest, **options)
        except BaseException as failure:
            code = report_failure(failure, as_json="--json" in arguments)
            # CPython remembers a KeyboardInterrupt that passed through exec of a string (dataclasses are made so), and
            # `python -m` would die of SIGINT instead of leaving with the code (pythonrun.c: run_eval_code_obj).
            exec("")
        sys.exit(code if isinstance(code, int) else 0)


def _quiet_libraries() -> None:
    if os.environ.get(DEBUG_VARIABLE):
        return
    import warnings

    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")


def _print_anything() -> None:
    """What the terminal's encoding lacks (a dash in ASCII, the bytes of a path that is not UTF-8) is written as an
    escape sequence, instead of ending the command.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="finetune-advisor")
def app() -> None:
    """Choose a fine-tuning strategy before training: predicted memory, time and quality, each with an interval.

    \b
    First steps:
      advisor doctor               # say what works on this machine
      advisor probe                # measure this machine, once
      advisor calibrate run MODEL  # measure your model's operators on it
      advisor recommend MODEL --data DATA --memory 8GiB --time 2h --output plan.json
      advisor run plan.json --output runs/first

    \b
    Exit codes: 0 success, 1 failure, 2 bad input, 3 nothing fits, 130 interrupted

    Every command takes --json: one JSON document on standard output, progress on standard error.
    """
