"""Versions that decide what a run does, and those that a calibration is valid for."""

from __future__ import annotations

import platform

from advisor import __version__
from advisor.core.code_version import TRAINING_LIBRARIES, library_version
from advisor.core.device import DeviceProfile
from advisor.hardware.backends import backend_of

UNKNOWN = "unknown"
"""What a profile says where NVML is missing or refuses."""
MACHINE_FACTS = (
    *("cpu", "cores", "core_quota", "driver", "cuda", "multi_processors", "power_limit_w", "ecc", "mig", "pcie"),
)
"""Facts of a probed device that say what kind of machine it is; none names the host."""


def installed_versions() -> dict[str, str]:
    """Versions of everything that decides what a run does; packages that are not installed are left out."""
    packages = (*TRAINING_LIBRARIES, "datasets", "optuna", "safetensors")
    found = {"finetune-advisor": __version__, "python": platform.python_version()}
    return found | {name: version for name in packages if (version := library_version(name))}


def current_versions(device: DeviceProfile, *, driver: str | None = None) -> dict[str, str]:
    """Libraries, Python, driver, cores and threads as they are now: a calibration is valid for these only.

    The driver's version comes from the kernel, because a profile may have been probed before an update, and from the
    profile where the kernel has none (the device is in another machine).

    Args:
        device: Probed profile.
        driver: Version of the loaded driver; the back end is asked when ``None``.
    """
    versions = {"python": platform.python_version()}
    versions |= {name: library_version(name) or "absent" for name in TRAINING_LIBRARIES}
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
