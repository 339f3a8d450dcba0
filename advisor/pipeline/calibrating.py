"""Jobs around calibrations: measure this machine, show, export and import what is stored, fit a datasheet to measured
steps, and forget.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.calibration.report import CalibrationReport, Forgotten, ImportReport, report_on
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.events import OnEvent
from advisor.core.units import now_iso
from advisor.pipeline.datasheet_fitting import from_steps
from advisor.pipeline.environment import this_device_id, this_machine
from advisor.pipeline.events import note, phase, progress
from advisor.pipeline.inputs import ModelSource, inspect

if TYPE_CHECKING:
    from advisor.calibration.exchange import CalibrationFile
    from advisor.calibration.measure import Measurer

__all__ = ["calibrate", "export", "from_steps", "import_", "reset", "show"]


def calibrate(
    model: str | ModelSource | None = None,
    *,
    quick: bool = False,
    fresh: bool = False,
    on_event: OnEvent | None = None,
    measurer: Measurer | None = None,
) -> CalibrationReport:
    """Time this machine's operators and a few real steps, fit the cost model's coefficients, and store them.

    What was measured before with the same device, driver and library versions is not measured again.

    Args:
        model: Also take short steps of this model, so that predictions for it are at their best.
        quick: Fewer operators and repeats; wider intervals.
        fresh: Measure everything anew.
        on_event: Receives what is being measured (:mod:`advisor.core.events`).
        measurer: Traces, replays and runs; this machine when ``None``.

    Returns:
        The stored calibration with its residuals, what it covers and what it does not.

    Raises:
        ModelError: the model cannot be found, read or trusted.
        OutputError: the user's data directory cannot be written, or another calibration is under way.
        DeviceError: what is stored is damaged, or of a newer advisor.
        RunFailed: nothing could be measured.
        InterruptedByUser: Ctrl-C; what was measured is kept.
    """
    from advisor.calibration.calibrate import calibrate_device

    started_s, started_at = time.perf_counter(), now_iso()
    spec = None
    if model is not None:
        phase(on_event, "looking at the model")
        spec = inspect(model)
    device = this_machine(on_event)
    phase(on_event, f"calibrating {device.name}")
    found = calibrate_device(
        spec, quick=quick, device=device, fresh=fresh, on_progress=progress(on_event), measurer=measurer
    )
    new = [entry for entry in found.provenance if not entry.file and entry.measured_at >= started_at]
    counts = sum(entry.replays for entry in new), sum(entry.points for entry in new)
    return report_on(found, device, counts, time.perf_counter() - started_s)


def show(device: str = "auto") -> CalibrationReport | DeviceProfile:
    """What is stored of a device: its calibration, else the profile of a fitted datasheet.

    Raises:
        DeviceError: no such device, nothing is stored, or it cannot be read.
    """
    profile = _known_device(device)
    found = _stored(profile)
    if found is not None:
        return found
    if profile.basis == "fitted":
        return profile
    raise _none_stored(profile)


def export(path: Path, device: str = "auto") -> CalibrationFile:
    """Write the stored calibration of a device to a new file that other machines can import.

    Args:
        path: The file; it must not exist.
        device: Whose calibration; ``"all"`` for every device that has one.

    Raises:
        DeviceError: there is none, or it cannot be read.
        OutputError: there is such a file, or it cannot be written.
    """
    from advisor.calibration.database import CalibrationDatabase
    from advisor.calibration.exchange import Exchanged, write_exchange

    with CalibrationDatabase() as database:
        names = database.devices() if device == "all" else (device,)
    exported = []
    for profile in map(_known_device, names):
        if (report := _stored(profile)) is None:
            raise _none_stored(profile)
        exported.append(Exchanged(profile, report.calibration))
    if not exported:
        raise DeviceError(
            "there must be a calibration to export, but none is stored", fix="run `advisor calibrate run`"
        )
    return write_exchange(path, exported)


def import_(files: Sequence[Path], *, fresh: bool = False, on_event: OnEvent | None = None) -> ImportReport:
    """Merge exported calibrations into what is stored. Nothing is written unless all of them can be.

    Args:
        files: Written by :func:`export`.
        fresh: Replace what is stored instead of adding to it.
        on_event: Receives a note for each calibration that was replaced.

    Raises:
        DeviceError: a file cannot be used, or devices, drivers or library versions differ.
        OutputError: the result cannot be written, or a calibration is under way.
    """
    from advisor.calibration.merging import import_files

    started_s = time.perf_counter()
    imported, notes = import_files(files, this_device_id=this_device_id(), fresh=fresh)
    for text in notes:
        note(on_event, text)
    wall_s = time.perf_counter() - started_s
    reports = tuple(report_on(entry.calibration, entry.device, entry.new, wall_s) for entry in imported)
    return ImportReport(reports, tuple(part for entry in imported for part in entry.parts))


def reset(device: str = "auto") -> Forgotten:
    """Forget what was learned about a device: its fitted datasheet, and its calibrations.

    Raises:
        DeviceError: no such device, or nothing is stored of it.
        OutputError: the database or the file cannot be written, or a calibration is under way.
    """
    from advisor.calibration.database import CalibrationDatabase, device_lock
    from advisor.hardware.profiles import fitted_path, forget_fitted

    profile = _known_device(device)
    fit = forget_fitted(profile.id) if fitted_path(profile.id).is_file() else None
    with device_lock(profile.id), CalibrationDatabase(writing=True) as database, database.transaction():
        calibrations = database.forget(profile.id)
    if fit is None and not calibrations:
        raise _none_stored(profile)
    return Forgotten(profile.id, fit, calibrations)


def _stored(profile: DeviceProfile) -> CalibrationReport | None:
    from advisor.calibration.database import load_calibration
    from advisor.hardware.versions import current_versions

    found = load_calibration(profile.id, current_versions(profile))
    return None if found is None else report_on(found, profile)


def _none_stored(profile: DeviceProfile) -> DeviceError:
    return DeviceError(
        f"there must be a calibration of {profile.id}, but none is stored",
        fix="run `advisor calibrate run`, or `advisor calibrate import FILE`",
    )


def _known_device(name: str) -> DeviceProfile:
    from advisor.hardware import load_profile, this_device

    return this_device() if name == "auto" else load_profile(name)
