"""What a calibration covers, and what is missing in it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.calibration.database import database_path
from advisor.calibration.merging import MergedPart
from advisor.calibration.plan import NOISY
from advisor.core.coefficients import Calibration, StepPoint, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.units import counted
from advisor.hardware.versions import current_versions

MANY_HELD_OUT = 10
"""With fewer held-out configurations than this the median error itself is uncertain by half of it: the median of ten
lies between their second and ninth value with 98 % (binomial)."""
LARGE_RESIDUAL = 0.30
"""A class whose replays are met this badly moves a step by several percent even where it takes a fifth of it."""
FEW_CALLS = 3
NAMED = 4
"""Classes that one sentence names; the table has them all."""


@dataclass(frozen=True)
class ModelCoverage:
    """What was measured of one architecture.

    Attributes:
        model_key: ``model_key`` of ``costmodel.time``.
        methods: Strategies of which steps were measured.
        shapes: Micro-batches ``(rows, tokens)``, smallest first.
        executions: Execution keys.
        configurations: Measured ones.
        noise_median: Median repeat noise of the steps.
    """

    model_key: str
    methods: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    executions: tuple[str, ...]
    configurations: int
    noise_median: float


def coverage(calibration: Calibration) -> tuple[ModelCoverage, ...]:
    """By model, in the order in which they were measured."""
    groups: dict[str, list[StepPoint]] = {}
    for point in calibration.points:
        groups.setdefault(point.model_key, []).append(point)
    return tuple(
        ModelCoverage(
            model_key=key,
            methods=tuple(dict.fromkeys(p.method for p in points)),
            shapes=tuple(sorted({(p.micro_batch_size, p.seq_length) for p in points}, key=lambda s: (s[0] * s[1], s))),
            executions=tuple(dict.fromkeys(p.execution_key for p in points)),
            configurations=len({p.same_steps for p in points}),
            noise_median=statistics.median_high(p.noise_relative for p in points),
        )
        for key, points in groups.items()
    )


def unknowns(calibration: Calibration, methods: Sequence[str]) -> tuple[str, ...]:
    """What is missing for predictions from this calibration, one sentence each, the gravest first."""
    return (*_about_points(calibration, methods), *_about_fits(calibration))


def _about_points(calibration: Calibration, methods: Sequence[str]) -> Iterator[str]:
    points = calibration.points
    if calibration.partial:
        yield f"parts are missing: {calibration.partial}"
    if calibration.step is None:
        yield "no real step was measured: what Python and the host add to the operators is assumed"
    if not points:
        return
    configurations = {p.same_steps for p in points}
    if noisy := len(configurations - {p.same_steps for p in points if p.noise_relative <= NOISY}):
        whole = counted(len(configurations), "configuration")
        yield f"{noisy} of {whole} {'was' if noisy == 1 else 'were'} too noisy to use; run it again"
    measured = {p.method for p in points}
    if missing := [name for name in methods if name not in measured]:
        yield f"no step of {', '.join(missing)} was measured: predicted from their operators"
    if len({p.model_key for p in points}) == 1:
        yield "the error on other models is unknown until a second model is calibrated"
    tokens = [p.micro_batch_size * p.seq_length for p in points]
    least, most = min(tokens), max(tokens)
    outside = f"of other than {least:,}" if least == most else f"below {least:,} or above {most:,}"
    yield f"micro-batches {outside} tokens are extrapolated"
    parts = {part for p in points for part in p.execution_key.split("/")}
    knobs = {"checkpointing": "gradient checkpointing", "bf16": "bfloat16 autocast"}
    if unused := [name for part, name in knobs.items() if part not in parts]:
        yield f"no step with {' or '.join(unused)} was measured"


def _about_fits(calibration: Calibration) -> Iterator[str]:
    weak = [key for key, fit in calibration.classes.items() if fit.samples < FEW_CALLS]
    residuals = {key: fit.residual_relative for key, fit in calibration.classes.items()}
    worst = sorted((key for key in residuals if residuals[key] > LARGE_RESIDUAL), key=lambda key: -residuals[key])
    about = []
    if worst:
        error = f"{LARGE_RESIDUAL:.0%}".replace("%", " %")
        about.append(f"calls of {_named(worst)} are met with a median error above {error}")
    if weak:
        about.append(f"{_named(weak)} {'have' if len(weak) > 1 else 'has'} fewer than {FEW_CALLS} calls")
    if about:
        yield "; ".join(about)
    held_out = calibration.held_out
    if held_out is None:
        yield "its error on configurations that it has not seen is unknown"
    elif held_out.samples < MANY_HELD_OUT:
        yield f"its cross-validation error comes from {counted(held_out.samples, 'configuration')} only"


def _named(keys: Sequence[str]) -> str:
    """At most four of them."""
    more = f" and {len(keys) - NAMED} more classes" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


# --------------------
# The report of a calibration.


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration with what it covers and what is missing.

    Attributes:
        calibration: With its raw points.
        device_name: Of the device it belongs to.
        path: Of the database.
        new_replays, new_points: Operator calls and configurations that this call measured (or imported); everything
            else was measured before.
        coverage: What was measured, by model.
        unknown: What is missing, one sentence each.
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
    shares: tuple[MergedPart, ...]


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten about a device.

    Attributes:
        device_id: Profile id.
        fit: File of the fitted datasheet that was removed; ``None`` where there was none.
        calibrations: How many were deleted, interrupted ones included.
    """

    device_id: str
    fit: Path | None
    calibrations: int


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
    from advisor.strategies import strategies

    trained = [strategy for strategy in strategies() if not strategy.fits_frozen_features]
    methods = [strategy.name for strategy in trained if strategy.user_knob is None]
    return CalibrationReport(
        calibration=calibration,
        device_name=device.name,
        path=database_path(),
        new_replays=new[0],
        new_points=new[1],
        coverage=coverage(calibration),
        unknown=unknowns(calibration, methods),
        differences=tuple(version_differences(calibration.versions, current_versions(device))),
        wall_s=wall_s,
    )
