"""An explained peak in the terminal: bars by kind, role and layer, the largest tensors, and alternatives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.units import format_bytes
from advisor.costmodel.explain.records import PeakExplanation, PeakShare, TensorGroup
from advisor.reporting.text import format_share
from advisor.search.sensitivity import ChangeComparison, Effect

BAR_WIDTH = 32
LISTED = 8
"""Rows of each list; the rest is added up."""
TENSORS = 10


def print_explanation(
    console: Console, explanation: PeakExplanation, comparison: ChangeComparison, *, note: str | None = None
) -> None:
    """Print where the peak is, what is alive there, and which neighbouring choices would change it.

    Args:
        console: Where to print.
        explanation: The peak, taken apart.
        comparison: Neighbouring choices.
        note: Why this peak is not the device's own, if it is not.
    """
    parts = (explanation.operator, short_module(explanation.module))
    where = " of ".join(escape(part) for part in parts if part) or "the step"
    console.print(
        f"\n[bold]Peak of live tensors: {format_bytes(explanation.live_bytes)}[/bold] in the {explanation.phase} pass, "
        f"reached by {where} ({explanation.num_layers} layers traced)",
        highlight=False,
        soft_wrap=True,
    )
    if note is not None:
        console.print(f"[dim]note: {escape(note)}[/dim]", highlight=False, soft_wrap=True)
    _print_bars(console, "by kind", explanation.by_kind, explanation.live_bytes)
    _print_bars(console, "by purpose", _shortened(explanation.by_role), explanation.live_bytes)
    _print_bars(console, "by layer", collapsed_layers(explanation.by_layer), explanation.live_bytes)
    _print_bars(console, "by operator", _shortened(explanation.by_operator), explanation.live_bytes)
    _print_tensors(console, explanation.tensors[:TENSORS])
    _print_effects(console, comparison)


def collapsed_layers(shares: Sequence[PeakShare]) -> list[PeakShare]:
    """Neighbouring layers with equal bytes as one row that counts all of them: ``"layers 1–4, 185 MiB each"``."""
    rows: list[PeakShare] = []
    for (stack, live_bytes), group in itertools.groupby(shares, key=lambda share: (_stack(share), share.live_bytes)):
        members = list(group)
        if stack is None or len(members) == 1:
            rows += members
            continue
        first, last = (share.name.rpartition(" ")[2] for share in (members[0], members[-1]))
        name = f"{'layers' if stack == 'layer' else stack} {first}–{last}, {format_bytes(live_bytes)} each"
        rows.append(PeakShare(name, live_bytes * len(members)))
    return _shortened(rows)


def _stack(share: PeakShare) -> str | None:
    """``"decoder.block"`` of ``"decoder.block 3"``; ``None`` outside of the layers."""
    stack, _, number = share.name.rpartition(" ")
    return stack if number.isdigit() else None


def short_module(name: str) -> str:
    """A module's name without the wrapper that PEFT puts around every model; the wrapped model itself has no other."""
    return "the model" if name == "base_model.model" else name.removeprefix("base_model.model.")


def _shortened(shares: Sequence[PeakShare]) -> list[PeakShare]:
    """The largest rows in their order, and the sum of the others."""
    if len(shares) <= LISTED + 1:
        return list(shares)
    kept = set(sorted(range(len(shares)), key=lambda index: -shares[index].live_bytes)[:LISTED])
    rest = sum(share.live_bytes for index, share in enumerate(shares) if index not in kept)
    others = len(shares) - len(kept)
    return [shares[index] for index in sorted(kept)] + [PeakShare(f"{others} others", rest)]


def _print_bars(console: Console, title: str, shares: Sequence[PeakShare], total_bytes: int) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    longest = max((share.live_bytes for share in shares), default=1) or 1
    for share in shares:
        bar = "█" * round(BAR_WIDTH * share.live_bytes / longest) or "▏"
        part = format_share(share.live_bytes / total_bytes) if total_bytes else ""
        table.add_row(escape(share.name), format_bytes(share.live_bytes), part, f"[cyan]{bar}[/cyan]")
    console.print(table)


def _print_tensors(console: Console, groups: Sequence[TensorGroup]) -> None:
    table = Table(title="largest tensors", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("size", "count", "shape", "purpose", "created by"):
        table.add_column(column, justify="right" if column in ("size", "count") else "left")
    for group in groups:
        shape = f"{group.dtype} {'x'.join(str(length) for length in group.shape)}".strip()
        made = " in ".join(escape(part) for part in (group.operator, short_module(group.module)) if part)
        made += " (recomputed)" if group.recomputed else ""
        table.add_row(format_bytes(group.live_bytes), f"{group.count}", shape, escape(group.role), made)
    console.print(table)


def _print_effects(console: Console, comparison: ChangeComparison) -> None:
    if comparison.effects:
        table = Table(
            title="Single-change alternatives", title_justify="left", box=None, pad_edge=False, header_style="bold"
        )
        for column in ("change", "device peak", "saving", "step time", "options"):
            table.add_column(column, justify="left" if column in ("change", "options") else "right")
        for effect in comparison.effects:
            table.add_row(*_effect_row(effect, comparison))
        console.print(table)
    for reason in comparison.skipped:
        console.print(f"[dim]not compared: {escape(reason)}[/dim]", highlight=False, soft_wrap=True)
    text = comparison.sentence
    console.print(f"\n[bold]{escape(text[:1].upper() + text[1:])}.[/bold]", highlight=False, soft_wrap=True)


def _effect_row(effect: Effect, comparison: ChangeComparison) -> tuple[str, ...]:
    name = f"without {effect.name}" if effect.undoes else effect.name
    saved_bytes = comparison.device_bytes - effect.device_bytes
    ratio = effect.time_ratio
    if ratio is not None and effect.undoes:
        ratio = 1 / ratio
    time = "–" if ratio is None else f"{ratio - 1:+.0%}".replace("%", " %")
    saves = f"{'' if saved_bytes >= 0 else '-'}{format_bytes(abs(saved_bytes))}"
    mark = " (changes the training dynamics)" if effect.learns_differently else ""
    return escape(name), format_bytes(effect.device_bytes), saves, time, f"{effect.options}{mark}"
