"""One configuration's cost as a table: every figure with its interval, evidence and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate, InferenceEstimate, MemoryEstimate, TimeEstimate
from advisor.core.units import format_bytes, format_count, format_duration, format_energy
from advisor.reporting.text import format_interval, format_rate, format_share, make_table, print_table, remark, say

_PART_OF_MEMORY = {"workspace_bytes": "library workspaces", "context_bytes": "process and context"}
"""What a part of the memory is called, if its field does not say it."""
PART_LABELS = {
    "data": "reading and tokenising",
    "loading": "loading the model",
    "set_up": "setting up",
    "warm_up": "warm-up (first step)",
    "training": "training steps",
    "between_steps": "between steps",
    "evaluation": "evaluation",
    "checkpoints": "checkpoints",
    "saving": "saving",
    "earlier": "before resuming",
    "other": "other",
}
LEAST_SHOWN_SHARE = 0.005
"""Of the whole run; smaller parts are left out of the sentence."""


def print_cost(console: Console, estimate: CostEstimate, *, title: str, budget: Budget | None = None) -> None:
    """Print the whole estimate: summary, memory breakdown, notes.

    Args:
        console: Where to print.
        estimate: Of one configuration.
        title: Above the table.
        budget: Figures of the model are shown where it limits them.
    """
    table = make_table("", ">predicted", ">90 % interval", "evidence", "source", title=title)
    _add_memory(table, estimate.memory)
    if estimate.time is not None:
        _add_time(table, estimate.time)
    _add_limited(table, estimate, budget or Budget())
    if (quality := estimate.quality) is not None:
        show = quality.metric.show
        value = show(quality.value) if quality.value is not None else "unknown"
        interval = format_interval(quality.interval, show)
        table.add_row(quality.metric.title, value, interval, quality.evidence, quality.basis)
        if quality.p_at_least is not None:
            table.add_row("probability of the minimum", f"{quality.p_at_least:.0%}", "", "", "")
    print_table(console, table, dispensable=("source", "evidence"))
    _print_sum(console, f"device peak during {estimate.memory.peak_phase}", _memory_parts(estimate.memory))
    if estimate.time is not None:
        _print_time_notes(console, estimate.time)
    share = estimate.trainable_parameters / estimate.total_parameters if estimate.total_parameters else 0.0
    fits = {None: "", True: "; fits", False: "; [bold red]does not fit[/bold red]"}[estimate.fits]
    console.print(
        f"trainable: {format_count(estimate.trainable_parameters)} of {format_count(estimate.total_parameters)}"
        f" parameters ({format_share(share)}){fits}"
    )
    for note in estimate.notes:
        remark(console, f"note: {note}")


def _add_memory(table: Table, memory: MemoryEstimate) -> None:
    rows = [("allocated peak", "allocated_bytes"), ("device peak", "device_bytes")]
    if memory.reserved_bytes != memory.allocated_bytes:
        rows.insert(1, ("reserved peak", "reserved_bytes"))
    for label, name in rows:
        _add(table, label, memory, name, format_bytes)


def _add_limited(table: Table, estimate: CostEstimate, budget: Budget) -> None:
    time, saved_bytes = estimate.time, estimate.saved_bytes
    if budget.max_latency_s is not None and time is not None:
        labels = {"latency_s": "latency of one row", "merged_latency_s": "latency of one row, merged"}
        for name, label in labels.items():
            if getattr(time, name) is not None:
                _add(table, label, time, name, format_duration)
    if budget.max_saved_size_bytes is not None and saved_bytes is not None:
        interval = format_interval(estimate.saved_interval, format_bytes)
        table.add_row("saved weights", format_bytes(saved_bytes), interval, "", "counted")


def _add_time(table: Table, time: TimeEstimate) -> None:
    _add(table, "one optimizer step", time, "step_s", format_duration)
    _add(table, "samples per second", time, "samples_per_s", format_rate)
    if time.total_s == time.step_s:
        return
    _add(table, "tokens per second", time, "tokens_per_s", format_rate)
    _add(table, "whole run", time, "total_s", format_duration)
    if (speed := time.inference) is not None:
        _add(table, "inference, samples per second", speed, "samples_per_s", format_rate)
        _add(table, "inference, tokens per second", speed, "tokens_per_s", format_rate)
        if speed.decode_tokens_per_s is not None:
            sources = ("extrapolated", "bandwidth")
            _add(table, "decoding, tokens per second", speed, "decode_tokens_per_s", format_rate, sources)
    if time.energy_j is not None:
        _add(table, "energy", time, "energy_j", format_energy, (time.evidence, "power x time"))


def _add(
    table: Table,
    label: str,
    part: MemoryEstimate | TimeEstimate | InferenceEstimate,
    name: str,
    show: Callable[[float], str],
    sources: tuple[str, str] | None = None,
) -> None:
    interval = format_interval(part.intervals.get(name), show)
    table.add_row(label, show(getattr(part, name)), interval, *(sources or (part.evidence, part.basis)))


def _print_time_notes(console: Console, time: TimeEstimate) -> None:
    if len(time.parts) > 1:
        least_s = LEAST_SHOWN_SHARE * time.total_s
        parts = {PART_LABELS.get(name, name): value for name, value in time.parts.items() if value >= least_s}
        _print_sum(console, "whole run", [f"{label} {format_duration(value)}" for label, value in parts.items()])
    if time.inference is not None and time.inference.decode_basis:
        remark(console, f"decoding: {time.inference.decode_basis}")
    if time.energy_basis:
        remark(console, f"energy: {time.energy_basis}")


def _memory_parts(memory: MemoryEstimate) -> list[str]:
    parts = {name: value for name, value in asdict(memory.breakdown).items() if value}
    labels = {name: _PART_OF_MEMORY.get(name, name.removesuffix("_bytes").replace("_", " ")) for name in parts}
    return [f"{labels[name]} {format_bytes(value)}" for name, value in parts.items()]


def _print_sum(console: Console, total: str, parts: list[str]) -> None:
    say(console, f"{total} = {' + '.join(parts)}")
