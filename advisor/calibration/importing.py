"""Exported calibrations become part of what is stored; all of them or none."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.calibration.exchange import read_exchange
from advisor.calibration.journal import PointJournal
from advisor.calibration.merge import Part, merge
from advisor.calibration.provenance import MergedPart
from advisor.calibration.store import (
    calibration_path,
    journal_path,
    load_calibration,
    save_calibration,
    set_aside,
)
from advisor.core.coefficients import Calibration, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import to_json
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.hardware.profiles import load_profile
from advisor.hardware.versions import current_versions

STORED = "what is stored"


@dataclass(frozen=True)
class Imported:
    """One device after an import.

    Attributes:
        new: Operator calls and configurations that were not stored before.
    """

    device: DeviceProfile
    calibration: Calibration
    new: tuple[int, int]


def import_files(
    files: Sequence[Path], *, this_device_id: str | None = None, fresh: bool = False
) -> tuple[tuple[Imported, ...], tuple[MergedPart, ...], tuple[str, ...]]:
    """Merge files into the stored calibrations of their devices.

    Args:
        files: Written by ``write_exchange``.
        this_device_id: The machine at hand; calibrations of it must have the versions in use here.
        fresh: Replace what is stored; it is kept beside, as ``….old``.

    Returns:
        The devices, what each file and the stored calibrations brought, and notes.

    Raises:
        DeviceError: a file cannot be used, or devices, drivers or library versions differ.
        OutputError: the result cannot be written, or a calibration of one of the devices is under way.
    """
    parts = _read(files)
    _check_versions_here(parts, this_device_id)
    with contextlib.ExitStack() as locks:
        for device_id in parts:
            locks.enter_context(_locked(device_id))
        merged = [_merged(device_id, of_device, fresh) for device_id, of_device in parts.items()]
        notes = []
        for imported, _ in merged:
            if fresh and (kept := set_aside(calibration_path(imported.device.id))):
                notes.append(f"what was stored of {imported.device.id} is kept as {kept}")
            _keep_profile(imported.device)
            save_calibration(imported.calibration)
    return tuple(i for i, _ in merged), tuple(s for _, shares in merged for s in shares), tuple(notes)


def _read(files: Sequence[Path]) -> dict[str, list[Part]]:
    """The parts of all files by device; problems of several files are reported together."""
    parts: dict[str, list[Part]] = {}
    failures: list[DeviceError] = []
    for path in files:
        try:
            found = read_exchange(path)
        except DeviceError as failure:
            failures.append(failure)
            continue
        for entry in found.calibrations:
            part = Part(path.name, entry.device, entry.calibration, path.name, found.checksum)
            parts.setdefault(entry.device.id, []).append(part)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        problems = [line for failure in failures for line in (failure.message, *failure.problems)]
        raise DeviceError(
            f"all files must be usable, but {len(failures)} of {len(files)} are not; nothing was imported",
            problems=problems,
            fix="leave them out, or have `advisor calibrate --export` write them again",
        )
    return parts


def _check_versions_here(parts: dict[str, list[Part]], this_device_id: str | None) -> None:
    for part in parts.get(this_device_id or "", ()):
        if problems := version_differences(part.calibration.versions, current_versions(_known_here(part.device))):
            raise DeviceError(
                f"a calibration of the machine at hand must have the versions in use here, but those of"
                f" {part.name} differ",
                problems=problems,
                fix="run `advisor calibrate`, which takes a minute with --quick, or install these versions",
            )


def _merged(device_id: str, parts: list[Part], fresh: bool) -> tuple[Imported, tuple[MergedPart, ...]]:
    stored = None if fresh else load_calibration(device_id)
    device = _known_here(parts[0].device)
    before = [Part(STORED, device, stored)] if stored is not None else []
    calibration, shares = merge([*before, *(dataclasses.replace(part, device=device) for part in parts)])
    brought = shares[len(before) :]
    new = sum(s.replays for s in brought), sum(s.points for s in brought)
    return Imported(device, calibration, new), shares


def _known_here(imported: DeviceProfile) -> DeviceProfile:
    """The profile that predictions for this device rest on: the user's own where there is one.

    Its rates bound the fits, and its threads are those that plans have.
    """
    if not _profile_path(imported.id).exists():
        return imported
    try:
        return load_profile(imported.id)
    except DeviceError:  # damaged: said when it is used
        return imported


def _keep_profile(device: DeviceProfile) -> None:
    """The imported profile becomes known to ``--device``, unless the user has one of that name."""
    path = _profile_path(device.id)
    if not path.exists():
        write_text_atomically(path, to_json(device))


def _profile_path(device_id: str) -> Path:
    return user_data_dir("profiles") / f"{device_id}.json"


@contextlib.contextmanager
def _locked(device_id: str) -> Iterator[None]:
    """No calibration of this device is under way, and none begins meanwhile."""
    path = journal_path(device_id)
    journal = PointJournal(path)
    header, _, _ = journal.open()
    try:
        yield
    finally:
        if header is None and path.stat().st_size == 0:
            journal.remove()
        journal.close()
