"""Job: correct a datasheet by steps that were measured on such a card."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from advisor.calibration.datasheet import (
    ENOUGH_STEPS,
    PRIOR_SIGMA,
    DatasheetFit,
    DatasheetReport,
    TimedStep,
    check_fittable,
    fit_datasheet,
    fitted_profile,
)
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InputError
from advisor.core.units import counted
from advisor.costmodel.time.step import fitted_half_width
from advisor.pipeline.events import OnEvent, phase, progress
from advisor.pipeline.measured_steps import TimedConfiguration, read_steps

FITTED_FACT = "fitted"
"""In ``DeviceProfile.facts``: to what, when, and how well."""
FAR_OFF, TIMES_THE_MEDIAN = 0.25, 3.0
"""A step whose cross-validation error is this large, and this many times the median, is named as a possible mistake."""

BEYOND_DATASHEET = 1.2
"""A card may run above the clock its datasheet states, and caches above its memory's rate, but not by this much."""


def from_steps(
    device: str,
    steps: Sequence[Path],
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    on_event: OnEvent | None = None,
) -> DatasheetReport:
    """Fit the shares that a card reaches of its datasheet to measured steps, and keep them for every prediction.

    An earlier fit of the same card is replaced and takes no part.

    Args:
        device: A datasheet profile.
        steps: JSON lists of measured steps (:class:`advisor.pipeline.measured_steps.MeasuredStep`), or folders of runs.
        trust_remote_code: Allow Python code that comes with a model.
        allow_pickle: Allow pickled weights; loading them can execute code.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        DeviceError: no such device, or its profile is not a datasheet's.
        InputError: the steps cannot be read or used.
        UntraceableError: the cost model cannot trace one of them.
        OutputError: the user's data directory cannot be written.
    """
    from advisor.hardware.profiles import save_fitted

    profile = _datasheet(device)
    phase(on_event, "looking at the measured steps")
    brought = read_steps(
        steps, profile, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, on_event=on_event
    )
    check_fittable([step.step_s for step in brought], profile)
    phase(on_event, "tracing the measured steps")
    timed = _traced(brought, profile, on_event)
    phase(on_event, "fitting, and holding every step back in turn")
    fit = fit_datasheet(timed, profile)
    fitted = fitted_profile(profile, fit.fitted)
    fitted = dataclasses.replace(fitted, facts={**fitted.facts, FITTED_FACT: _summary(fit)})
    labels = tuple(step.label for step in brought)
    return DatasheetReport(fitted, save_fitted(fitted), labels, fit, _notes(fit, profile))


def _datasheet(device: str) -> DeviceProfile:
    from advisor.hardware.profiles import load_profile

    profile = load_profile(device, fitted=False)
    if profile.basis != "datasheet":
        raise DeviceError(
            f"measured steps correct a datasheet, but the profile of {profile.id} is {profile.basis}",
            fix="calibrate a measured device on its own machine (`advisor calibrate run`), or import its calibration",
        )
    return profile


def _traced(brought: Sequence[TimedConfiguration], profile: DeviceProfile, on_event: OnEvent | None) -> list[TimedStep]:
    from advisor.costmodel.model import CostModel

    cost_model, report = CostModel(profile), progress(on_event)
    timed = []
    for number, step in enumerate(brought, start=1):
        report(step.label, (number - 1) / len(brought))
        try:
            operators = cost_model.step_operators(step.model, step.strategy, step.execution, step.seq_length)
        except InputError as failure:
            problems = [f"step {number}: {step.label}", *failure.problems]
            raise type(failure)(failure.message, fix=failure.fix, problems=problems) from failure
        in_step = tuple(op for op in operators if op.phase != "evaluation")
        execution = step.execution
        timed.append(TimedStep(in_step, step.step_s, execution.gradient_accumulation_steps, execution.tf32))
    return timed


def _summary(fit: DatasheetFit) -> str:
    """One sentence for the profile."""
    from advisor import __version__

    count, today = len(fit.steps), datetime.datetime.now(datetime.UTC).date().isoformat()
    text = f"to {counted(count, 'measured step')}"
    if fit.held_back is not None:
        text += f", cross-validation error: median {fit.held_back.median:.1%}, worst {fit.held_back.worst:.1%}"
    return text.replace("%", " %") + f" ({today}, finetune-advisor {__version__})"


def _notes(fit: DatasheetFit, profile: DeviceProfile) -> tuple[str, ...]:
    """What to think of the fit, the gravest first."""
    notes = []
    count, held_back = len(fit.steps), fit.held_back
    if _is_calibrated(profile):
        notes.append(f"a calibration of {profile.id} is stored: predictions use it, and not this fit")
    if count < ENOUGH_STEPS:
        notes.append(
            f"fewer than {ENOUGH_STEPS} steps do not show the error on others: intervals stay as wide as an "
            f"unchecked datasheet's ({fitted_half_width(fit.fitted.device_relative):.0%} of the device's time)"
        )
    elif held_back is not None and held_back.median > fit.datasheet.median and held_back.worst > fit.datasheet.worst:
        notes.append("in cross-validation the fit is worse than the datasheet alone: the steps disagree")
    far = _far_off(fit)
    if far:
        notes.append(f"large error after the fit, perhaps a mistake: step {', '.join(map(str, far))}")
    if max(fit.fitted.gemm, fit.fitted.attention, fit.fitted.bandwidth) > BEYOND_DATASHEET:
        notes.append(
            f"faster than {profile.name} can be by its datasheet: were the steps measured on one such card, and is "
            "step_s the time of a whole optimizer step?"
        )
    if fit.fitted.host_relative > PRIOR_SIGMA[3] / 2:
        notes.append("no step waits for the host much: how long small batches take is as uncertain as before")
    return tuple(note.replace("%", " %") for note in notes)


def _far_off(fit: DatasheetFit) -> list[int]:
    """Numbers of the steps, from 1, that the others do not explain at all."""
    if fit.held_back is None:
        return []
    limit = max(FAR_OFF, TIMES_THE_MEDIAN * fit.held_back.median)
    return [
        number
        for number, step in enumerate(fit.steps, start=1)
        if step.held_back_s is not None and abs(step.held_back_s / step.measured_s - 1) > limit
    ]


def _is_calibrated(profile: DeviceProfile) -> bool:
    from advisor.calibration.selection import calibration_for

    return calibration_for(profile, at_hand=False)[0] is not None
