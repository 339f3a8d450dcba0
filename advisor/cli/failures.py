"""One place turns failures into what the user sees: the rule, the value and the fix on one screen, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from advisor.core.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, AdvisorError

DEBUG_VARIABLE = "ADVISOR_DEBUG"


def report_failure(failure: BaseException, *, as_json: bool) -> int:
    """Show a failure and return the exit code.

    Args:
        failure: Whatever ended the command, ``SystemExit`` and ``KeyboardInterrupt`` included.
        as_json: Show it as one JSON document on standard output instead of text on standard error.
    """
    if isinstance(failure, click.exceptions.Exit):
        return failure.exit_code
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else EXIT_FAILED
    if isinstance(failure, BrokenPipeError):
        # The reader has gone (advisor ... | head): there is nobody to tell, and flushing at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    error = _as_advisor_error(failure)
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(failure, file=sys.stderr)
    if as_json:
        import json

        click.echo(json.dumps(error.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_error(error)
    return error.exit_code


def _print_error(error: AdvisorError) -> None:
    label = "interrupted" if error.exit_code == EXIT_INTERRUPTED else "error"
    click.echo(f"{click.style(label + ':', fg='red', bold=True)} {error.message}", err=True)
    for problem in error.problems:
        click.echo(f"  - {problem}", err=True)
    if error.fix:
        click.echo(f"{click.style('fix:', bold=True)} {error.fix}", err=True)


class _UsageError(AdvisorError):
    exit_code = EXIT_BAD_INPUT
    kind = "bad_usage"


class _Interrupted(AdvisorError):
    exit_code = EXIT_INTERRUPTED
    kind = "interrupted"


class _UnexpectedError(AdvisorError):
    exit_code = EXIT_FAILED
    kind = "unexpected"


def _as_advisor_error(failure: BaseException) -> AdvisorError:
    if isinstance(failure, AdvisorError):
        return failure
    if isinstance(failure, click.ClickException):
        context = getattr(failure, "ctx", None)
        command = context.command_path if context is not None else "advisor"
        return _UsageError(failure.format_message(), fix=f"`{command} --help` shows what it takes")
    if isinstance(failure, KeyboardInterrupt | click.Abort):
        return _Interrupted("stopped by Ctrl-C; nothing that was there before has been changed")
    return _unexpected(failure)


def _unexpected(failure: BaseException) -> AdvisorError:
    """An apology that fits one screen; the traceback goes into a log file for the report."""
    text = str(failure).strip().splitlines()
    summary = f"{type(failure).__name__}: {text[0][:200]}" if text else type(failure).__name__
    log = _write_log(failure)
    where = f"the details are in {log}" if log is not None else f"run it again with {DEBUG_VARIABLE}=1 for the details"
    return _UnexpectedError(
        f"something went wrong that the advisor did not expect ({summary})",
        fix=f"this is a mistake in the advisor, not yours: {where}; please report it",
    )


def _write_log(failure: BaseException) -> Path | None:
    import tempfile
    import time

    from advisor.core.store import user_data_dir

    text = f"command: {sys.argv}\n\n" + "".join(traceback.format_exception(failure))
    name = f"advisor-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (lambda: user_data_dir("logs"), lambda: Path(tempfile.gettempdir())):
        try:
            path = folder() / name
            path.write_text(text, encoding="utf-8")
            return path
        except (OSError, AdvisorError):
            continue
    return None
