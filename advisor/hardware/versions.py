"""The versions that decide speed besides the device itself: calibrations are valid for these only."""

from __future__ import annotations

import importlib.metadata
import platform

from advisor.core.code_version import TRAINING_LIBRARIES
from advisor.core.device import DeviceProfile
from advisor.hardware.backends import backend_of

UNKNOWN = "unknown"
"""What a profile says where NVML is missing or refuses."""
MACHINE_FACTS = (
    "cpu",
    "cores",
    "core_quota",
    "driver",
    "cuda",
    "multi_processors",
    "power_limit_w",
    "ecc",
    "mig",
    "pcie",
)
"""Facts of a probed device that say what kind of machine it is; none names the host."""


def current_versions(device: DeviceProfile, *, driver: str | None = None) -> dict[str, str]:
    """Libraries, Python, driver, cores and threads as they are now.

    The driver's version comes from the kernel, because a profile may have been probed before an update, and from the
    profile where the kernel has none (the device is in another machine).

    Args:
        device: Probed profile.
        driver: Version of the loaded driver; the back end is asked when ``None``.
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
    backend = backend_of(device)
    if backend.setups.num_threads and device.num_threads is not None:
        versions["threads"] = str(device.num_threads)
    if loaded := backend.driver_version() if driver is None else driver:
        versions["driver"] = loaded
    return versions


def machine_facts(device: DeviceProfile) -> dict[str, str]:
    """What kind of machine measures: device, memory, operating system, and facts without their reasons."""
    facts = {name: device.facts[name].split(" (", 1)[0] for name in MACHINE_FACTS if name in device.facts}
    return {
        "device": device.name,
        "memory_bytes": str(device.memory_bytes),
        "system": f"{platform.system()} {platform.machine()}",
        **facts,
    }
