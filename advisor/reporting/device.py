"""A device profile as tables: each figure with its spread and source."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advisor.core.device import PARTIAL_FACT, DeviceProfile, Rate
from advisor.core.units import counted, format_bytes, format_duration

QUIET_FACTS = ("left out: ", "dtype ", "attention ", PARTIAL_FACT, "libraries")
"""Facts that stand in a table or a warning, or that only the profile's file and ``--json`` need."""


def print_device(console: Console, profile: DeviceProfile) -> None:
    """Print capacity, rates and facts of one device."""
    _print_capacity(console, profile)
    for title, unit, rates, show in _groups(profile):
        _print_rates(console, title, unit, rates, show)
    for name, fact in profile.facts.items():
        if not name.startswith(QUIET_FACTS):
            console.print(f"[dim]{name}: {escape(fact)}[/dim]", highlight=False, soft_wrap=True)
    late = [name for name, fact in profile.facts.items() if name.startswith("left out: ") and "no time" in fact]
    if late:
        count = counted(len(late), "figure")
        console.print(f"[dim]not measured for lack of time: {count} (--json lists them)[/dim]", highlight=False)
    for warning in profile.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)


def _print_capacity(console: Console, profile: DeviceProfile) -> None:
    title = f"{profile.name}  ({profile.id}, {profile.basis})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("source", style="dim")
    for row in _capacity_rows(profile):
        table.add_row(*row)
    console.print(table)


def _capacity_rows(profile: DeviceProfile) -> list[tuple[str, str, str]]:
    sources = profile.sources
    rows = [("memory", format_bytes(profile.memory_bytes), sources.get("memory_bytes", ""))]
    if profile.available_bytes is not None:
        rows.append(("free now", format_bytes(profile.available_bytes), sources.get("available_bytes", "")))
    if profile.compute_capability is not None:
        capability = ".".join(str(part) for part in profile.compute_capability)
        rows.append(("compute capability", capability, sources.get("compute_capability", "")))
    rows.append(("used by an empty process", format_bytes(profile.context_bytes), sources.get("context_bytes", "")))
    if profile.context_interval_bytes is not None:
        interval = " – ".join(format_bytes(value) for value in profile.context_interval_bytes)
        rows.append(("plausible range", interval, sources.get("context_interval_bytes", "")))
    rows.append(("training dtypes", ", ".join(profile.dtypes), sources.get("dtypes", "")))
    rows.append(("attention kernels", ", ".join(profile.attention_kernels), sources.get("attention_kernels", "")))
    if profile.num_threads is not None:
        rows.append(("training threads", str(profile.num_threads), sources.get("num_threads", "")))
    if profile.launch_s and not profile.overhead_s:
        rows.append(("launch of one operator", format_duration(profile.launch_s), sources.get("launch_s", "")))
    return rows


Group = tuple[str, str, dict[str, Rate], Callable[[float], str]]


def _groups(profile: DeviceProfile) -> list[Group]:
    """Rates in groups that share a unit, summaries and points together."""
    attention = {key: rate for key, rate in profile.flops_per_s.items() if key.startswith("attention")}
    products = {key: rate for key, rate in profile.flops_per_s.items() if key not in attention}
    slow = all(rate.value < 1e12 for rate in profile.flops_per_s.values())
    unit, size = ("GFLOP/s", 1e9) if slow else ("TFLOP/s", 1e12)
    groups: list[Group] = [
        ("matrix products", unit, products, lambda value: _three_digits(value / size)),
        ("attention", unit, attention, lambda value: _three_digits(value / size)),
        ("bandwidths", "GB/s", profile.bytes_per_s, lambda value: _three_digits(value / 1e9)),
        ("overheads", "", profile.overhead_s, format_duration),
    ]
    return [group for group in groups if group[2]]


def _print_rates(console: Console, title: str, unit: str, rates: dict[str, Rate], show: Callable[[float], str]) -> None:
    """One line a key; of its points the range and how many there are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    table.add_column("rate" if unit else "time", justify="right", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    table.add_column("range", justify="right", no_wrap=True)
    table.add_column("source", style="dim")
    summaries = [key for key in rates if key.rpartition("/")[0] not in rates or not _is_point(key)]
    for key in summaries:
        points = [rate.value for name, rate in rates.items() if name.rpartition("/")[0] == key and _is_point(name)]
        span = f"{show(min(points))} – {show(max(points))}" if len(points) > 1 else ""
        spread = f"±{rates[key].spread:.0%}" if rates[key].spread else ""
        table.add_row(escape(key), f"{show(rates[key].value)} {unit}".rstrip(), spread, span, escape(rates[key].source))
    console.print(table)


def _is_point(key: str) -> bool:
    """Whether the last part of a key is a size (``"512"``, ``"1024x768x8"``) and not a name."""
    return key.rpartition("/")[2].replace("x", "").isdigit()


def print_device_list(console: Console, profiles: list[DeviceProfile]) -> None:
    """Print the known devices, one line each, narrow enough for 80 columns."""
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        caption="TFLOP/s: dense matrix products in the fastest training dtype; GB/s: device memory",
        caption_justify="left",
    )
    for column in ("device", "name", "memory", "TFLOP/s", "GB/s", "source"):
        right = column in ("memory", "TFLOP/s", "GB/s")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for profile in profiles:
        name = profile.name.removeprefix("NVIDIA ")
        rates = _fastest_rates(profile)
        table.add_row(profile.id, name, format_bytes(profile.memory_bytes), *rates, profile.basis)
    console.print(table)


def _fastest_rates(profile: DeviceProfile) -> tuple[str, str]:
    """Matrix rate (TFLOP/s) and memory bandwidth (GB/s) as text; ``"?"`` where the profile has none."""
    matrix = max((rate.value for dtype, rate in profile.flops_per_s.items() if dtype in profile.dtypes), default=None)
    memory = profile.bytes_per_s.get("memory")
    return (
        "?" if matrix is None else _three_digits(matrix / 1e12),
        "?" if memory is None else _three_digits(memory.value / 1e9),
    )


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
