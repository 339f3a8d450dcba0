"""Fits: the class table from replays, the step's residual and the resident set from real steps.

All are non-negative least squares on relative errors: a coefficient is a cost, and an error of 10 % counts the same at
a microsecond as at a second.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from advisor.costmodel.calibration.record import ClassFit, HeldOutError, ReplayPoint, ResidentFit, StepFit, StepPoint
from advisor.costmodel.time.table import OperatorClock

Floats = npt.NDArray[np.float64]

CACHE_CANDIDATES_BYTES = (2**18, 2**20, 2**22, 2**24, 2**25)
"""Where traffic may change from cache to memory, or the C allocator from reused to fresh pages (glibc: 32 MiB)."""
MIN_POINTS_FOR_KINK = 8
EMPTY_CALL_S, EMPTY_CALL_WEIGHT = 4e-6, 0.05
"""A call without work takes about the dispatcher's time. Weak, but it decides where one replay alone could be all
overhead or all work: then it is work, and smaller calls come out shorter."""
MIN_POINTS_PER_OPERATOR = 3
"""Fewer replays than this cannot tell an operator's overhead from its rate; its class then speaks for it."""
PRIOR_FACTOR_SIGMA = 0.5
"""A real step takes about as long as its operators alone; half of it either way is believed only on evidence."""
PRIOR_HOST_S, PRIOR_HOST_SIGMA_S = 30e-6, 60e-6
"""Host time per operator before any step was measured (see ``HOST_S_PER_OPERATOR`` of ``time.step``), loose: over all
triples of nine measured MiniLM steps (five methods, CPU time, one busy core) the other six came out with a median error
of 5 % and nine in ten within 10 %; a prior four times as tight made that 6 % and 16 %."""
POINT_SIGMA = 0.04
"""Relative weight of one measured step against the two priors above."""
SMALLEST_S = 2e-6
"""Weights are relative down to this: below it the clock's own resolution and the dispatcher dominate."""


def fit_classes(replays: Iterable[ReplayPoint]) -> tuple[dict[str, ClassFit], dict[str, ClassFit]]:
    """The class table: fits by class and data type, and by operator where there are enough replays of one."""
    classes: dict[str, list[ReplayPoint]] = {}
    operators: dict[str, list[ReplayPoint]] = {}
    for point in replays:
        classes.setdefault(point.key.rpartition("/")[0], []).append(point)
        operators.setdefault(point.key, []).append(point)
    by_class = {key: fit_class(points) for key, points in sorted(classes.items())}
    enough = {key: points for key, points in sorted(operators.items()) if len(points) >= MIN_POINTS_PER_OPERATOR}
    return by_class, {key: fit_class(points) for key, points in enough.items()}


def fit_class(points: list[ReplayPoint]) -> ClassFit:
    """Fit one class; the break between cache and memory traffic is the candidate with the smallest error.

    The weight of a call grows with the root of how often it occurs, and of its own time: what fills the step must fit
        best.
    """
    flops = np.array([p.flops for p in points], dtype=np.float64)
    moved = np.array([p.moved_bytes for p in points], dtype=np.float64)
    seconds = np.array([p.median_s for p in points], dtype=np.float64)
    shares = np.array([p.share for p in points], dtype=np.float64)
    weights = np.sqrt(shares * np.maximum(seconds, SMALLEST_S))
    weights /= weights.max() * np.maximum(seconds, SMALLEST_S)
    if len(points) < MIN_POINTS_PER_OPERATOR:
        flops, moved, seconds = np.append(flops, 0.0), np.append(moved, 0.0), np.append(seconds, EMPTY_CALL_S)
        weights = np.append(weights, EMPTY_CALL_WEIGHT / EMPTY_CALL_S)
    candidates = CACHE_CANDIDATES_BYTES if len(points) >= MIN_POINTS_FOR_KINK else (2**62,)
    fits = {size: _non_negative(_features(flops, moved, size), seconds, weights) for size in candidates}
    near_bytes = min(fits, key=lambda size: fits[size][1])
    c = fits[near_bytes][0]
    predicted = (_features(flops, moved, near_bytes) @ c)[: len(points)]
    return ClassFit(
        overhead_s=float(c[0]),
        s_per_flop=float(c[1]),
        s_per_near_byte=float(c[2]),
        s_per_far_byte=float(c[3]) if (moved > near_bytes).any() else float(c[2]),
        near_bytes=near_bytes,
        samples=len(points),
        residual_relative=float(np.median(np.abs(predicted / np.maximum(seconds[: len(points)], 1e-12) - 1))),
        max_flops=int(flops.max()),
        max_bytes=int(moved.max()),
    )


def _features(flops: Floats, moved: Floats, near_bytes: int) -> Floats:
    near = np.minimum(moved, near_bytes)
    return np.stack([np.ones_like(flops), flops, near, moved - near], axis=1)


def fit_step(points: list[StepPoint], clock: OperatorClock) -> StepFit | None:
    """Factor and host time per operator from measured steps; ``None`` without points.

    Two weak priors (the factor near one, some ten microseconds per operator) decide what few points leave open.
    """
    if not points:
        return None
    tables = [clock.point_seconds(p) for p in points]
    factor, host_s = _step_coefficients(points, tables)
    rms = math.sqrt(statistics.fmean(error**2 for error in _leave_one_out(points, tables)))
    return StepFit(
        factor=factor,
        host_s_per_operator=host_s,
        residual_relative=rms,
        noise_relative=statistics.median(p.noise_relative for p in points),
        samples=len(points),
    )


def fit_model_ratios(points: list[StepPoint], fit: StepFit | None, clock: OperatorClock) -> dict[str, float]:
    """How much longer each model's measured steps took than the fit over all models says (geometric mean).

    One point in addition that says "no longer" keeps a single noisy measurement from deciding.
    """
    logs: dict[str, list[float]] = {}
    if fit is None:
        return {}
    for p in points:
        expected_s = fit.factor * clock.point_seconds(p) + fit.host_s_per_operator * p.operators
        logs.setdefault(p.model_key, []).append(math.log(p.median_s / expected_s))
    return {key: math.exp(sum(values) / (len(values) + 1)) for key, values in logs.items()}


def held_out_error(points: list[StepPoint], clock: OperatorClock) -> HeldOutError | None:
    """Errors on the points that were held back, or leave-one-out errors when none were.

    ``None`` with fewer than two points.
    """
    held = [p for p in points if p.held_back]
    used = [p for p in points if not p.held_back]
    tables = [clock.point_seconds(p) for p in used]
    if held and used:
        coefficients = _step_coefficients(used, tables)
        errors = [abs(_relative_error(coefficients, p, clock.point_seconds(p))) for p in held]
        return HeldOutError(statistics.median(errors), max(errors), len(errors), "held back")
    if len(used) < 2:
        return None
    errors = [abs(error) for error in _leave_one_out(used, tables)]
    return HeldOutError(statistics.median(errors), max(errors), len(errors), "leave one out")


def _leave_one_out(points: list[StepPoint], tables: list[float]) -> list[float]:
    """Relative error of every point when the fit does not see it."""
    errors = []
    for left_out, (point, table_s) in enumerate(zip(points, tables, strict=True)):
        others = [index for index in range(len(points)) if index != left_out]
        coefficients = _step_coefficients([points[i] for i in others], [tables[i] for i in others])
        errors.append(_relative_error(coefficients, point, table_s))
    return errors


def fit_resident(points: list[StepPoint]) -> ResidentFit | None:
    """Resident set over allocated and transient bytes; ``None`` without points that measured them.

    What is allocated and used is resident, so only the part beyond it is fitted, and it is never negative.
    """
    known = [p for p in points if p.allocated_peak_bytes and p.transient_peak_bytes is not None]
    if not known:
        return None
    allocated = np.array([p.allocated_peak_bytes for p in known], dtype=np.float64)
    transient = np.array([p.transient_peak_bytes for p in known], dtype=np.float64)
    resident = np.array([p.resident_peak_bytes for p in known], dtype=np.float64)
    start = float(statistics.median(p.baseline_resident_bytes for p in known))
    features = np.stack([np.ones_like(transient), transient], axis=1)
    remainder = np.maximum(resident - start - allocated, 0.0)
    extra, _ = _non_negative(features, remainder, 1 / resident)
    baseline, slope = start + float(extra[0]), float(extra[1])
    errors = (baseline + allocated + slope * transient) / resident - 1
    return ResidentFit(round(baseline), slope, float(np.sqrt(np.mean(errors**2))), len(known))


def _step_coefficients(points: list[StepPoint], tables: list[float]) -> tuple[float, float]:
    rows = [[1 / PRIOR_FACTOR_SIGMA, 0.0], [0.0, 1 / PRIOR_HOST_SIGMA_S]]
    targets = [1 / PRIOR_FACTOR_SIGMA, PRIOR_HOST_S / PRIOR_HOST_SIGMA_S]
    for p, table_s in zip(points, tables, strict=True):
        rows.append([table_s / p.median_s / POINT_SIGMA, p.operators / p.median_s / POINT_SIGMA])
        targets.append(1 / POINT_SIGMA)
    coefficients, _ = _non_negative(np.array(rows), np.array(targets), np.ones(len(targets)))
    return float(coefficients[0]), float(coefficients[1])


def _relative_error(coefficients: tuple[float, float], point: StepPoint, table_s: float) -> float:
    return (coefficients[0] * table_s + coefficients[1] * point.operators) / point.median_s - 1


def _non_negative(features: Floats, targets: Floats, weights: Floats) -> tuple[Floats, float]:
    """Weighted non-negative least squares; columns are scaled so that seconds per byte and per call meet on equal
    terms.
    """
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(features).max(axis=0), 1e-30)
    solution, error = nnls(features / scale * weights[:, None], targets * weights)
    return solution / scale, float(error)
