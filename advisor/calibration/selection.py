"""Which calibration a prediction may use: the user's own, a shipped one, or none; and with which source label.

A calibration made with the versions in use now is used as it is. With other versions it is refused on the machine at
hand, where a new one takes a minute. For a device that is elsewhere, and for the calibrations that are shipped, it is
the best there is: it is used, but marked ``transferred``, so that figures from it are neither called calibrated nor
given a calibrated interval.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from advisor.calibration.database import AGAIN, load_calibration, read_calibration
from advisor.calibration.exchange import KIND, read_exchange
from advisor.core.coefficients import Calibration, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import read_json
from advisor.core.store import resource_dir
from advisor.hardware.profiles import DRIVER_NAMES
from advisor.hardware.versions import current_versions

SHIPPED_FOLDER = "devices"


def calibration_for(
    device: DeviceProfile, *, at_hand: bool, shipped_folder: Path | None = None
) -> tuple[Calibration | None, str]:
    """The calibration to predict with, and a sentence when the user should know something about it.

    Args:
        device: Where plans will run.
        at_hand: Whether that is this machine.
        shipped_folder: Where shipped calibrations lie; the package's own when ``None``.
    """
    notes: list[str] = []
    own, versions = None, current_versions(device)
    try:
        own = load_calibration(device.id, versions)
    except DeviceError as failure:
        notes.append(f"the calibration of {device.id} is not used: {failure.message}; {failure.fix}")
    if own is not None:
        found = version_differences(own.versions, versions)
        if not found:
            return own, ""
        if not at_hand:
            return _transferred(own, device, found), _transfer_note(device, found)
        notes.append(
            f"the calibration of {device.id} is not used, because times of other versions are not mixed"
            f" ({'; '.join(found)}); {AGAIN}"
        )
    shipped = shipped_calibration(device.id, shipped_folder)
    if shipped is not None:
        found = version_differences(shipped.versions, versions)
        if found:
            notes.append(_transfer_note(device, found))
            shipped = _transferred(shipped, device, found)
        own = dataclasses.replace(shipped, device_id=device.id)
        return own, "; ".join(notes)
    return None, "; ".join(notes)


def calibrated_now(device: DeviceProfile) -> Calibration | None:
    """The stored calibration of a device; ``None`` without one.

    Raises:
        DeviceError: it was made with other versions than those in use now, or is damaged.
    """
    versions = current_versions(device)
    found = load_calibration(device.id, versions)
    if found is not None and (problems := version_differences(found.versions, versions)):
        raise DeviceError(
            f"a calibration must be used with the versions it was made with, but those of {device.id} differ",
            problems=problems,
            fix=f"{AGAIN}: times measured with other versions are not mixed",
        )
    return found


def calibration_in(path: Path, device_id: str) -> Calibration:
    """The calibration of a device in a file: an export, or a JSON file of version 1.

    Raises:
        DeviceError: the file cannot be used, or holds none of this device.
    """
    values = read_json(path, what="the calibration", error=DeviceError)
    if not isinstance(values, dict) or values.get("kind") != KIND:
        return read_calibration(path)
    entries = {entry.device.id: entry.calibration for entry in read_exchange(path).calibrations}
    if device_id not in entries:
        raise DeviceError(
            f"--calibration must hold one of {device_id}, but {path} has {', '.join(entries)}",
            fix="name the calibration of that device",
        )
    return entries[device_id]


def shipped_calibration(device_id: str, folder: Path | None = None) -> Calibration | None:
    """The calibration of a device that comes with the advisor, or ``None``.

    A card's datasheet profile and its probed one may have different names; both find it.

    Raises:
        DeviceError: the file is damaged.
    """
    where = folder if folder is not None else resource_dir("calibration") / SHIPPED_FOLDER
    wanted = _canonical(device_id)
    for path in sorted(where.glob("*.json")) if where.is_dir() else ():
        if _canonical(path.stem) == wanted:
            entries = read_exchange(path).calibrations
            return next((e.calibration for e in entries if _canonical(e.calibration.device_id) == wanted), None)
    return None


def _canonical(device_id: str) -> str:
    return DRIVER_NAMES.get(device_id, device_id)


def _transferred(calibration: Calibration, device: DeviceProfile, found: list[str]) -> Calibration:
    """Marked; without the resident set, which belongs to the libraries of the process that was measured."""
    return dataclasses.replace(calibration, device_id=device.id, transferred=tuple(found), resident=None)


def _transfer_note(device: DeviceProfile, found: list[str]) -> str:
    return (
        f"the calibration of {device.id} was made with other versions ({'; '.join(found)}):"
        " times from it are transferred, with wider intervals"
    )
