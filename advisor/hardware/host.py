"""What the operating system lets this process use: cores, memory, instruction sets. Reads files, imports nothing heavy.

Every finding is a value with the reason for it; the root of the file system is an argument so that any machine can be
replayed.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from advisor.core.units import counted

T = TypeVar("T")

ROOT = Path("/")

LEAST_FREE_SHARE = 0.5
"""Of a core: less work than this beside it is the system's own."""
VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")
"""Instruction sets that decide which matrix kernels oneDNN and MKL pick, as /proc/cpuinfo spells them."""


@dataclass(frozen=True)
class Finding:
    """A value and why it is believed."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


@dataclass(frozen=True)
class Host:
    """The CPU side of the machine as this process may use it.

    Attributes:
        cores: Whole cores usable at once, at least 1.
        core_quota: Cores' worth of time per second that a cgroup grants; ``None`` without a quota.
        memory_bytes: The smaller of physical memory and cgroup limit.
        available_bytes: Of that, what is free now.
        model_name: As the CPU calls itself.
        vector_flags: Of ``VECTOR_FLAGS``, those present.
        reasons: Why, by field name.
        physical_cores: Of the usable cores, those with execution units of their own.
        clock_hz, max_clock_hz: Of the first core, now and at most; ``None`` where the system does not say.
    """

    cores: int
    core_quota: float | None
    memory_bytes: int
    available_bytes: int
    model_name: str
    vector_flags: tuple[str, ...]
    reasons: dict[str, str]
    physical_cores: int | None = None
    clock_hz: float | None = None
    max_clock_hz: float | None = None

    @property
    def throttled(self) -> bool:
        """Whether a quota stops the process even when it keeps to its usable cores."""
        return self.core_quota is not None and self.core_quota < self.cores


def inspect_host(root: Path = ROOT, affinity: int | None = None) -> Host:
    """Read the host's limits.

    Args:
        root: Where ``/proc`` and ``/sys`` are looked for.
        affinity: Cores in the process's affinity mask; asked of the system when ``None``.
    """
    cpus = list(range(affinity)) if affinity is not None else usable_cpus()
    allowed = len(cpus)
    quota, quota_reason = cpu_quota(root)
    cores = max(1, min(allowed, math.ceil(quota)) if quota is not None else allowed)
    memory, available, memory_reason = memory_limit(root)
    cpuinfo = _read(root / "proc/cpuinfo")
    flags = set(_field(cpuinfo, "flags", "Features").split())
    physical, physical_reason = _physical_cores(root, cpus, cpuinfo)
    frequencies = root / "sys/devices/system/cpu/cpu0/cpufreq"
    top_khz = _read(frequencies / "cpuinfo_max_freq")
    mhz = _field(cpuinfo, "cpu MHz")
    reasons = {
        "physical_cores": physical_reason,
        "clock_hz": "/proc/cpuinfo" if mhz else "the system does not say",
        "max_clock_hz": "cpufreq" if top_khz.isdigit() else "the system does not say",
        "cores": f"{allowed} in the affinity mask; {quota_reason}",
        "memory_bytes": memory_reason,
        "vector_flags": "/proc/cpuinfo" if flags else "unknown: no /proc/cpuinfo here",
    }
    name = _field(cpuinfo, "model name", "Model", "Hardware") or platform.processor() or platform.machine()
    return Host(
        cores=cores,
        core_quota=quota,
        memory_bytes=memory,
        available_bytes=available,
        model_name=name,
        vector_flags=tuple(flag for flag in VECTOR_FLAGS if flag in flags),
        reasons=reasons,
        physical_cores=min(physical, cores),
        clock_hz=float(mhz) * 1e6 if mhz.replace(".", "", 1).isdigit() else None,
        max_clock_hz=int(top_khz) * 1e3 if top_khz.isdigit() else None,
    )


def busy_load() -> str:
    """The system's load of the last minute in words, when it is more than all its CPUs and a process of one's own
    explain; else empty.

    Inside a container the load is still that of the whole machine.
    """
    cpus = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # not on every system
        return ""
    return f"load {load:.1f} on {counted(cpus, 'CPU')}" if load > cpus + 1 else ""


def other_work(root: Path = ROOT, *, sample_s: float = 0.25, sleep: Callable[[float], None] = time.sleep) -> str:
    """Why not all usable cores are free right now, in words: a quota, or what other processes do; empty when they are.

    Args:
        root: Where ``/proc`` and ``/sys`` are looked for.
        sample_s: For how long to watch the whole machine's idle time; this process's own work is subtracted.
        sleep: Waits that long.
    """
    host = inspect_host(root)
    if host.throttled:
        return host.reasons["cores"]
    own_s, before = time.process_time(), idle_ticks(root)
    sleep(sample_s)
    own_s, after = time.process_time() - own_s, idle_ticks(root)
    if before is None or after is None:
        return busy_load()
    free = (after - before) / os.sysconf("SC_CLK_TCK") / sample_s + own_s / sample_s
    if free > host.cores - LEAST_FREE_SHARE:
        return ""
    return f"{free:.1f} of {counted(host.cores, 'core')} idle over {sample_s:g} s"


def idle_ticks(root: Path) -> int | None:
    """Of all CPUs since the system started (proc(5)); ``None`` where there is no such file."""
    numbers = _field(_read(root / "proc/stat").replace("cpu ", "cpu:", 1), "cpu").split()
    return int(numbers[3]) + int(numbers[4]) if len(numbers) > 4 else None


def cpu_quota(root: Path = ROOT) -> tuple[float | None, str]:
    """Cores that the cgroup grants, with the reason.

    Version 2: ``cpu.max`` = "quota period"; version 1: ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us``, -1 for none
    (Linux kernel documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc). The tightest of the ancestors counts.
    """
    quotas: list[tuple[float, Path]] = []
    for folder in _cgroup_folders(root, "cpu"):
        limit, period = ([*_read(folder / "cpu.max").split(), "", ""])[:2]
        if not limit:
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(period) > 0:
            quotas.append((int(limit) / int(period), folder))
    if not quotas:
        return None, "no cgroup quota"
    quota, folder = min(quotas)
    return quota, f"cgroup quota of {quota:g} cores at /{folder.relative_to(root)}"


def memory_limit(root: Path = ROOT) -> tuple[int, int, str]:
    """Usable bytes, free bytes, and the reason: the smaller of physical memory and the tightest cgroup limit.

    Page cache counts against a cgroup but can be reclaimed, so inactive file pages are not subtracted from what is
    free.
    """
    meminfo = _read(root / "proc/meminfo")
    total = _kib(meminfo, "MemTotal")
    available = _kib(meminfo, "MemAvailable") or total
    reason = "physical memory (/proc/meminfo MemTotal)"
    if not total and root == ROOT:
        total, available = asked(lambda psutil: psutil.virtual_memory()[:2], (0, 0))
        reason = "physical memory (psutil)" if total else "unknown: the system does not say"
    limit = total
    for folder in _cgroup_folders(root, "memory"):
        text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if not text.isdigit() or not 0 < int(text) < (limit or 2**62):
            continue
        limit, reason = int(text), f"cgroup limit at /{folder.relative_to(root)}"
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        statistics = dict(
            line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if len(line.split()) == 2
        )
        reclaimable = int(statistics.get("inactive_file", "0")) + int(statistics.get("active_file", "0"))
        if used.isdigit():
            available = min(available, max(0, limit - max(0, int(used) - reclaimable)))
    return limit, min(available, limit), reason


def usable_cpus() -> list[int]:
    """Logical CPUs that this process may run on: its affinity mask where the system has such masks, else all."""
    return sorted(asked(lambda psutil: psutil.Process().cpu_affinity(), range(os.cpu_count() or 1)))


def asked(question: Callable[[Any], T], otherwise: T) -> T:
    """What psutil says, or another value where the system does not."""
    import psutil

    try:
        return question(psutil)
    except (AttributeError, psutil.Error, OSError):
        return otherwise


def _physical_cores(root: Path, cpus: list[int], cpuinfo: str) -> tuple[int, str]:
    """Cores behind these CPUs, hyper-threads of one core counted once, and how that is known."""
    folder = root / "sys/devices/system/cpu"
    siblings = [_read(folder / f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpus]
    if all(siblings):
        return len(set(siblings)), "thread siblings in sysfs"
    blocks = [block for block in cpuinfo.split("\n\n") if _field(block, "processor").isdigit()]
    places = {
        int(_field(block, "processor")): (_field(block, "physical id"), _field(block, "core id")) for block in blocks
    }
    found = {places[cpu] for cpu in cpus if cpu in places and places[cpu][1]}
    if found:
        return len(found), "core ids in /proc/cpuinfo"
    if root == ROOT and (counted_by_system := asked(lambda psutil: psutil.cpu_count(logical=False), None)):
        return counted_by_system, "physical cores of the machine (psutil)"
    return len(cpus), "unknown: taken to be as many as logical ones"


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Folders of this process's cgroup and its ancestors, version 2 first. Inside a container the path may be the root
    itself.
    """
    bases: list[tuple[Path, str]] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            bases += [(root / "sys/fs/cgroup", path), (root / "sys/fs/cgroup/unified", path)]
        elif controller in controllers.split(","):
            bases += [(root / "sys/fs/cgroup" / controllers, path), (root / "sys/fs/cgroup" / controller, path)]
    bases += [(root / "sys/fs/cgroup", "/"), (root / "sys/fs/cgroup" / controller, "/")]
    folders: list[Path] = []
    for base, path in bases:
        parts = [part for part in path.split("/") if part not in ("", "..")]
        folders += [base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _field(cpuinfo: str, *names: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def _kib(meminfo: str, name: str) -> int:
    value = _field(meminfo, name).split()
    return int(value[0]) * 1024 if value else 0
