"""A device profile as a table: each figure with where it comes from."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.device import DeviceProfile
from advisor.core.units import format_bytes, format_duration


def print_device(console: Console, profile: DeviceProfile) -> None:
    """Print capacity, rates and facts of one device."""
    table = Table(
        title=f"{profile.name}  ({profile.id}, {profile.basis})", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("source", style="dim")
    for row in _rows(profile):
        table.add_row(*row)
    console.print(table)
    for name, fact in profile.facts.items():
        if not name.startswith("rate "):  # every single timing: in the profile's file and under --json
            console.print(f"[dim]{name}: {fact}[/dim]", highlight=False, soft_wrap=True)
    for warning in profile.warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


def _rows(profile: DeviceProfile) -> list[tuple[str, str, str]]:
    sources = profile.sources
    rows = [("memory", format_bytes(profile.memory_bytes), sources.get("memory_bytes", ""))]
    if profile.available_bytes is not None:
        rows.append(("free now", format_bytes(profile.available_bytes), sources.get("available_bytes", "")))
    if profile.compute_capability is not None:
        capability = ".".join(str(part) for part in profile.compute_capability)
        rows.append(("compute capability", capability, sources.get("compute_capability", "")))
    rows.append(("held by a process", format_bytes(profile.context_bytes), sources.get("context_bytes", "")))
    if profile.context_interval_bytes is not None:
        interval = " – ".join(format_bytes(value) for value in profile.context_interval_bytes)
        rows.append(("may be", interval, sources.get("context_interval_bytes", "")))
    rows += [
        (f"{name} matrix rate", f"{rate.value / 1e12:.3g} TFLOP/s", rate.source)
        for name, rate in profile.flops_per_s.items()
    ]
    rows += [
        (f"{name.replace('_', ' ')} bandwidth", f"{rate.value / 1e9:.3g} GB/s", rate.source)
        for name, rate in profile.bytes_per_s.items()
    ]
    if profile.launch_s:
        rows.append(("launch of one operator", format_duration(profile.launch_s), sources.get("launch_s", "")))
    rows.append(("trains in", ", ".join(profile.dtypes), sources.get("dtypes", "")))
    rows.append(("attention kernels", ", ".join(profile.attention_kernels), sources.get("attention_kernels", "")))
    return rows


def print_device_list(console: Console, profiles: list[DeviceProfile]) -> None:
    """Print the known devices, one line each, narrow enough for 80 columns."""
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        caption="TFLOP/s: dense matrices, fastest data type that trains; GB/s: device memory",
        caption_justify="left",
    )
    for column in ("device", "name", "memory", "TFLOP/s", "GB/s", "figures"):
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
