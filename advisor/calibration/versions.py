"""What decides speed besides the device itself. Points measured with different versions are never mixed."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from advisor.core.device import DeviceProfile

CALIBRATED_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
UNKNOWN = "unknown"
"""What a profile says where NVML is missing or refuses."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""The kernel module's own word; readable where NVML is missing or forbidden."""


def current_versions(device: DeviceProfile, *, driver_file: Path = DRIVER_FILE) -> dict[str, str]:
    """Libraries, Python, driver, cores and threads as they are now.

    The driver is asked of the kernel first, because a profile may have been probed before an update; the profile
    answers where the kernel does not (the device is in another machine).

    Args:
        device: Probed profile.
        driver_file: Where the NVIDIA kernel module tells its version.
    """
    versions = {"python": platform.python_version()}
    for name in CALIBRATED_LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    for fact in ("driver", "cores"):
        value = device.facts.get(fact, UNKNOWN).split(" (", 1)[0]
        if value != UNKNOWN:
            versions[fact] = value
    if device.type == "cpu" and device.num_threads is not None:
        versions["threads"] = str(device.num_threads)
    if device.type == "cuda" and (driver := kernel_driver(driver_file)):
        versions["driver"] = driver
    return versions


def kernel_driver(path: Path = DRIVER_FILE) -> str:
    """Version of the loaded NVIDIA driver; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return found[1] if found else ""


def differences(before: Mapping[str, str], now: Mapping[str, str], *, first: str, second: str) -> list[str]:
    """One line per version that differs; one that only one side knows differs too.

    Args:
        before: Versions of one side.
        now: Versions of the other.
        first: What the first side is called, for example ``"calibrated with"``.
        second: What the second is called, for example ``"now"``.
    """
    return [
        f"{name}: {first} {before.get(name, UNKNOWN)}, {second} {now.get(name, UNKNOWN)}"
        for name in dict.fromkeys((*now, *before))
        if before.get(name) != now.get(name)
    ]
