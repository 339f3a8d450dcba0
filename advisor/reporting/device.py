"""A device profile as tables: each figure with its spread and source."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from advisor.core.device import PARTIAL_FACT, DeviceProfile, Rate
from advisor.core.units import counted, format_bytes, format_duration
from advisor.reporting.text import format_rate, make_table, print_table, remark

QUIET_FACTS = ("left out: ", "dtype ", "attention ", PARTIAL_FACT, "libraries")
"""Facts that stand in a table or a warning, or that only the profile's file and ``--json`` need."""


def print_device(console: Console, profile: DeviceProfile) -> None:
    """Print capacity, rates and facts of one device."""
    table = make_table("", ">value", "source", title=f"{profile.name}  ({profile.id}, {profile.basis})")
    for name, value, source in _capacity_rows(profile):
        table.add_row(name, value, f"[dim]{escape(source)}[/dim]")
    console.print(table)
    for group in _groups(profile):
        _print_rates(console, *group)
    for name, fact in profile.facts.items():
        if not name.startswith(QUIET_FACTS):
            remark(console, f"{name}: {fact}")
    late = [name for name, fact in profile.facts.items() if name.startswith("left out: ") and "no time" in fact]
    if late:
        remark(console, f"not measured for lack of time: {counted(len(late), 'figure')} (--json lists them)")
    for warning in profile.warnings:
        remark(console, warning, "warning:")


def _capacity_rows(profile: DeviceProfile) -> list[tuple[str, str, str]]:
    """Label, value and source of every figure that is known."""
    capability, span, threads = profile.compute_capability, profile.context_interval_bytes, profile.num_threads
    free_bytes, launch_s = profile.available_bytes, profile.launch_s if not profile.overhead_s else 0.0
    rows = [
        ("memory", "memory_bytes", format_bytes(profile.memory_bytes)),
        ("free now", "available_bytes", None if free_bytes is None else format_bytes(free_bytes)),
        ("compute capability", "compute_capability", None if capability is None else ".".join(map(str, capability))),
        ("used by an empty process", "context_bytes", format_bytes(profile.context_bytes)),
        ("plausible range", "context_interval_bytes", None if span is None else " – ".join(map(format_bytes, span))),
        ("training dtypes", "dtypes", ", ".join(profile.dtypes)),
        ("attention kernels", "attention_kernels", ", ".join(profile.attention_kernels)),
        ("training threads", "num_threads", None if threads is None else str(threads)),
        ("launch of one operator", "launch_s", format_duration(launch_s) if launch_s else None),
    ]
    return [(label, value, profile.sources.get(name, "")) for label, name, value in rows if value is not None]


Group = tuple[str, str, dict[str, Rate], Callable[[float], str]]


def _groups(profile: DeviceProfile) -> list[Group]:
    """Rates in groups that share a unit, summaries and points together."""
    attention = {key: rate for key, rate in profile.flops_per_s.items() if key.startswith("attention")}
    products = {key: rate for key, rate in profile.flops_per_s.items() if key not in attention}
    slow = all(rate.value < 1e12 for rate in profile.flops_per_s.values())
    unit, size = ("GFLOP/s", 1e9) if slow else ("TFLOP/s", 1e12)
    groups: list[Group] = [
        ("matrix products", unit, products, lambda value: format_rate(value / size)),
        ("attention", unit, attention, lambda value: format_rate(value / size)),
        ("bandwidths", "GB/s", profile.bytes_per_s, lambda value: format_rate(value / 1e9)),
        ("overheads", "", profile.overhead_s, format_duration),
    ]
    return [group for group in groups if group[2]]


def _print_rates(console: Console, title: str, unit: str, rates: dict[str, Rate], show: Callable[[float], str]) -> None:
    """One line a key; of its points the range and how many there are."""
    table = make_table(title, ">rate" if unit else ">time", ">spread", ">range", no_wrap=True)
    table.add_column("source", style="dim", overflow="fold")
    summaries = [key for key in rates if key.rpartition("/")[0] not in rates or not _is_point(key)]
    for key in summaries:
        points = [rate.value for name, rate in rates.items() if name.rpartition("/")[0] == key and _is_point(name)]
        span = f"{show(min(points))} – {show(max(points))}" if len(points) > 1 else ""
        spread = f"±{rates[key].spread:.0%}" if rates[key].spread else ""
        table.add_row(escape(key), f"{show(rates[key].value)} {unit}".rstrip(), spread, span, escape(rates[key].source))
    print_table(console, table, dispensable=("source", "range", "spread"))


def _is_point(key: str) -> bool:
    """Whether the last part of a key is a size (``"512"``, ``"1024x768x8"``) and not a name."""
    return key.rpartition("/")[2].replace("x", "").isdigit()


def print_device_list(console: Console, profiles: list[DeviceProfile]) -> None:
    """Print the known devices, one line each, narrow enough for 80 columns."""
    table = make_table("device", "name", ">memory", ">TFLOP/s", ">GB/s", "source", no_wrap=True)
    table.caption = "TFLOP/s: dense matrix products in the fastest training dtype; GB/s: device memory"
    table.caption_justify = "left"
    for profile in profiles:
        name = profile.name.removeprefix("NVIDIA ")
        rates = _fastest_rates(profile)
        table.add_row(profile.id, name, format_bytes(profile.memory_bytes), *rates, profile.basis)
    print_table(console, table, dispensable=("source", "GB/s", "TFLOP/s", "name"))


def _fastest_rates(profile: DeviceProfile) -> tuple[str, str]:
    """Matrix rate (TFLOP/s) and memory bandwidth (GB/s) as text; ``"?"`` where the profile has none."""
    matrix = max((rate.value for dtype, rate in profile.flops_per_s.items() if dtype in profile.dtypes), default=None)
    memory = profile.bytes_per_s.get("memory")
    return (
        "?" if matrix is None else format_rate(matrix / 1e12),
        "?" if memory is None else format_rate(memory.value / 1e9),
    )
