"""A datasheet fitted to measured steps, and how well the fit tells a step that took no part in it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.calibration.datasheet_efficiencies import (
    StepWork,
    TimedStep,
    assumed_efficiencies,
    check_fittable,
    fit_works,
    unseen_relative,
)
from advisor.core.device import DeviceProfile
from advisor.costmodel.time.device_rates import Efficiencies


@dataclass(frozen=True)
class FitErrors:
    """Of predicted against measured step times: absolute relative errors.

    Attributes:
        median: The middle one.
        worst: The largest.
    """

    median: float
    worst: float


@dataclass(frozen=True)
class FittedStep:
    """A measured step and what is predicted for it.

    Attributes:
        measured_s: Wall clock of one optimizer step.
        datasheet_s: From the datasheet and the shares of it that are assumed.
        fitted_s: After the fit to all steps, this one included.
        held_back_s: After a fit to all the others; ``None`` for a single step.
    """

    measured_s: float
    datasheet_s: float
    fitted_s: float
    held_back_s: float | None


@dataclass(frozen=True)
class DatasheetFit:
    """What measured steps say of a datasheet.

    Attributes:
        assumed: Shares of the datasheet's rates before.
        fitted: Shares now; ``device_relative`` and ``host_relative`` cover the errors of steps held back.
        steps: One by one.
        datasheet: FitErrors without the fit.
        held_back: FitErrors of the fit on steps that took no part in it, each held back in turn; ``None`` for a single
            step.
    """

    assumed: Efficiencies
    fitted: Efficiencies
    steps: tuple[FittedStep, ...]
    datasheet: FitErrors
    held_back: FitErrors | None


@dataclass(frozen=True)
class DatasheetReport:
    """A fit as it is kept.

    Attributes:
        device: As commands use it from now on.
        path: The file it is kept in; without it the datasheet is as before.
        labels: What the steps were, in the order of ``fit.steps``.
        fit: The shares, and how well they tell the steps.
        notes: What the user should know about them.
    """

    device: DeviceProfile
    path: Path
    labels: tuple[str, ...]
    fit: DatasheetFit
    notes: tuple[str, ...]


def fit_datasheet(steps: Sequence[TimedStep], device: DeviceProfile) -> DatasheetFit:
    """Fit the efficiencies of a datasheet, and again without each of the steps in turn.

    Args:
        steps: At least one; ten that differ in method and tokens are plenty.
        device: Its datasheet profile, not one that was fitted before.

    Raises:
        InputError: no steps, a time that is not positive, or a profile that holds no datasheet rates.
    """
    check_fittable([step.seconds for step in steps], device)
    works = [StepWork(step, device) for step in steps]
    assumed, fitted = assumed_efficiencies(device), fit_works(works, device)
    held_back_s = _held_back(works, device)
    compared = tuple(
        FittedStep(
            measured_s=work.seconds,
            datasheet_s=work.step_s(assumed),
            fitted_s=work.step_s(fitted),
            held_back_s=held_back_s[number] if held_back_s else None,
        )
        for number, work in enumerate(works)
    )
    measured_s = [work.seconds for work in works]
    return DatasheetFit(
        assumed=assumed,
        fitted=_as_sure_as(fitted, works, held_back_s),
        steps=compared,
        datasheet=_errors([step.datasheet_s for step in compared], measured_s),
        held_back=_errors(held_back_s, measured_s) if held_back_s else None,
    )


def _held_back(works: Sequence[StepWork], device: DeviceProfile) -> list[float]:
    """Each step predicted from a fit to the others; nothing for a single step."""
    if len(works) < 2:
        return []
    return [work.step_s(fit_works([other for other in works if other is not work], device)) for work in works]


def _as_sure_as(fitted: Efficiencies, works: Sequence[StepWork], held_back_s: Sequence[float]) -> Efficiencies:
    """With deviations that are no smaller than those of the steps held back: every error counts for the device by the
    part of the step that the device decides, and for the host by the rest.
    """
    if not held_back_s:
        return fitted
    squares = [math.log(held_s / work.seconds) ** 2 for work, held_s in zip(works, held_back_s, strict=True)]
    shares = [work.device_share(fitted) for work in works]
    device = _unseen(squares, shares)
    host = _unseen(squares, [1 - share for share in shares])
    return dataclasses.replace(
        fitted,
        device_relative=max(fitted.device_relative, device),
        host_relative=max(fitted.host_relative, host),
    )


def _unseen(squares: Sequence[float], weights: Sequence[float]) -> float:
    """Deviation to expect from the weighted squares of errors; 0 where not even one whole step stands behind them."""
    if sum(weights) < 1:
        return 0.0
    mean = sum(square * weight for square, weight in zip(squares, weights, strict=True)) / sum(weights)
    return unseen_relative(math.sqrt(mean), len(squares))


def _errors(predicted_s: Sequence[float], measured_s: Sequence[float]) -> FitErrors:
    off = [abs(guess_s / seconds - 1) for guess_s, seconds in zip(predicted_s, measured_s, strict=True)]
    return FitErrors(statistics.median(off), max(off))
