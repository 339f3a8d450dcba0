"""Tables, lines and small pieces of text that every report shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

from advisor.core.cost import Interval, QualityEstimate
from advisor.core.metrics import Metric
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.core.units import format_bytes, format_duration, format_energy

LEAST_MULTIPLE = 2.0
"""A change by more than this share is told as a multiple."""


def make_table(*columns: str, title: str | None = None, no_wrap: bool = False) -> Table:
    """An empty table without borders.

    Args:
        columns: Headings; one that begins with ``>`` is aligned to the right.
        title: Above the table, on the left.
        no_wrap: Keep every cell on one line.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        side: Literal["left", "right"] = "right" if column[:1] == ">" else "left"
        table.add_column(column.removeprefix(">"), justify=side, no_wrap=no_wrap, overflow="fold")
    return table


def print_table(console: Console, table: Table, *, dispensable: Sequence[str] = ()) -> None:
    """Print a table without cutting anything.

    Where the console is too narrow, columns are left out, then cells are folded.

    Args:
        console: Where to print.
        table: All of it.
        dispensable: Headings of the columns that may be left out, the first one first.
    """
    for heading in dispensable:
        if _fits(console, table):
            break
        table.columns = [column for column in table.columns if column.header != heading]
    if not _fits(console, table):
        for column in table.columns:
            column.no_wrap = False
    console.print(table)


def _fits(console: Console, table: Table) -> bool:
    widths = [column_width(console, column) for column in table.columns]
    return sum(widths) + max(0, len(widths) - 1) <= console.width


def column_width(console: Console, column: Column) -> int:
    """Of the widest cell, the heading included."""
    return max(Measurement.get(console, console.options, cell).maximum for cell in (column.header, *column.cells))


def say(console: Console, markup: str) -> None:
    """Print a line as it is, however long; rich neither wraps nor colours it."""
    console.print(markup, highlight=False, soft_wrap=True)


def remark(console: Console, text: str, label: str = "") -> None:
    """Print a line that matters less: dim, or behind a yellow label."""
    say(console, f"[yellow]{label}[/yellow] {escape(text)}" if label else f"[dim]{escape(text)}[/dim]")


def print_methods(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Print one line per strategy: name, title, and where its defaults come from."""
    table = make_table("method", "description", "source of defaults")
    for row in rows:
        table.add_row(f"[bold]{row['name']}[/bold]", row["title"], f"[dim]{row['defaults_source']}[/dim]")
    console.print(table)


def format_change(value: float, digits: int = 1) -> str:
    """A signed share as a percentage: ``"+4.2 %"``; a multiple where that is easier to read: ``"15x"``."""
    if value >= LEAST_MULTIPLE:
        return f"{format_rate(1 + value)}x"
    return f"{value:+.{digits}%}".replace("%", " %")


def format_rate(value: float) -> str:
    """A number of three digits or more, never with an exponent: ``"74.5"``, ``"6,120"``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_share(value: float) -> str:
    """A share as a percentage: ``"1.1 %"``."""
    return f"{value:.2%}".replace("%", " %") if value < 0.01 else f"{value:.1%}".replace("%", " %")


def format_interval(interval: Interval | None, show: Callable[[float], str]) -> str:
    """Both ends of an interval, or a dash when there is none."""
    return f"{show(interval.low)} – {show(interval.high)}" if interval is not None else "–"


def format_quality(quality: QualityEstimate | None) -> str:
    """``"0.812 (0.77 – 0.85)"``, or why there is no figure."""
    if quality is None:
        return "–"
    if quality.value is None:
        return "unknown"
    show = quality.metric.show
    interval = "" if quality.interval is None else f" ({format_interval(quality.interval, show)})"
    return f"{show(quality.value)}{interval}"


def format_curve(quality: QualityEstimate) -> str:
    """Expected metric by epochs: ``"1 (16) 0.691, 3 (48) 0.787, 12 (192) 0.902 (90 %: 0.68 - 1.00)"``."""
    show = quality.metric.show
    points = [f"{point.epochs:g} ({point.steps:,}) {show(point.value)}" for point in quality.curve]
    return f"{', '.join(points)} (90 % of the last: {format_interval(quality.curve[-1].interval, show)})"


def format_strategy(config: StrategyConfig) -> str:
    """A method with its main knobs: ``"lora r=8, alpha=16, attention, lr 1e-03, 2 epochs"``."""
    epochs = f"{config.num_train_epochs:g} epoch{'' if config.num_train_epochs == 1 else 's'}"
    parts = (*config.knobs.described(), f"lr {config.learning_rate:.2g}", epochs)
    return ", ".join(part for part in parts if part)


def format_execution(execution: ExecutionPlan) -> str:
    """Execution knobs in one line: ``"16 x 2 rows, 128 tokens, checkpointing, sdpa, bfloat16"``."""
    parts = [
        f"{execution.micro_batch_size} x {execution.gradient_accumulation_steps} rows",
        f"{execution.max_seq_length} tokens",
        *(["checkpointing"] if execution.gradient_checkpointing else []),
        execution.attn_implementation,
        execution.dtype if execution.amp == "none" else f"{execution.dtype} + {execution.amp} amp",
        execution.optim,
        *(["grouped by length"] if execution.group_by_length else []),
        *(["kept features"] if execution.keep_features else []),
        *(["expandable segments"] if execution.expandable_segments else []),
        *(["tf32"] if execution.tf32 and execution.amp == "none" and execution.dtype == "float32" else []),
        *(["compiled"] if execution.torch_compile else []),
        *([f"{execution.num_threads} threads"] if execution.num_threads is not None else []),
    ]
    return ", ".join(parts)


def format_quantity(quantity: str, value: float, metric: Metric | None = None) -> str:
    """A verified figure in its own unit, chosen by the suffix of its name."""
    if quantity.endswith("_bytes"):
        return format_bytes(value)
    if quantity.endswith("_per_s"):
        return format_rate(value)
    if quantity.endswith("_j"):
        return format_energy(value)
    if quantity.endswith("_s"):
        return format_duration(value)
    if quantity.endswith("parameters"):
        return f"{value:,.0f}"
    return metric.show(value) if metric is not None else f"{value:.3f}"
