"""Calibration: what one device was measured to do. Reading a record needs neither torch nor scipy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.calibration.database import load_calibration, save_calibration
from advisor.core.coefficients import Calibration, ResidentFit

if TYPE_CHECKING:
    from advisor.calibration.calibrate import calibrate_device

__all__ = ["Calibration", "ResidentFit", "calibrate_device", "load_calibration", "save_calibration"]


def __getattr__(name: str) -> Any:
    """``calibrate_device`` imports torch, so it is imported on first use."""
    if name == "calibrate_device":
        from advisor.calibration.calibrate import calibrate_device

        return calibrate_device
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
