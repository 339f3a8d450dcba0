"""The strategies as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_methods(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Print one line per strategy: name, title, and where its defaults come from."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("description")
    table.add_column("source of defaults", style="dim")
    for row in rows:
        table.add_row(row["name"], row["title"], row["defaults_source"])
    console.print(table)
