"""Calibrations as one file that travels: raw points, fits, the device profile, versions, and who measured what.

::

    {"kind": "finetune-advisor calibration", "schema_version": 1, "advisor_version": …, "created_at": …,
     "calibrations": [{"device": DeviceProfile, "calibration": Calibration}, …],
     "checksum": "sha256:…"}

The checksum is over ``calibrations`` as canonical JSON (sorted keys, no spaces), so that a file may be reformatted but
not changed. Nothing in it names a host, a user or a path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor import __version__
from advisor.calibration.cross_validation import refit
from advisor.calibration.database import CalibrationDatabase, device_lock
from advisor.core.coefficients import SCHEMA_VERSION, Calibration, ReplayPoint, StepPoint, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, OutputError
from advisor.core.serialization import from_dict, read_json, to_dict, to_json
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.core.units import now_iso
from advisor.hardware.profiles import load_profile
from advisor.hardware.versions import current_versions

KIND = "finetune-advisor calibration"
EXPORT_AGAIN = "have `advisor calibrate export` write it again"
STORED = "what is stored"
PATH = re.compile(r"(?<![\w.])~?/[^\s,;:()'\"]+")
"""An absolute path in a sentence; a lone slash as in "B/s" is none."""
PRIVATE_FACTS = re.compile(r"uuid|serial|process|host ?name|user", re.IGNORECASE)
"""Facts of a profile that identify a machine or its users and do not affect speed."""


@dataclass(frozen=True)
class Exchanged:
    """One calibration and the device it belongs to."""

    device: DeviceProfile
    calibration: Calibration


@dataclass(frozen=True)
class CalibrationFile:
    """What one file holds.

    Attributes:
        advisor_version: That wrote it.
        created_at: When; ISO 8601, UTC.
        calibrations: At least one, each of another device.
        checksum: ``"sha256:…"`` over them.
    """

    advisor_version: str
    created_at: str
    calibrations: tuple[Exchanged, ...]
    checksum: str
    kind: str = KIND
    schema_version: int = SCHEMA_VERSION


def write_exchange(path: Path, calibrations: Sequence[Exchanged], *, replace: bool = False) -> CalibrationFile:
    """Write calibrations to a file.

    Args:
        path: A new file, unless ``replace`` is set.
        calibrations: At least one.
        replace: Overwrite a file that is there.

    Raises:
        OutputError: there is a file already, or it cannot be written.
    """
    if path.exists() and not replace:
        raise OutputError(f"the export must be a new file, but {path} exists", fix="name another file, or delete it")
    shared = tuple(_shareable(entry) for entry in calibrations)
    written = CalibrationFile(__version__, now_iso(), shared, checksum_of(to_dict(shared)))
    write_text_atomically(path, json.dumps(to_dict(written), ensure_ascii=False, allow_nan=False) + "\n")
    return written


def read_exchange(path: Path) -> CalibrationFile:
    """Read and check a file of calibrations.

    Raises:
        DeviceError: it is missing, damaged, changed, newer than this advisor, or not such a file.
    """
    values = read_json(path, what="the calibration file", error=DeviceError)
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise DeviceError(
            f"the file must be an exported calibration, but {path} is something else",
            fix="`advisor calibrate export FILE` writes one",
        )
    _check_versions(values, path)
    if values.get("checksum") != checksum_of(values.get("calibrations")):
        raise DeviceError(
            f"the content of {path} must have the checksum it was written with, but it has another one",
            fix=f"it was changed or damaged: copy it again, or {EXPORT_AGAIN}",
        )
    found = from_dict(CalibrationFile, values, what=str(path), error=DeviceError)
    if problems := _problems(found):
        raise DeviceError(f"{path} must hold usable calibrations, but it does not", problems=problems, fix=EXPORT_AGAIN)
    return found


def checksum_of(calibrations: Any) -> str:
    """Of parsed JSON, whatever its layout was."""
    canonical = json.dumps(calibrations, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def without_paths(text: str) -> str:
    """A sentence with ``"…"`` for every absolute path in it."""
    return PATH.sub("…", text)


def _check_versions(values: dict[str, Any], path: Path) -> None:
    entries = values.get("calibrations")
    inner = [e.get("calibration") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    versions = [c.get("schema_version") for c in (values, *inner) if isinstance(c, dict)]
    newest = max((v for v in versions if isinstance(v, int)), default=0)
    if newest > SCHEMA_VERSION:
        raise DeviceError(
            f"the file's schema_version must be at most {SCHEMA_VERSION}, but {path} has {newest}",
            fix=f"it was written by finetune-advisor {values.get('advisor_version', 'of a newer version')}: upgrade",
        )


def _problems(found: CalibrationFile) -> list[str]:
    problems = [] if found.calibrations else ["it holds no calibration"]
    ids = [entry.calibration.device_id for entry in found.calibrations]
    problems += [f"{name} occurs twice" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    for entry in found.calibrations:
        name = entry.calibration.device_id
        points: list[ReplayPoint | StepPoint] = [*entry.calibration.replays, *entry.calibration.points]
        if entry.device.id != name:
            problems.append(f"the device of the calibration of {name} must be {name}, but it is {entry.device.id}")
        if entry.device.basis != "measured":
            problems.append(f"the profile of {name} must be a probed one, but it is a {entry.device.basis} profile")
        if not points:
            problems.append(f"the calibration of {name} has no raw points to fit")
        if wrong := sum(not point.is_plausible for point in points):
            problems.append(f"times must be positive, but {wrong} points of {name} have others")
    return problems


def _shareable(entry: Exchanged) -> Exchanged:
    """The same without what names a host, a user or a path."""
    device, calibration = entry.device, entry.calibration
    profile = dataclasses.replace(
        device,
        facts={k: without_paths(v) for k, v in device.facts.items() if not PRIVATE_FACTS.search(k)},
        sources={key: without_paths(value) for key, value in device.sources.items()},
        warnings=tuple(without_paths(text) for text in device.warnings),
    )
    notes = tuple(without_paths(text) for text in calibration.notes)
    return Exchanged(profile, dataclasses.replace(calibration, notes=notes, transferred=()))


# --------------------
# Files become part of what is stored.


@dataclass(frozen=True)
class MergedPart:
    """What one part of a merge brought.

    Attributes:
        name: Of a file, or ``"what is stored"``.
        replays, points: New ones.
        duplicates: Points that an earlier part had already.
    """

    name: str
    replays: int
    points: int
    duplicates: int


@dataclass(frozen=True)
class Imported:
    """One device after an import.

    Attributes:
        device: The user's own profile, where there is one.
        calibration: As it is stored now.
        parts: What each file, and what was stored, brought.
    """

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
    """Export a calibration that is about to be replaced, so that it can be imported again.

    Raises:
        OutputError: the file cannot be written.
    """
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
        except DeviceError as failure:
            failures.append(failure)
            continue
        for entry in found.calibrations:
            parts.setdefault(entry.device.id, []).append((path.name, entry, found.checksum))
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
    if not (profile := _profile_path(device.id)).exists():
        write_text_atomically(profile, to_json(device))
    return Imported(device, fitted, tuple(shares))


def _check_mixable(parts: Sequence[tuple[str, Calibration]]) -> None:
    """Refuse parts of different drivers or libraries, with every difference."""
    (first_name, first), *others = parts
    problems = [
        problem
        for name, other in others
        for problem in version_differences(first.versions, other.versions, first=first_name, second=name)
    ]
    if problems:
        raise DeviceError(
            "calibrations may be merged only when driver and library versions are equal, but they differ",
            problems=list(dict.fromkeys(problems)),
            fix="merge those that are alike; with --fresh a file replaces what is stored instead of adding to it",
        )


def _known_here(imported: DeviceProfile) -> DeviceProfile:
    """The user's own profile of a device where there is a usable one: its rates bound the fits."""
    if _profile_path(imported.id).exists():
        with contextlib.suppress(DeviceError):
            return load_profile(imported.id)
    return imported


def _profile_path(device_id: str) -> Path:
    return user_data_dir("profiles") / f"{device_id}.json"
