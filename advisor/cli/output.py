"""What the user sees: answers on standard output, progress and failures on standard error, and the exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from advisor.core.errors import (
    DEBUG_VARIABLE,
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    AdvisorError,
    OutputError,
)

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.pipeline.events import OnEvent

T = TypeVar("T")


@contextmanager
def progress() -> Iterator[OnEvent]:
    """A listener for a job's events that shows them on standard error while the block runs."""
    from rich.console import Console

    from advisor.reporting.progress import ProgressView

    with ProgressView(Console(stderr=True)) as view:
        yield view.on_event


def answer_console() -> Console:
    """Standard output; without a terminal wide enough for the tables, so that pipes and logs get whole lines."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=140)


def print_answer(
    answer: T,
    as_json: bool,
    show: Callable[[Console, T], None],
    document: Callable[[T], Any] = lambda answer: answer,
) -> None:
    """Print an answer.

    Args:
        answer: Of a job.
        as_json: As one JSON document rather than as text.
        show: Prints it as text.
        document: What the JSON document holds of it.
    """
    from advisor.core.serialization import to_json

    if as_json:
        click.echo(to_json(document(answer)), nl=False)
    else:
        show(answer_console(), answer)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Of failures to write: what the disk says, not the code."""


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


def _as_advisor_error(failure: BaseException) -> AdvisorError:
    if isinstance(failure, AdvisorError):
        return failure
    if isinstance(failure, click.ClickException):
        context = getattr(failure, "ctx", None)
        command = context.command_path if context is not None else "advisor"
        return _error("bad_usage", EXIT_BAD_INPUT, failure.format_message(), f"`{command} --help` shows what it takes")
    if isinstance(failure, KeyboardInterrupt | click.Abort):
        message = "stopped by Ctrl-C; nothing that was there before has been changed"
        return _error("interrupted", EXIT_INTERRUPTED, message)
    if isinstance(failure, OSError) and (failure.errno in _NO_ROOM or "temporary directory" in str(failure)):
        return OutputError(
            f"files must be writable, but {failure.filename or 'the disk'} is not: {failure.strerror or failure}",
            fix="free some space, or name a folder with room: --output for results, ADVISOR_HOME for what is kept "
            "between commands, TMPDIR for temporary files",
        )
    return _unexpected(failure)


def _unexpected(failure: BaseException) -> AdvisorError:
    """An apology that fits one screen; the traceback goes into a log file for the report."""
    text = str(failure).strip().splitlines()
    summary = f"{type(failure).__name__}: {text[0][:200]}" if text else type(failure).__name__
    log = _write_log(failure)
    where = f"the details are in {log}" if log is not None else f"run it again with {DEBUG_VARIABLE}=1 for the details"
    message = f"something went wrong that the advisor did not expect ({summary})"
    fix = f"this is a mistake in the advisor, not yours: {where}; please report it"
    return _error("unexpected", EXIT_FAILED, message, fix)


def _error(kind: str, exit_code: int, message: str, fix: str | None = None) -> AdvisorError:
    error = AdvisorError(message, fix=fix)
    error.kind, error.exit_code = kind, exit_code
    return error


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
