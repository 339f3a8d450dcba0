"""From timed figures to the rates of a profile, and to warnings about those that cannot be believed."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from advisor.core.device import Rate
from advisor.hardware.timing import NOISY_SPREAD

DRIFT = 0.10
"""A reference figure that has changed by more between beginning and end means that the machine has: repeats of one
product on an idle machine stay within 2-5 %."""
BELIEVABLE_SHARE = 0.25
"""With more unstable figures than this the machine as a whole is too noisy."""
NAMED = 12
"""Unstable figures named in a warning; each figure's own spread stands beside it in any case."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """Rates by key, summaries and points together, for each table of a device profile."""

    flops_per_s: dict[str, Rate]
    bytes_per_s: dict[str, Rate]
    overhead_s: dict[str, Rate]


def tables(points: list[dict[str, Any]]) -> Tables:
    """The tables of a profile.

    The key of each figure holds a summary (the median over products and attention lengths, the largest size of what
    moves bytes), with the largest spread of its points; ``"<key>/<point>"`` holds each point.

    Args:
        points: ``rate`` findings.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["table"], point["key"]), []).append(point)
    found: dict[str, dict[str, Rate]] = {field.name: {} for field in dataclasses.fields(Tables)}
    for (table, key), members in groups.items():
        members.sort(key=lambda member: float(member["work"]))
        rates = [_rate(member) for member in members]
        if len(members) == 1:
            found[table][key] = rates[0]
        elif table == "bytes_per_s":
            found[table][key] = rates[-1]
        else:
            median = statistics.median(rate.value for rate in rates)
            found[table][key] = Rate(
                median, f"probed: median over {len(rates)} shapes", max(rate.spread for rate in rates)
            )
        for member, rate in zip(members, rates, strict=True):
            if member["point"]:
                found[table][f"{key}/{member['point']}"] = rate
    return Tables(**found)


def _rate(point: dict[str, Any]) -> Rate:
    seconds = point["median_s"]
    value = seconds / point["work"] if point["table"] == "overhead_s" else point["work"] / seconds
    return Rate(value, f"probed: {point['label']}, median of {point['repeats']} repeats", point["spread"])


def noise_warnings(points: list[dict[str, Any]]) -> list[str]:
    """Names the figures whose repeats disagree, and says when the whole machine is too noisy.

    Args:
        points: ``rate`` findings.
    """
    unstable = sorted((point for point in points if point["spread"] > NOISY_SPREAD), key=lambda p: -p["spread"])
    warnings = []
    if len(unstable) > BELIEVABLE_SHARE * len(points):
        warnings.append(
            f"the machine is too noisy: {len(unstable)} of {len(points)} figures vary by more than "
            f"±{NOISY_SPREAD:.0%} between repeats; probe again when it is idle"
        )
    if unstable:
        names = [f"{_name(point)} ±{point['spread']:.0%}" for point in unstable[:NAMED]]
        more = f" and {len(unstable) - NAMED} more" if len(unstable) > NAMED else ""
        warnings.append(f"unstable, so times that depend on them are unreliable: {', '.join(names)}{more}")
    lost = sum(point.get("lost", 0) for point in points)
    if lost:
        warnings.append(f"the clock stood still or jumped in {lost} samples, which were dropped")
    return warnings


def drift(references: list[dict[str, Any]]) -> tuple[str, str]:
    """How much the reference figure changed while the probe ran, and a warning when that is much.

    Args:
        references: ``reference`` findings of the moments ``"start"`` and ``"end"``.

    Returns:
        The change in words (empty with fewer than two looks) and the warning (empty when it is small).
    """
    rates = {found["moment"]: found["rate"] for found in references}
    if not {"start", "end"} <= set(rates):
        return "", ""
    change = rates["end"] / rates["start"] - 1.0
    words = f"{change:+.1%} ({references[0]['name']} at the end against the beginning)"
    if abs(change) <= DRIFT:
        return words, ""
    cause = "other work or falling clocks" if change < 0 else "other work that ended or rising clocks"
    return words, f"the machine changed while it was probed: {words}, from {cause}; probe again"


def _name(point: dict[str, Any]) -> str:
    return f"{point['key']}/{point['point']}" if point["point"] else str(point["key"])
