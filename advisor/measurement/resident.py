"""Resident set of a process, read from the kernel."""

from __future__ import annotations

from pathlib import Path


def resident_bytes(pid: int | str = "self") -> int:
    """Resident set now (``VmRSS`` of proc(5)); 0 where the kernel does not say."""
    return _status_bytes(pid, "VmRSS")


def peak_resident_bytes(pid: int | str = "self") -> int:
    """Largest resident set so far (``VmHWM`` of proc(5)); a forked process starts at what it inherited."""
    return max(_status_bytes(pid, "VmHWM"), _status_bytes(pid, "VmRSS"))


def _status_bytes(pid: int | str, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
