"""The sentence that a user needs, put together from predicted effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advisor.core.units import format_bytes
from advisor.search.sensitivity.records import Effect

DOMINANT_SHARE = 0.4
"""From this share of the peak on a kind is said to dominate it."""
NOTICEABLE = 0.03
"""Smaller changes of the step time are not worth a number."""


def sentence(
    by_kind: Mapping[str, int], best: Sequence[Effect], tempting: Effect | None, made: Sequence[Effect]
) -> str:
    """``"activations dominate (62 % of the peak): checkpointing saves 5.1 GiB and costs about 30 % time; …"``.

    Args:
        by_kind: Bytes at the peak by kind.
        best: Choices worth taking, best first.
        tempting: A choice of good reputation that saves next to nothing.
        made: Choices that are already made, with what they save now.
    """
    parts = [effect_clause(effect) for effect in best]
    if not parts:
        parts.append("no single choice saves a noticeable part of it")
    if tempting is not None:
        parts.append(_useless_clause(tempting))
    parts += [f"{effect.name} (already on) {_saving(effect)}" for effect in made]
    return f"{_dominance(by_kind)}: {'; '.join(parts)}"


def effect_clause(effect: Effect) -> str:
    """``"checkpointing saves 5.1 GiB and costs about 30 % time"``."""
    return f"{effect.name} {_saving(effect)}"


def _is_plural(name: str) -> bool:
    return name.endswith(("weights", "states"))


def time_clause(ratio: float | None, *, plural: bool = False) -> str:
    """``"costs about 30 % time"``, ``"is about 12 % faster"``, ``"costs no time"``; empty when unknown."""
    if ratio is None:
        return ""
    costs, is_ = ("cost", "are") if plural else ("costs", "is")
    if abs(ratio - 1) < NOTICEABLE:
        return f"{costs} no time"
    change = f"{abs(ratio - 1):.0%}".replace("%", " %")
    return f"{costs} about {change} time" if ratio > 1 else f"{is_} about {change} faster"


def _saving(effect: Effect) -> str:
    plural = _is_plural(effect.name)
    time = time_clause(effect.time_ratio, plural=plural)
    saves, takes = ("save", "take another") if plural else ("saves", "takes another")
    verb = saves if effect.saved_bytes >= 0 else takes
    return f"{verb} {format_bytes(abs(effect.saved_bytes))}" + (f" and {time}" if time else "")


def _useless_clause(effect: Effect) -> str:
    if effect.saved_bytes > 0:
        return f"{effect.name} would save only {format_bytes(effect.saved_bytes)}"
    if effect.saved_bytes == 0:
        return f"{effect.name} would save nothing"
    return f"{effect.name} would even take {format_bytes(-effect.saved_bytes)} more"


def _dominance(by_kind: Mapping[str, int]) -> str:
    total = sum(by_kind.values()) or 1
    ordered = sorted(by_kind.items(), key=lambda item: -item[1])
    kind, size_bytes = ordered[0]
    if size_bytes >= DOMINANT_SHARE * total:
        return f"{kind} dominate ({size_bytes / total:.0%} of the peak)".replace("%", " %")
    shares = ", ".join(f"{name} {size / total:.0%}".replace("%", " %") for name, size in ordered[:3])
    return f"no kind dominates the peak ({shares})"
