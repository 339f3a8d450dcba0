"""What fits into a memory, as a table and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from advisor.core.plan import SHORT_DTYPES
from advisor.core.serialization import to_dict
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.text import make_table, remark, say
from advisor.search.fitting import FitAnswer, FitRequest, Largest, MethodFit, SetupFit, Switches

DTYPE_NAMES = {name: short for short, name in SHORT_DTYPES.items()}
_COLUMNS = ("method", "set-up", ">memory needed", ">largest batch", ">largest length", ">largest rank")


def format_switches(setup: Switches) -> str:
    """Switches in a few words: ``"bf16, checkpointing"``, ``"fp32 + bf16 amp, adamw_bnb_8bit"``."""
    dtype = DTYPE_NAMES[setup.dtype]
    parts = [dtype if setup.amp in ("none", dtype) else f"{dtype} + {setup.amp} amp"]
    if setup.amp == "none" and setup.dtype != "float32":
        parts = [f"pure {dtype}"]
    if setup.optim != "adamw_torch_fused":
        parts.append(setup.optim)
    if setup.attn_implementation != "sdpa":
        parts.append(setup.attn_implementation)
    if setup.gradient_checkpointing:
        parts.append("checkpointing")
    return ", ".join(parts)


def print_fit(console: Console, answer: FitAnswer) -> None:
    """Print one row per method and set-up, then the methods that were refused, then the smallest requirement."""
    asked = answer.question
    title = (
        f"What fits into {format_bytes(asked.limit_bytes)} on {escape(answer.device_id)} with {asked.safety_level:.3g} "
        f"probability; other values stay at {asked.micro_batch_size} x {asked.seq_length} tokens"
    )
    table = make_table(*_COLUMNS, *(["smallest card"] if answer.cards else []), title=title)
    for method in answer.methods:
        for index, setup in enumerate(_shown(method)):
            table.add_row("" if index else escape(method.method), *_row(setup, cards=answer.cards))
    if table.row_count:
        console.print(table)
        _print_legend(console, answer)
    for method in answer.methods:
        beyond = tuple(dict.fromkeys(text for setup in method.setups for text in setup.beyond))
        for text in [method.reason] if method.reason else (*method.problems, *beyond):
            say(console, f"[bold]{escape(method.method)}[/bold]: {escape(text)}")
    _print_smallest(console, answer)


def fit_answer(answer: FitAnswer) -> dict[str, Any]:
    """``fit --json``: the question, every method with its set-ups, and the smallest need of all."""
    smallest = answer.leanest
    return {
        "device_id": answer.device_id,
        "question": to_dict(answer.question),
        "fits": answer.fits,
        "methods": [{**to_dict(method), "fits": method.fits} for method in answer.methods],
        "smallest": None if smallest is None else {"method": smallest[0].method, **to_dict(smallest[1])},
        "considered": answer.considered,
    }


def _shown(method: MethodFit) -> list[SetupFit]:
    """All traced set-ups; of those that were ruled out by their states alone, only the least demanding."""
    ruled_out = min((s for s in method.setups if not s.traced), key=lambda s: s.memory_bytes, default=None)
    return [setup for setup in method.setups if setup.traced or setup is ruled_out]


def _row(setup: SetupFit, *, cards: bool) -> list[str]:
    need = format_bytes(setup.memory_bytes)
    cells = [
        format_switches(setup.switches),
        (need if setup.fits else f"[red]{need}[/red]") if setup.traced else f"[red]> {need}[/red]",
        _largest(setup.micro_batch),
        _largest(setup.seq_length),
        _largest(setup.rank),
    ]
    if cards:
        card = setup.card
        cells.append(f"{escape(card.device)} ({format_bytes(card.memory_bytes)})" if card is not None else "–")
    return cells


def _largest(largest: Largest | None) -> str:
    if largest is None:
        return "–"
    mark = "" if largest.bound == "memory" else "*"
    return f"{largest.value}{mark} ({format_bytes(largest.memory_bytes)})"


def _print_legend(console: Console, answer: FitAnswer) -> None:
    setups = [setup for method in answer.methods for setup in method.setups]
    axes = [axis for setup in setups for axis in (setup.micro_batch, setup.seq_length, setup.rank)]
    ends = sorted({axis.bound for axis in axes if axis is not None and axis.bound != "memory"})
    remark(console, "in brackets: memory needed at that point (upper bound at the safety level)")
    if ends:
        remark(console, f"* limited by {' or '.join(ends)}, not by memory")


def _print_smallest(console: Console, answer: FitAnswer) -> None:
    if answer.fits:
        return
    asked = answer.question
    limit = format_bytes(asked.limit_bytes)
    others = _other_limits(asked)
    console.print(
        f"[bold red]Nothing fits into {' and '.join((limit, *others))} on {escape(answer.device_id)}.[/bold red]"
    )
    if answer.leanest is None:
        return
    method, setup = answer.leanest
    card = f"; the smallest card is {setup.card.device}" if setup.card is not None else ""
    say(
        console,
        f"the smallest requirement is {format_bytes(setup.memory_bytes)}: {method.method}, "
        f"{format_switches(setup.switches)}, {asked.micro_batch_size} x {asked.seq_length} tokens{card}",
    )


def _other_limits(asked: FitRequest) -> tuple[str, ...]:
    """Limits besides memory, in words."""
    latency, size = asked.max_latency_s, asked.max_saved_size_bytes
    return (
        *([f"a latency of {format_duration(latency)}"] if latency is not None else []),
        *([f"a saved size of {format_bytes(size)}"] if size is not None else []),
    )
