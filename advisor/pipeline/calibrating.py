"""Job: measured coefficients of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.pipeline.environment import resolve_device
from advisor.pipeline.events import OnEvent, phase, progress
from advisor.pipeline.inputs import ModelSource, inspect

if TYPE_CHECKING:
    from advisor.costmodel.calibration import Calibration


def calibrate(
    model: str | ModelSource | None = None,
    *,
    quick: bool = False,
    on_event: OnEvent | None = None,
) -> Calibration:
    """Time this machine's operators and a few real steps, fit the cost model's coefficients, and keep them.

    Args:
        model: Also take short steps of this model, so that predictions for it are at their best.
        quick: Fewer operators and repeats; wider intervals.
        on_event: Told what is being measured (:mod:`advisor.pipeline.events`).

    Returns:
        The saved calibration with its residuals.

    Raises:
        ModelError: the model cannot be found, read or trusted.
        RunFailed: a measuring process ended without a result.
    """
    from advisor.costmodel.calibration import calibrate_device

    spec = None
    if model is not None:
        phase(on_event, "looking at the model")
        spec = inspect(model)
    device = resolve_device("auto", on_event)
    phase(on_event, f"calibrating {device.name}")
    return calibrate_device(spec, quick=quick, device=device, on_progress=progress(on_event))
