"""A calibration and what to think of it: what it covers, what it cannot tell, whether it is used here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.costmodel.calibration.coverage import ModelCoverage, coverage, unknowns
from advisor.costmodel.calibration.provenance import Share
from advisor.costmodel.calibration.record import Calibration
from advisor.costmodel.calibration.store import calibration_path, version_differences
from advisor.costmodel.calibration.versions import current_versions


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration and what to think of it.

    Attributes:
        calibration: With its raw points.
        device_name: Of the device it belongs to.
        path: The file it is kept in.
        new_replays, new_points: Operator calls and configurations that this call measured (or imported); everything
            else was known before.
        coverage: What was measured, by model.
        unknown: What it cannot tell yet, one sentence each.
        differences: Versions that differ from those in use now, one line each; while there are any, it is not used here
            as ``calibrated``.
        wall_s: What this call took.
    """

    calibration: Calibration
    device_name: str
    path: Path
    new_replays: int
    new_points: int
    coverage: tuple[ModelCoverage, ...]
    unknown: tuple[str, ...]
    differences: tuple[str, ...]
    wall_s: float


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        calibrations: By device, as they are stored now.
        shares: What each file, and what was stored before, brought.
    """

    calibrations: tuple[CalibrationReport, ...]
    shares: tuple[Share, ...]


def report_on(
    calibration: Calibration, device: DeviceProfile, new: tuple[int, int] = (0, 0), wall_s: float = 0.0
) -> CalibrationReport:
    """Look a calibration over.

    Args:
        calibration: As it is stored.
        device: That it belongs to.
        new: Operator calls and configurations that this call added.
        wall_s: What this call took.
    """
    from advisor.strategies import strategy_names

    methods = [name for name in strategy_names() if name != "peft"]  # a pass-through without steps of its own
    return CalibrationReport(
        calibration=calibration,
        device_name=device.name,
        path=calibration_path(calibration.device_id),
        new_replays=new[0],
        new_points=new[1],
        coverage=coverage(calibration),
        unknown=unknowns(calibration, methods),
        differences=tuple(version_differences(calibration, current_versions(device))),
        wall_s=wall_s,
    )
