"""The versions that decide speed besides the device itself: calibrations are valid for these only."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

from advisor.core.code_version import TRAINING_LIBRARIES
from advisor.core.device import DeviceProfile

UNKNOWN = "unknown"
"""What a profile says where NVML is missing or refuses."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Written by the kernel module; readable where NVML is missing or forbidden."""


def current_versions(device: DeviceProfile, *, driver_file: Path = DRIVER_FILE) -> dict[str, str]:
    """Libraries, Python, driver, cores and threads as they are now.

    The driver's version comes from the kernel, because a profile may have been probed before an update, and from the
    profile where the kernel has none (the device is in another machine).

    Args:
        device: Probed profile.
        driver_file: Where the NVIDIA kernel module writes its version.
    """
    versions = {"python": platform.python_version()}
    for name in TRAINING_LIBRARIES:
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
