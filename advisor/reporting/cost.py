"""One configuration's cost as a table: every figure with its interval, its evidence and what it rests on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.cost import CostEstimate, MemoryEstimate, TimeEstimate
from advisor.core.units import format_bytes, format_count, format_duration
from advisor.reporting.text import format_interval, format_metric, format_share

_BREAKDOWN_NAMES = {
    "weights_bytes": "weights",
    "gradients_bytes": "gradients",
    "optimizer_states_bytes": "optimizer states",
    "activations_bytes": "activations",
    "temporaries_bytes": "temporaries",
    "workspace_bytes": "library workspaces",
    "context_bytes": "process and context",
}


def print_cost(console: Console, estimate: CostEstimate, *, title: str) -> None:
    """Print the whole estimate: summary, memory breakdown, notes."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("", "predicted", "90 % interval", "evidence", "rests on"):
        table.add_column(column, justify="right" if column in ("predicted", "90 % interval") else "left")
    _add_memory(table, estimate.memory)
    if estimate.time is not None:
        _add_time(table, estimate.time)
    _add_quality(table, estimate)
    console.print(table)
    _print_breakdown(console, estimate.memory)
    share = estimate.trainable_parameters / estimate.total_parameters if estimate.total_parameters else 0.0
    console.print(
        f"trains {format_count(estimate.trainable_parameters)} of {format_count(estimate.total_parameters)} parameters"
        f" ({format_share(share)})" + _fits_text(estimate.fits)
    )
    for note in estimate.notes:
        console.print(f"[dim]note: {note}[/dim]", highlight=False, soft_wrap=True)


def _fits_text(fits: bool | None) -> str:
    return "" if fits is None else "; fits the budget" if fits else "; [bold red]does not fit the budget[/bold red]"


def _add_memory(table: Table, memory: MemoryEstimate) -> None:
    rows = [("allocated peak", "allocated_bytes"), ("device peak", "device_bytes")]
    if memory.reserved_bytes != memory.allocated_bytes:
        rows.insert(1, ("reserved peak", "reserved_bytes"))
    for label, name in rows:
        interval = format_interval(memory.intervals.get(name), format_bytes)
        table.add_row(label, format_bytes(getattr(memory, name)), interval, memory.evidence, memory.basis)


def _add_time(table: Table, time: TimeEstimate) -> None:
    step, total = (format_interval(time.intervals.get(name), format_duration) for name in ("step_s", "total_s"))
    table.add_row("one optimizer step", format_duration(time.step_s), step, time.evidence, time.basis)
    table.add_row("samples per second", f"{time.samples_per_s:.3g}", "", time.evidence, time.basis)
    if time.total_s != time.step_s:
        table.add_row("whole run", format_duration(time.total_s), total, time.evidence, time.basis)


def _add_quality(table: Table, estimate: CostEstimate) -> None:
    quality = estimate.quality
    if quality is None:
        return

    def show(value: float) -> str:
        return format_metric(quality.metric, value)

    value = show(quality.value) if quality.value is not None else "unknown"
    table.add_row(quality.metric, value, format_interval(quality.interval, show), quality.evidence, quality.basis)
    if quality.p_at_least is not None:
        table.add_row("chance of the minimum", f"{quality.p_at_least:.0%}", "", "", "")


def _print_breakdown(console: Console, memory: MemoryEstimate) -> None:
    breakdown = memory.breakdown
    parts = [
        f"{label} {format_bytes(getattr(breakdown, name))}"
        for name, label in _BREAKDOWN_NAMES.items()
        if getattr(breakdown, name)
    ]
    console.print(f"device peak during {memory.peak_phase} = {' + '.join(parts)}", highlight=False, soft_wrap=True)
