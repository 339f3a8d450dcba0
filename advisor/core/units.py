"""Parsing and printing of the two budget units. Storage is always in bytes and seconds; conversion happens here only.

1 GiB = 2**30 bytes, 1 GB = 10**9 bytes (IEC 80000-13); a number without a unit is refused, because both readings exist.
"""

from __future__ import annotations

import datetime
import math
import re

from advisor.core.errors import BudgetError

KIB, MIB, GIB = 2**10, 2**20, 2**30
YEAR_S = 365.25 * 86400

_BYTES = {
    "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 2**40,
}  # fmt: skip
_SECONDS = {
    "us": 1e-6, "ms": 1e-3,
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "mins": 60.0, "minute": 60.0, "minutes": 60.0, "m": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
_JOULES = {
    "j": 1.0, "kj": 1e3, "wh": 3600.0, "kwh": 3.6e6,
}  # fmt: skip
_NUMBER = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"


def parse_saved_size_bytes(text: str) -> int:
    """``"5MB"`` (= 5e6) or ``"90MiB"`` as bytes.

    Raises:
        BudgetError: no unit, unknown unit, or not greater than zero.
    """
    return parse_memory_bytes(text, what="the saved size")


def parse_memory_bytes(text: str, *, what: str = "memory") -> int:
    """``"8GiB"``, ``"8 GiB"``, ``"8GB"`` (= 8e9) or ``"800MB"`` as bytes.

    Args:
        text: A number with a unit.
        what: It is, for messages.

    Raises:
        BudgetError: no unit, unknown unit, or not greater than zero.
    """
    rule = f"{what} must be a positive number with a unit, but got {text!r}"
    fix = "write for example 8GiB (= 8 * 2**30 bytes), 8GB (= 8e9 bytes) or 800MB"
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([A-Za-z]+)\s*", text)
    if match is None or match[2].lower() not in _BYTES:
        raise BudgetError(rule, fix=fix)
    value = int(float(match[1]) * _BYTES[match[2].lower()])
    if value <= 0:
        raise BudgetError(rule, fix=fix)
    return value


def parse_latency_s(text: str) -> float:
    """``"20ms"`` or ``"1.5s"`` as seconds.

    Raises:
        BudgetError: no unit, unknown unit, or not greater than zero.
    """
    return parse_duration_s(text, what="latency", examples="20ms or 1.5s")


def parse_duration_s(text: str, *, what: str = "time", examples: str = "2h, 90min, 45s or 1h30min") -> float:
    """``"2h"``, ``"90min"``, ``"45s"`` or ``"1h30min"`` as seconds.

    Args:
        text: Numbers with units.
        what: It is, for messages.
        examples: For messages.

    Raises:
        BudgetError: no unit, unknown unit, or not greater than zero.
    """
    rule = f"{what} must be a positive number with a unit, but got {text!r}"
    fix = f"write for example {examples}"
    parts = re.findall(rf"{_NUMBER}\s*([A-Za-z]+)", text)
    if not parts or re.sub(rf"{_NUMBER}\s*[A-Za-z]+|\s", "", text):
        raise BudgetError(rule, fix=fix)
    if any(unit.lower() not in _SECONDS for _, unit in parts):
        raise BudgetError(rule, fix=fix)
    value = sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)
    if value <= 0 or not math.isfinite(value):
        raise BudgetError(rule, fix=fix)
    return value


def parse_energy_j(text: str) -> float:
    """``"500J"``, ``"40kJ"``, ``"20Wh"`` or ``"1.5kWh"`` as joules.

    Raises:
        BudgetError: no unit, unknown unit, or not greater than zero.
    """
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([A-Za-z]+)\s*", text)
    value = float(match[1]) * _JOULES.get(match[2].lower(), 0.0) if match is not None else 0.0
    if not 0 < value < math.inf:
        raise BudgetError(
            f"energy must be a positive number with a unit, but got {text!r}",
            fix="write for example 500J, 40kJ, 20Wh or 1.5kWh (1 Wh = 3600 J)",
        )
    return value


def format_bytes(value_bytes: float) -> str:
    """Bytes in the largest binary unit that keeps the number at or above one: ``"1.8 GiB"``."""
    for unit, size in (("TiB", 2**40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(value_bytes) >= size:
            number = value_bytes / size
            decimals = 0 if number >= 100 else 1 if number >= 10 else 2
            return f"{number:.{decimals}f} {unit}"
    return f"{value_bytes:.0f} B"


def format_duration(value_s: float) -> str:
    """Seconds as a person would say them: ``"340 ms"``, ``"4 min 05 s"``, ``"2 h 10 min"``, ``"3.17 years"``."""
    if value_s < 1e-3:
        return f"{value_s * 1e6:.3g} µs"
    if value_s < 1:
        return f"{value_s * 1e3:.3g} ms"
    if value_s < 60:
        return f"{value_s:.1f} s" if value_s < 9.95 else f"{value_s:.0f} s"
    if value_s < 3600:
        minutes, seconds = divmod(round(value_s), 60)
        return f"{minutes} min {seconds:02d} s"
    if value_s >= YEAR_S:
        return f"{value_s / YEAR_S:.3g} years"
    minutes = round(value_s / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_energy(value_j: float) -> str:
    """Joules as an electricity meter would say them: ``"340 J"``, ``"12.3 Wh"``, ``"1.20 kWh"``."""
    hours = value_j / 3600
    if hours < 1:
        return f"{value_j:.3g} J"
    return f"{hours:.3g} Wh" if hours < 1000 else f"{hours / 1000:.3g} kWh"


def round_up_memory(value_bytes: float) -> str:
    """A limit that is enough, as the user would type it: ``"3.3GiB"``, ``"40MiB"``, ``"890KiB"``."""
    if value_bytes >= GIB:
        return f"{math.ceil(value_bytes / GIB * 10) / 10:.1f}GiB"
    return (
        f"{math.ceil(value_bytes / MIB / 10) * 10}MiB" if value_bytes >= MIB else f"{math.ceil(value_bytes / KIB)}KiB"
    )


def round_up_duration(value_s: float) -> str:
    """A limit that is enough, as the user would type it: ``"12min"``, ``"35ms"``."""
    if value_s < 1:
        return f"{math.ceil(value_s * 1e3)}ms"
    if value_s < 60:
        return f"{math.ceil(value_s)}s"
    return f"{math.ceil(value_s / 60)}min" if value_s < 10 * 3600 else f"{math.ceil(value_s / 3600)}h"


def round_up_energy(value_j: float) -> str:
    """A limit that is enough, as the user would type it: ``"340J"``, ``"12.4Wh"``."""
    return f"{math.ceil(value_j)}J" if value_j < 3600 else f"{math.ceil(value_j / 360) / 10:.1f}Wh"


def format_count(value: float) -> str:
    """A count with a metric suffix: ``"22.7M"``."""
    for suffix, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def counted(number: int, noun: str) -> str:
    """A number of things whose plural ends in s: ``"1 step"``, ``"1,200 steps"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def now_iso() -> str:
    """The current time to the second, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
