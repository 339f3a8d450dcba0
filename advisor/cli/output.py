"""Output of commands: results to standard output, progress to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.pipeline.events import OnEvent


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


def print_json(answer: Any) -> None:
    """One JSON document on standard output."""
    from advisor.core.serialization import to_json

    click.echo(to_json(answer), nl=False)
