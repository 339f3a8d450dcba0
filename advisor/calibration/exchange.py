"""Calibrations as one file that travels: raw points, fits, the device profile, versions, and who measured what.

::

    {"kind": "finetune-advisor calibration", "schema_version": 1, "advisor_version": …, "created_at": …,
     "calibrations": [{"device": DeviceProfile, "calibration": Calibration}, …],
     "checksum": "sha256:…"}

The checksum is over ``calibrations`` as canonical JSON (sorted keys, no spaces), so that a file may be reformatted but
not changed. Nothing in it names a host, a user or a path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor import __version__
from advisor.core.coefficients import SCHEMA_VERSION, Calibration, ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, OutputError
from advisor.core.serialization import from_dict, read_json, to_dict
from advisor.core.store import write_text_atomically
from advisor.core.units import now_iso

KIND = "finetune-advisor calibration"
EXPORT_AGAIN = "have `advisor calibrate export` write it again"
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
    """What one file holds: at least one calibration, each of another device; ``created_at`` is ISO 8601, UTC."""

    advisor_version: str
    created_at: str
    calibrations: tuple[Exchanged, ...]
    checksum: str
    kind: str = KIND
    schema_version: int = SCHEMA_VERSION


def write_exchange(path: Path, calibrations: Sequence[Exchanged], *, replace: bool = False) -> CalibrationFile:
    """Write calibrations to a new file, or over an old one with ``replace``.

    Raises:
        OutputError: there is a file already, or it cannot be written.
    """
    if path.exists() and not replace:
        raise OutputError(f"the export must be a new file, but {path} exists", fix="name another file, or delete it")
    shared = tuple(map(_shareable, calibrations))
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


def _check_versions(values: dict[str, Any], path: Path) -> None:
    entries = values.get("calibrations")
    inner = [e.get("calibration") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    records = [values, *inner]
    versions = [record.get("schema_version") for record in records if isinstance(record, dict)]
    newest = max((version for version in versions if isinstance(version, int)), default=0)
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
        facts={k: PATH.sub("…", v) for k, v in device.facts.items() if not PRIVATE_FACTS.search(k)},
        sources={key: PATH.sub("…", value) for key, value in device.sources.items()},
        warnings=tuple(PATH.sub("…", text) for text in device.warnings),
    )
    notes = tuple(PATH.sub("…", text) for text in calibration.notes)
    return Exchanged(profile, dataclasses.replace(calibration, notes=notes, transferred=()))
