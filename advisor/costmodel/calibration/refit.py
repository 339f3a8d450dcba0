"""From raw points to a calibration: every fit made again, so that points of several runs and files count together."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from advisor.core.device import DeviceProfile
from advisor.costmodel.calibration.fit import fit_classes, fit_model_ratios, fit_resident, fit_step, held_out_error
from advisor.costmodel.calibration.record import Calibration, ReplayPoint, StepPoint
from advisor.costmodel.time.table import OperatorClock


def refit(
    device: DeviceProfile, versions: dict[str, str], replays: Sequence[ReplayPoint], points: Sequence[StepPoint]
) -> Calibration:
    """Fit everything that raw points allow and judge the fit on the points that were held back.

    Args:
        device: Where the points were measured.
        versions: With which they were measured.
        replays: Operators timed alone.
        points: Measured steps.

    Returns:
        A calibration without provenance, notes and duration, which only the caller knows.
    """
    classes, operators = fit_classes(replays)
    table = Calibration(device.id, versions, now_iso(), classes, operators)
    clock = OperatorClock(device, table)
    used = [p for p in points if not p.held_back]
    step = fit_step(used, clock)
    return dataclasses.replace(
        table,
        step=step,
        model_ratios=fit_model_ratios(used, step, clock),
        resident=fit_resident(list(points)) if device.type == "cpu" else None,
        held_out=held_out_error(list(points), clock),
        replays=tuple(replays),
        points=tuple(points),
    )


def now_iso() -> str:
    """The current time to the second, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
