"""One configuration's cost as a table: every figure with its interval, evidence and source."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.cost import CostEstimate, InferenceEstimate, MemoryEstimate, TimeEstimate
from advisor.core.units import format_bytes, format_count, format_duration, format_energy
from advisor.reporting.text import format_interval, format_share

_BREAKDOWN_NAMES = {
    "weights_bytes": "weights",
    "gradients_bytes": "gradients",
    "optimizer_states_bytes": "optimizer states",
    "activations_bytes": "activations",
    "temporaries_bytes": "temporaries",
    "workspace_bytes": "library workspaces",
    "context_bytes": "process and context",
}


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


def print_cost(console: Console, estimate: CostEstimate, *, title: str) -> None:
    """Print the whole estimate: summary, memory breakdown, notes."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("", "predicted", "90 % interval", "evidence", "source"):
        table.add_column(column, justify="right" if column in ("predicted", "90 % interval") else "left")
    _add_memory(table, estimate.memory)
    if estimate.time is not None:
        _add_time(table, estimate.time)
    _add_quality(table, estimate)
    console.print(table)
    _print_breakdown(console, estimate.memory)
    if estimate.time is not None:
        _print_time_notes(console, estimate.time)
    share = estimate.trainable_parameters / estimate.total_parameters if estimate.total_parameters else 0.0
    console.print(
        f"trainable: {format_count(estimate.trainable_parameters)} of {format_count(estimate.total_parameters)}"
        f" parameters ({format_share(share)})" + _fits_text(estimate.fits)
    )
    for note in estimate.notes:
        console.print(f"[dim]note: {note}[/dim]", highlight=False, soft_wrap=True)


def _fits_text(fits: bool | None) -> str:
    return "" if fits is None else "; fits" if fits else "; [bold red]does not fit[/bold red]"


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
    if time.total_s == time.step_s:
        return
    table.add_row("tokens per second", f"{time.tokens_per_s:.3g}", "", time.evidence, time.basis)
    table.add_row("whole run", format_duration(time.total_s), total, time.evidence, time.basis)
    if time.inference is not None:
        _add_inference(table, time.inference)
    if time.energy_j is not None:
        energy = format_interval(time.intervals.get("energy_j"), format_energy)
        table.add_row("energy", format_energy(time.energy_j), energy, time.evidence, "power x time")


def _add_inference(table: Table, speed: InferenceEstimate) -> None:
    rows = {"inference, samples per second": "samples_per_s", "inference, tokens per second": "tokens_per_s"}
    for label, name in rows.items():
        interval = format_interval(speed.intervals.get(name), _speed)
        table.add_row(label, _speed(getattr(speed, name)), interval, speed.evidence, speed.basis)
    if speed.decode_tokens_per_s is not None:
        interval = format_interval(speed.intervals.get("decode_tokens_per_s"), _speed)
        decoded = _speed(speed.decode_tokens_per_s)
        table.add_row("decoding, tokens per second", decoded, interval, "extrapolated", "bandwidth")


def _speed(value: float) -> str:
    return f"{value:.3g}"


def _print_time_notes(console: Console, time: TimeEstimate) -> None:
    if len(time.parts) > 1:
        parts = [
            f"{PART_LABELS.get(name, name)} {format_duration(seconds)}"
            for name, seconds in time.parts.items()
            if seconds >= LEAST_SHOWN_SHARE * time.total_s
        ]
        console.print(f"whole run = {' + '.join(parts)}", highlight=False, soft_wrap=True)
    if time.inference is not None and time.inference.decode_basis:
        console.print(f"[dim]decoding: {time.inference.decode_basis}[/dim]", highlight=False, soft_wrap=True)
    if time.energy_basis:
        console.print(f"[dim]energy: {time.energy_basis}[/dim]", highlight=False, soft_wrap=True)


def _add_quality(table: Table, estimate: CostEstimate) -> None:
    quality = estimate.quality
    if quality is None:
        return
    show = quality.metric.show
    value = show(quality.value) if quality.value is not None else "unknown"
    interval = format_interval(quality.interval, show)
    table.add_row(quality.metric.title, value, interval, quality.evidence, quality.basis)
    if quality.p_at_least is not None:
        table.add_row("probability of the minimum", f"{quality.p_at_least:.0%}", "", "", "")


def _print_breakdown(console: Console, memory: MemoryEstimate) -> None:
    breakdown = memory.breakdown
    parts = [
        f"{label} {format_bytes(getattr(breakdown, name))}"
        for name, label in _BREAKDOWN_NAMES.items()
        if getattr(breakdown, name)
    ]
    console.print(f"device peak during {memory.peak_phase} = {' + '.join(parts)}", highlight=False, soft_wrap=True)
