"""Jobs: measured coefficients of this machine, and calibrations that come from and go to others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.calibration.report import CalibrationReport, ImportReport, report_on
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.pipeline.environment import resolve_device, this_device_id
from advisor.pipeline.events import OnEvent, note, phase, progress
from advisor.pipeline.inputs import ModelSource, inspect

if TYPE_CHECKING:
    from advisor.calibration.exchange import CalibrationFile


def calibrate(
    model: str | ModelSource | None = None,
    *,
    quick: bool = False,
    fresh: bool = False,
    on_event: OnEvent | None = None,
) -> CalibrationReport:
    """Time this machine's operators and a few real steps, fit the cost model's coefficients, and keep them.

    What was measured before with the same device, driver and library versions is not measured again.

    Args:
        model: Also take short steps of this model, so that predictions for it are at their best.
        quick: Fewer operators and repeats; wider intervals.
        fresh: Measure everything anew.
        on_event: Told what is being measured (:mod:`advisor.core.events`).

    Returns:
        The saved calibration with its residuals, what it covers and what it cannot tell.

    Raises:
        ModelError: the model cannot be found, read or trusted.
        OutputError: the user's data directory cannot be written, or another calibration is under way.
        DeviceError: what is stored is of a newer advisor.
        RunFailed: nothing could be measured.
        InterruptedByUser: Ctrl-C; what was measured is kept.
    """
    from advisor.calibration import calibrate_device
    from advisor.calibration.provenance import now_iso

    started_s, started_at = time.perf_counter(), now_iso()
    spec = None
    if model is not None:
        phase(on_event, "looking at the model")
        spec = inspect(model)
    device = resolve_device("auto", on_event)
    phase(on_event, f"calibrating {device.name}")
    found = calibrate_device(spec, quick=quick, device=device, fresh=fresh, on_progress=progress(on_event))
    new = [entry for entry in found.provenance if not entry.file and entry.measured_at >= started_at]
    counts = sum(entry.replays for entry in new), sum(entry.points for entry in new)
    return report_on(found, device, counts, time.perf_counter() - started_s)


def stored_calibration(device: str = "auto") -> CalibrationReport:
    """The calibration of a device as it is stored, without measuring anything.

    Raises:
        DeviceError: there is none, or it cannot be read.
    """
    from advisor.calibration import load_calibration

    profile = _known_device(device)
    found = load_calibration(profile.id)
    if found is None:
        raise DeviceError(
            f"there must be a calibration of {profile.id}, but none is stored",
            fix="run `advisor calibrate`, or `advisor calibrate --import FILE`",
        )
    return report_on(found, profile, (0, 0), 0.0)


def export_calibration(path: Path, device: str = "auto") -> CalibrationFile:
    """Write the stored calibration of a device to a new file that other machines can import.

    Args:
        path: The file; it must not exist.
        device: Whose calibration; ``"all"`` for every device that has one.

    Raises:
        DeviceError: there is none, or it cannot be read.
        OutputError: there is such a file, or it cannot be written.
    """
    from advisor.calibration.exchange import Exchanged, write_exchange
    from advisor.calibration.store import stored_devices

    names = stored_devices() if device == "all" else (device,)
    reports = [(stored_calibration(name), _known_device(name)) for name in names]
    if not reports:
        raise DeviceError("there must be a calibration to export, but none is stored", fix="run `advisor calibrate`")
    return write_exchange(path, [Exchanged(profile, report.calibration) for report, profile in reports])


def import_calibrations(files: Sequence[Path], *, fresh: bool = False, on_event: OnEvent | None = None) -> ImportReport:
    """Merge exported calibrations into what is stored. Nothing is written unless all of them can be.

    Args:
        files: Written by :func:`export_calibration`.
        fresh: Replace what is stored instead of adding to it.
        on_event: Told about what was put aside.

    Raises:
        DeviceError: a file cannot be used, or devices, drivers or library versions differ.
        OutputError: the result cannot be written, or a calibration is under way.
    """
    from advisor.calibration.importing import import_files

    started_s = time.perf_counter()
    here = this_device_id()
    stored, shares, notes = import_files(files, this_device_id=here, fresh=fresh)
    for text in notes:
        note(on_event, text)
    wall_s = time.perf_counter() - started_s
    reports = tuple(report_on(entry.calibration, entry.device, entry.new, wall_s) for entry in stored)
    return ImportReport(reports, shares)


def _known_device(name: str) -> DeviceProfile:
    from advisor.hardware import load_profile, this_device

    return this_device() if name == "auto" else load_profile(name)
