"""Calibrations on disk: one file per device in the user data directory, versions checked when read."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

from advisor.core.coefficients import SCHEMA_VERSION, Calibration, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.hardware.versions import current_versions

__all__ = [
    "OLD_NAME",
    "NewerCalibrationError",
    "calibration_path",
    "check_schema",
    "journal_path",
    "load_calibration",
    "save_calibration",
    "set_aside",
    "stored_devices",
]

AGAIN = "run `advisor calibrate` again"
OLD_NAME = "{}.old"
"""What a file is called that was put aside."""


class NewerCalibrationError(DeviceError):
    """A file that a newer advisor wrote: it is not replaced unless the user says so."""


def calibration_path(device_id: str) -> Path:
    """Where the calibration of a device is kept."""
    return user_data_dir("calibration") / f"{device_id}.json"


def journal_path(device_id: str) -> Path:
    """Where the points of a calibration that is under way, or was killed, are kept."""
    return user_data_dir("calibration") / f"{device_id}.jsonl"


def stored_devices() -> tuple[str, ...]:
    """Ids of the devices that the user has calibrations of."""
    return tuple(sorted(path.stem for path in user_data_dir("calibration").glob("*.json")))


def save_calibration(calibration: Calibration) -> Path:
    """Write a calibration; an older one of the same device is replaced.

    Raises:
        OutputError: the folder cannot be written or the disk is full; the older one is left as it was.
    """
    path = calibration_path(calibration.device_id)
    write_text_atomically(path, to_json(dataclasses.replace(calibration, transferred=())))
    return path


def set_aside(path: Path) -> Path | None:
    """Copy a file that is about to be replaced without being added to; ``None`` when there is none, or no space."""
    kept = path.with_name(OLD_NAME.format(path.name))
    with contextlib.suppress(OSError):
        shutil.copyfile(path, kept)
        return kept
    return None


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
    values = read_json(path, what="the calibration", error=DeviceError)
    check_schema(values, path)
    calibration = from_dict(Calibration, values, what=str(path), error=DeviceError)
    if calibration.device_id != device_id:
        raise DeviceError(
            f"the calibration in {path} must be of {device_id}, but it is of {calibration.device_id}", fix=AGAIN
        )
    if device is not None:
        found = version_differences(calibration.versions, current_versions(device))
        if found:
            raise DeviceError(
                f"a calibration must be used with the versions it was made with, but those of {device_id} differ",
                problems=found,
                fix=f"{AGAIN}: times measured with other versions are not mixed",
            )
    return calibration


def check_schema(values: Any, path: Path) -> None:
    """Refuse a calibration of a newer advisor.

    Raises:
        NewerCalibrationError: its ``schema_version`` is newer.
    """
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerCalibrationError(
            f"the calibration's schema_version must be at most {SCHEMA_VERSION}, but {path} has {version}",
            fix=f"it was written by a newer finetune-advisor: upgrade, or {AGAIN} with --fresh",
        )
