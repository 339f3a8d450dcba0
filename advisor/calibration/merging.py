"""Files of calibrations become part of what is stored: all of them or none."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.calibration.cross_validation import refit
from advisor.calibration.database import CalibrationDatabase, device_lock
from advisor.calibration.exchange import EXPORT_AGAIN, Exchanged, read_exchange, write_exchange
from advisor.core.coefficients import Calibration, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import to_json
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.hardware.profiles import load_profile
from advisor.hardware.versions import current_versions

STORED = "what is stored"


@dataclass(frozen=True)
class MergedPart:
    """New points of one part of a merge (a file, or ``"what is stored"``), and those that were there already."""

    name: str
    replays: int
    points: int
    duplicates: int


@dataclass(frozen=True)
class Imported:
    """One device after an import: its calibration as it is stored now, and what each part brought."""

    device: DeviceProfile
    calibration: Calibration
    parts: tuple[MergedPart, ...]

    @property
    def new(self) -> tuple[int, int]:
        """Operator calls and steps that were not stored before."""
        files = [part for part in self.parts if part.name != STORED]
        return sum(part.replays for part in files), sum(part.points for part in files)


def import_files(
    files: Sequence[Path], *, this_device_id: str | None = None, fresh: bool = False
) -> tuple[tuple[Imported, ...], tuple[str, ...]]:
    """Merge files into the stored calibrations of their devices; all of them or none.

    Args:
        files: Written by ``write_exchange``.
        this_device_id: The machine at hand; calibrations of it must have the versions in use here.
        fresh: Replace what is stored; an export of it is kept.

    Returns:
        The devices, and notes.

    Raises:
        DeviceError: a file cannot be used, or devices, drivers or library versions differ.
        OutputError: the result cannot be written, or a calibration of one of the devices is under way.
    """
    parts = _read(files)
    notes: list[str] = []
    for name, found, _ in parts.get(this_device_id or "", ()):
        if problems := version_differences(found.calibration.versions, current_versions(_known_here(found.device))):
            raise DeviceError(
                f"a calibration of the machine at hand must have the versions in use here, but those of {name} differ",
                problems=problems,
                fix="run `advisor calibrate run`, which takes a minute with --quick, or install these versions",
            )
    with contextlib.ExitStack() as stack:
        for device_id in parts:
            stack.enter_context(device_lock(device_id))
        database = stack.enter_context(CalibrationDatabase(writing=True))
        with database.transaction():
            imported = []
            for of_device in parts.values():
                if fresh:
                    notes += _put_aside(database, of_device[0][1].device)
                imported.append(_merged(database, of_device))
    return tuple(imported), tuple(notes)


def _put_aside(database: CalibrationDatabase, device: DeviceProfile) -> list[str]:
    """Forget a device, and export its calibration if it can be read; returns a note about that."""
    stored = None
    with contextlib.suppress(DeviceError):
        stored = database.load(device.id)
    database.forget(device.id)
    if stored is None:
        return []
    return [f"what was stored of {device.id} is kept as {keep_replaced(_known_here(device), stored)}"]


def keep_replaced(device: DeviceProfile, calibration: Calibration) -> Path:
    """Export a calibration that is about to be replaced; ``OutputError`` when that cannot be written."""
    path = user_data_dir("calibration", "replaced") / f"{device.id}.json"
    write_exchange(path, [Exchanged(device, calibration)], replace=True)
    return path


_Part = tuple[str, Exchanged, str]
"""Name of a file, what it holds of one device, and the file's checksum."""


def _read(files: Sequence[Path]) -> dict[str, list[_Part]]:
    """The parts of all files by device; problems of several files are reported together."""
    parts: dict[str, list[_Part]] = {}
    failures: list[DeviceError] = []
    for path in files:
        try:
            found = read_exchange(path)
            for entry in found.calibrations:
                parts.setdefault(entry.device.id, []).append((path.name, entry, found.checksum))
        except DeviceError as failure:
            failures.append(failure)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise DeviceError(
            f"all files must be usable, but {len(failures)} of {len(files)} are not; nothing was imported",
            problems=[line for failure in failures for line in (failure.message, *failure.problems)],
            fix=f"leave them out, or {EXPORT_AGAIN}",
        )
    return parts


def _merged(database: CalibrationDatabase, parts: Sequence[_Part]) -> Imported:
    """Add the parts of one device to what is stored of it, and fit all points together."""
    _, first, _ = parts[0]
    device, versions = _known_here(first.device), first.calibration.versions
    stored = database.load(device.id, versions)
    used = [(STORED, stored)] if stored is not None else []
    _check_mixable([*used, *((name, entry.calibration) for name, entry, _ in parts)])
    number = database.number_of(device.id, versions)
    shares = [MergedPart(STORED, len(c.replays), len(c.points), 0) for _, c in used]
    for name, entry, checksum in parts:
        calibration = entry.calibration
        calls, steps = database.merge(number, calibration, file=name, checksum=checksum)
        offered = len(calibration.replays) + len(calibration.points)
        shares.append(MergedPart(name, calls, steps, offered - calls - steps))
        if calls or steps:
            used.append((name, calibration))
    merged = dataclasses.replace(
        database.read(number, "contribution.fitted"),
        seconds=sum(c.seconds for _, c in used),
        partial="; ".join(dict.fromkeys(c.partial for _, c in used if c.partial)),
        notes=tuple(dict.fromkeys(note for _, c in used for note in c.notes)),
    )
    fitted = refit(device, merged)
    database.keep_fits(number, fitted)
    if not (profile := _own_profile(device.id)).exists():
        write_text_atomically(profile, to_json(device))
    return Imported(device, fitted, tuple(shares))


def _check_mixable(parts: Sequence[tuple[str, Calibration]]) -> None:
    """Refuse parts of different drivers or libraries, with every difference."""
    (first_name, first), *others = parts
    problems: dict[str, None] = {}
    for name, other in others:
        problems |= dict.fromkeys(version_differences(first.versions, other.versions, first=first_name, second=name))
    if problems:
        raise DeviceError(
            "calibrations may be merged only when driver and library versions are equal, but they differ",
            problems=list(problems),
            fix="merge those that are alike; with --fresh a file replaces what is stored instead of adding to it",
        )


def _known_here(imported: DeviceProfile) -> DeviceProfile:
    """The user's own profile of a device where there is a usable one: its rates bound the fits."""
    if _own_profile(imported.id).exists():
        with contextlib.suppress(DeviceError):
            return load_profile(imported.id)
    return imported


def _own_profile(device_id: str) -> Path:
    return user_data_dir("profiles") / f"{device_id}.json"
