"""The fits of a calibration: seconds of an operator over its work, of a step over its operators, and a resident set.

The fits to operators and to resident sets are non-negative least squares on relative errors: a coefficient is a cost,
and an error of 10 % counts the same at a microsecond as at a second.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.core.coefficients import ClassFit, ReplayPoint, ResidentFit, StepFit, StepPoint
from advisor.core.stats import robust_relative_sd
from advisor.costmodel.time.device_rates import DeviceRates
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import predicted_seconds, side_by_side
from advisor.strategies import find_strategy

Floats = npt.NDArray[np.float64]

CACHE_CANDIDATES_BYTES = (2**18, 2**20, 2**22, 2**24, 2**25)
"""Where traffic may change from cache to memory; 32 MiB is also where glibc takes fresh pages for every call, unless
the process keeps freed memory (``hardware.host_process``)."""
MIN_POINTS_FOR_KINK = 8
EMPTY_CALL_S, EMPTY_CALL_WEIGHT = 4e-6, 0.05
"""A call without work takes about the dispatcher's time. Weak, but it decides where one replay alone could be all
overhead or all work: then it is work, and smaller calls come out shorter."""
RATE_WEIGHT = 0.03
"""Of the device's own rates as a prior for a FLOP and a byte, beside 1 of the most important call. Calls of one batch
leave open which of the two they take their time for: both grow with the weights alone. From a quick calibration, whose
4-bit products all had 32 tokens, a step of 1,024 was predicted 87 % too long without it and 32 % with it, and other
models' steps as well as without it; 0.06 and 0.1 did the same."""
FAR_BEYOND_RATES = 10.0
"""Coefficients this many times the device's rates are not drawn to them any stronger: a byte of tiny calls stands for
their overhead."""
MIN_POINTS_PER_OPERATOR = 3
"""Fewer replays than this cannot separate an operator's overhead from its rate; its class's fit is used then."""
SMALLEST_S = 2e-6
"""Weights are relative down to this: below it the clock's own resolution and the dispatcher dominate."""


def fit_classes(replays: Iterable[ReplayPoint], rates: DeviceRates) -> tuple[dict[str, ClassFit], dict[str, ClassFit]]:
    """The class table: fits by class and data type, and by operator where there are enough replays of one."""
    classes: dict[str, list[ReplayPoint]] = {}
    operators: dict[str, list[ReplayPoint]] = {}
    for point in replays:
        classes.setdefault(point.key.rpartition("/")[0], []).append(point)
        operators.setdefault(point.key, []).append(point)
    by_class = {key: fit_class(points, rates) for key, points in sorted(classes.items())}
    enough = {key: points for key, points in sorted(operators.items()) if len(points) >= MIN_POINTS_PER_OPERATOR}
    return by_class, {key: fit_class(points, rates) for key, points in enough.items()}


def fit_class(points: list[ReplayPoint], rates: DeviceRates) -> ClassFit:
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
    assumed, beliefs = _assumed(points, rates)
    candidates = CACHE_CANDIDATES_BYTES if len(points) >= MIN_POINTS_FOR_KINK else (2**62,)
    fits = {size: _leaning(_features(flops, moved, size), seconds, weights, assumed, beliefs) for size in candidates}
    near_bytes = min(fits, key=lambda size: fits[size][1])
    c = fits[near_bytes][0]
    predicted = _features(flops, moved, near_bytes) @ c
    return ClassFit(
        overhead_s=float(c[0]),
        s_per_flop=float(c[1]),
        s_per_near_byte=float(c[2]),
        s_per_far_byte=float(c[3]) if (moved > near_bytes).any() else float(c[2]),
        near_bytes=near_bytes,
        samples=len(points),
        residual_relative=float(np.median(np.abs(predicted / np.maximum(seconds, 1e-12) - 1))),
        max_flops=int(flops.max()),
        max_bytes=int(moved.max()),
    )


def _assumed(points: list[ReplayPoint], rates: DeviceRates) -> tuple[Floats, Floats]:
    """What a call, a FLOP, a byte from cache and one from memory cost without these points, and how much that weighs.

    A call's cost has no prior once there are enough calls; the others have none where the rates are not known.
    """
    of_empty_call = EMPTY_CALL_WEIGHT if len(points) < MIN_POINTS_PER_OPERATOR else 0.0
    if not rates.known:
        return np.array([EMPTY_CALL_S, 1.0, 1.0, 1.0]), np.array([of_empty_call, 0.0, 0.0, 0.0])
    per_flop, per_byte = rates.slopes(*points[0].key.split("/", 2))
    return np.array([EMPTY_CALL_S, per_flop, per_byte, per_byte]), np.array([of_empty_call, *(RATE_WEIGHT,) * 3])


def _leaning(
    features: Floats, targets: Floats, weights: Floats, assumed: Floats, beliefs: Floats
) -> tuple[Floats, float]:
    """Least squares that lean towards assumed coefficients, unless the points put them far beyond."""
    plain, _ = non_negative(features, targets, weights)
    reference = np.maximum(assumed, plain / FAR_BEYOND_RATES)
    return non_negative(
        np.vstack([features, np.diag(1 / reference)]),
        np.append(targets, assumed / reference),
        np.append(weights, beliefs * features.any(axis=0)),
    )


def _features(flops: Floats, moved: Floats, near_bytes: int) -> Floats:
    near = np.minimum(moved, near_bytes)
    return np.stack([np.ones_like(flops), flops, near, moved - near], axis=1)


def non_negative(features: Floats, targets: Floats, weights: Floats) -> tuple[Floats, float]:
    """Weighted non-negative least squares; columns are scaled so that seconds per byte and per call meet on equal
    terms.
    """
    from scipy.optimize import nnls

    weighted = features * weights[:, None]
    scale = np.maximum(np.abs(weighted).max(axis=0), 1e-30)
    solution, error = nnls(weighted / scale, targets * weights)
    return solution / scale, float(error)


# --------------------
# From operator times to the time of a step or of an evaluation pass.

PRIOR_FACTOR_SIGMA = 0.5
"""A real step takes about as long as its operators alone; half of it either way needs evidence."""
PRIOR_HOST_S, PRIOR_HOST_SIGMA_S = 30e-6, 60e-6
"""Host time per operator before any step was measured (see ``OverheadTraits``), loose: over all
triples of nine measured MiniLM steps (five methods, CPU time, one busy core) the other six came out with a median error
of 5 % and nine in ten within 10 %; a prior four times as tight made that 6 % and 16 %."""
POINT_SIGMA = 0.04
"""Relative weight of one measured step against the two priors above."""
PRIOR_LOG_HOST_SIGMA = 1.0
"""Where host and device overlap, a short step is all host and a long one hides it: the same prior as a factor
of e either way."""
OUTLIER = 2.0
"""Residuals beyond this many ``POINT_SIGMA`` pull less (Charbonnier's loss)."""


@dataclass(frozen=True)
class Sample:
    """A measured stretch of work and the class table's time for its operators.

    Attributes:
        model_key: Architecture.
        seconds: Median of the repeats.
        noise: Their relative standard deviation.
        table_s: Predicted by the class table.
        operators: How many there are.
    """

    model_key: str
    seconds: float
    noise: float
    table_s: float
    operators: int


def step_samples(points: Sequence[StepPoint], clock: OperatorClock) -> list[Sample]:
    """One sample per measured step."""
    return [Sample(p.model_key, p.median_s, p.noise_relative, clock.work_seconds(p.work), p.operators) for p in points]


def evaluation_samples(points: Sequence[StepPoint], clock: OperatorClock) -> list[Sample]:
    """One sample per measured evaluation pass."""
    return [
        Sample(
            p.model_key,
            statistics.median(p.evaluation_times_s),
            robust_relative_sd(p.evaluation_times_s),
            clock.work_seconds(p.evaluation_work),
            sum(count for *_, count in p.evaluation_work),
        )
        for p in points
        if p.evaluation_times_s
    ]


def fit_step(samples: Sequence[Sample], power: int = 1) -> StepFit | None:
    """Factor and host time per operator; ``None`` without samples.

    Two weak priors (the factor near one, some ten microseconds per operator) decide what few samples leave open. The
    residual is that of the samples themselves: ``held_out`` knows better.
    """
    if not samples:
        return None
    factor, host_s = _additive(samples) if power == 1 else _overlapping(samples, power)
    fit = StepFit(
        factor=factor,
        host_s_per_operator=host_s,
        residual_relative=0.0,
        noise_relative=statistics.median(sample.noise for sample in samples),
        samples=len(samples),
        power=power,
    )
    errors = [expected_seconds(fit, sample) / sample.seconds - 1 for sample in samples]
    return dataclasses.replace(fit, residual_relative=math.sqrt(statistics.fmean(error**2 for error in errors)))


def _additive(samples: Sequence[Sample]) -> tuple[float, float]:
    """Linear least squares on relative errors."""
    rows = [[1 / PRIOR_FACTOR_SIGMA, 0.0], [0.0, 1 / PRIOR_HOST_SIGMA_S]]
    targets = [1 / PRIOR_FACTOR_SIGMA, PRIOR_HOST_S / PRIOR_HOST_SIGMA_S]
    for sample in samples:
        rows.append([part / sample.seconds / POINT_SIGMA for part in (sample.table_s, sample.operators)])
        targets.append(1 / POINT_SIGMA)
    (factor, host_s), _ = non_negative(np.array(rows), np.array(targets), np.ones(len(targets)))
    return float(factor), float(host_s)


def _overlapping(samples: Sequence[Sample], power: int) -> tuple[float, float]:
    """Robust least squares on logarithms: the larger of two parts is no linear form of them."""
    from scipy.optimize import least_squares

    measured = np.log([sample.seconds for sample in samples])

    def residuals(x: Floats) -> Floats:
        factor, host_s = np.exp(x[0]), PRIOR_HOST_S * np.exp(x[1])
        expected = [side_by_side(host_s * sample.operators, factor * sample.table_s, power) for sample in samples]
        priors = [x[0] / PRIOR_FACTOR_SIGMA, x[1] / PRIOR_LOG_HOST_SIGMA]
        return np.concatenate([(np.log(expected) - measured) / POINT_SIGMA, priors])

    found = least_squares(residuals, np.zeros(2), loss="soft_l1", f_scale=OUTLIER)
    return float(np.exp(found.x[0])), float(PRIOR_HOST_S * np.exp(found.x[1]))


def fit_model_ratios(samples: Sequence[Sample], fit: StepFit | None) -> dict[str, float]:
    """How much longer each model's measured steps took than the fit over all models predicts (geometric mean).

    One additional sample of ratio 1 keeps a single noisy measurement from deciding.
    """
    if fit is None:
        return {}
    logs: dict[str, list[float]] = {}
    for sample in samples:
        logs.setdefault(sample.model_key, []).append(math.log(sample.seconds / expected_seconds(fit, sample)))
    return {key: math.exp(sum(values) / (len(values) + 1)) for key, values in logs.items()}


def expected_seconds(fit: StepFit, sample: Sample) -> float:
    """The fit's prediction for a sample."""
    return predicted_seconds(fit, sample.table_s, sample.operators)


# --------------------
# The resident set of a training process over what the traced allocations make its heap grow to.


def fit_resident(points: list[StepPoint]) -> ResidentFit | None:
    """Resident set over weights and heap; ``None`` without points that know both.

    What the heap has grown to is resident, so only the part beyond it is fitted, and it is never negative. Models in 4
    bits are left out: calibration draws them in full precision first, which may be their peak.
    """
    known = [p for p in points if p.heap_bytes and p.resident_peak_bytes and not _stores_4bit_weights(p.method)]
    if not known:
        return None
    weights = np.array([p.weights_bytes for p in known], dtype=np.float64)
    heap = np.array([p.heap_bytes for p in known], dtype=np.float64)
    resident = np.array([p.resident_peak_bytes for p in known], dtype=np.float64)
    start = float(statistics.median(p.baseline_resident_bytes for p in known))
    features = np.stack([np.ones_like(heap), heap], axis=1)
    remainder = np.maximum(resident - start - weights - heap, 0.0)
    extra, _ = non_negative(features, remainder, 1 / resident)
    baseline, per_byte = start + float(extra[0]), 1 + float(extra[1])
    errors = (baseline + weights + per_byte * heap) / resident - 1
    return ResidentFit(round(baseline), per_byte, float(np.sqrt(np.mean(errors**2))), len(known))


def _stores_4bit_weights(method: str) -> bool:
    strategy = find_strategy(method)
    return strategy is not None and strategy.stores_4bit_weights
