"""Calibrations on disk: one file per device in the user data directory, versions checked when read."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.costmodel.calibration.record import SCHEMA_VERSION, Calibration

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def current_versions(device: DeviceProfile) -> dict[str, str]:
    """What decides speed on this machine besides the device: libraries, Python, driver, cores."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    for fact in ("driver", "cores"):
        if fact in device.facts:
            versions[fact] = device.facts[fact].split(" (", 1)[0]
    return versions


def calibration_path(device_id: str) -> Path:
    """Where the calibration of a device is kept."""
    return user_data_dir("calibration") / f"{device_id}.json"


def save_calibration(calibration: Calibration) -> Path:
    """Write a calibration; an older one of the same device is replaced."""
    path = calibration_path(calibration.device_id)
    write_text_atomically(path, to_json(calibration))
    return path


def load_calibration(device_id: str, *, device: DeviceProfile | None = None) -> Calibration | None:
    """The stored calibration of a device, or ``None`` when there is none.

    Args:
        device_id: Profile id.
        device: When given, the calibration must have been made with the versions in use now.

    Raises:
        DeviceError: it is damaged, from a newer advisor, of another device, or made with other versions.
    """
    path = calibration_path(device_id)
    if not path.is_file():
        return None
    fix = "run `advisor calibrate` again"
    values = read_json(path, what="the calibration", error=DeviceError)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DeviceError(
            f"the calibration's schema_version must be at most {SCHEMA_VERSION}, but {path} has {version}",
            fix=f"it was written by a newer finetune-advisor: upgrade, or {fix}",
        )
    calibration = from_dict(Calibration, values, what=str(path), error=DeviceError)
    if calibration.device_id != device_id:
        raise DeviceError(
            f"the calibration in {path} must be of {device_id}, but it is of {calibration.device_id}", fix=fix
        )
    if device is not None:
        differences = version_differences(calibration, current_versions(device))
        if differences:
            raise DeviceError(
                f"a calibration must be used with the versions it was made with, but those of {device_id} differ",
                problems=differences,
                fix=f"{fix}: times measured with other versions are not mixed",
            )
    return calibration


def version_differences(calibration: Calibration, versions: dict[str, str]) -> list[str]:
    """One line per version that differs."""
    return [
        f"{name}: calibrated with {calibration.versions.get(name, 'unknown')}, now {now}"
        for name, now in versions.items()
        if calibration.versions.get(name) != now
    ]
