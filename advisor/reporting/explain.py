"""An explained peak in the terminal: bars by kind, role and layer, the largest tensors, and alternatives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from advisor.core.units import format_bytes
from advisor.costmodel.explain.records import PeakExplanation, PeakShare, TensorGroup
from advisor.reporting.text import format_change, format_share, make_table, print_table, remark, say
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
    say(
        console,
        f"\n[bold]Peak of live tensors: {format_bytes(explanation.live_bytes)}[/bold] in the {explanation.phase} pass, "
        f"reached by {where} ({explanation.num_layers} layers traced)",
    )
    if note is not None:
        remark(console, f"note: {note}")
    for title, shares in shares_of(explanation).items():
        _print_bars(console, title, _shortened(shares), explanation.live_bytes)
    table = make_table(">size", ">count", "shape", "purpose", "created by", title="largest tensors")
    for group in explanation.tensors[:TENSORS]:
        table.add_row(*map(escape, _tensor_row(group)))
    console.print(table)
    if comparison.effects:
        columns = ("change", ">device peak", ">saving", ">step time", "options")
        table = make_table(*columns, title="Single-change alternatives")
        for effect in comparison.effects:
            mark = " (changes the training dynamics)" if effect.learns_differently else ""
            *cells, options = effect_row(effect, comparison)
            table.add_row(*map(escape, cells), f"{escape(options)}{mark}")
        console.print(table)
    for reason in comparison.skipped:
        remark(console, f"not compared: {reason}")
    say(console, f"\n[bold]{escape(sentence_of(comparison))}[/bold]")


def shares_of(explanation: PeakExplanation) -> dict[str, Sequence[PeakShare]]:
    """What is alive at the peak, split in four ways, by title."""
    return {
        "by kind": explanation.by_kind,
        "by purpose": explanation.by_role,
        "by layer": collapsed_layers(explanation.by_layer),
        "by operator": explanation.by_operator,
    }


def sentence_of(comparison: ChangeComparison) -> str:
    """The comparison's one sentence, with a capital and a full stop."""
    return f"{comparison.sentence[:1].upper()}{comparison.sentence[1:]}."


def effect_row(effect: Effect, comparison: ChangeComparison) -> tuple[str, str, str, str, str]:
    """Change, device peak, saving, change of the step time, and the options that make it."""
    saved_bytes, ratio = comparison.device_bytes - effect.device_bytes, effect.time_ratio
    if ratio is not None and effect.undoes:
        ratio = 1 / ratio
    return (
        f"without {effect.name}" if effect.undoes else effect.name,
        format_bytes(effect.device_bytes),
        f"{'' if saved_bytes >= 0 else '-'}{format_bytes(abs(saved_bytes))}",
        "–" if ratio is None else format_change(ratio - 1, 0),
        effect.options,
    )


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
    table = make_table("", ">", ">", "", title=title, no_wrap=True)
    table.show_header = False
    longest = max((share.live_bytes for share in shares), default=1) or 1
    for share in shares:
        bar = "█" * round(BAR_WIDTH * share.live_bytes / longest) or "▏"
        part = format_share(share.live_bytes / total_bytes) if total_bytes else ""
        table.add_row(escape(share.name), format_bytes(share.live_bytes), part, f"[cyan]{bar}[/cyan]")
    print_table(console, table)


def _tensor_row(group: TensorGroup) -> tuple[str, str, str, str, str]:
    shape = f"{group.dtype} {'x'.join(str(length) for length in group.shape)}".strip()
    made = " in ".join(part for part in (group.operator, short_module(group.module)) if part)
    made += " (recomputed)" if group.recomputed else ""
    return format_bytes(group.live_bytes), f"{group.count}", shape, group.role, made
