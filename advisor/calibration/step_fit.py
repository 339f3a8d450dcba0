"""From operator times to the time of a step or of an evaluation pass: what measured ones say of the difference."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.calibration.class_table import Floats, non_negative
from advisor.core.coefficients import ResidentFit, StepFit, StepPoint, noise_relative
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import overlapping, predicted_seconds

PRIOR_FACTOR_SIGMA = 0.5
"""A real step takes about as long as its operators alone; half of it either way is believed only on evidence."""
PRIOR_HOST_S, PRIOR_HOST_SIGMA_S = 30e-6, 60e-6
"""Host time per operator before any step was measured (see ``HOST_S_PER_OPERATOR`` of ``time.step``), loose: over all
triples of nine measured MiniLM steps (five methods, CPU time, one busy core) the other six came out with a median error
of 5 % and nine in ten within 10 %; a prior four times as tight made that 6 % and 16 %."""
POINT_SIGMA = 0.04
"""Relative weight of one measured step against the two priors above."""
PRIOR_LOG_HOST_SIGMA = 1.0
"""Where host and device overlap, a short step is all host and a long one says nothing of it: the same prior as a factor
of e either way."""
OUTLIER = 2.0
"""Residuals beyond this many ``POINT_SIGMA`` pull less (Charbonnier's loss)."""


@dataclass(frozen=True)
class Sample:
    """A measured stretch of work beside what the class table says of its operators.

    Attributes:
        model_key: Architecture.
        seconds: Median of the repeats.
        noise: Their relative standard deviation.
        table_s: By the class table.
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
            noise_relative(p.evaluation_times_s),
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

    Args:
        samples: Measured stretches.
        power: How host and device overlap (``time.step.overlap_power``).
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
        expected = [overlapping(host_s * sample.operators, factor * sample.table_s, power) for sample in samples]
        priors = [x[0] / PRIOR_FACTOR_SIGMA, x[1] / PRIOR_LOG_HOST_SIGMA]
        return np.concatenate([(np.log(expected) - measured) / POINT_SIGMA, priors])

    found = least_squares(residuals, np.zeros(2), loss="soft_l1", f_scale=OUTLIER)
    return float(np.exp(found.x[0])), float(PRIOR_HOST_S * np.exp(found.x[1]))


def fit_model_ratios(samples: Sequence[Sample], fit: StepFit | None) -> dict[str, float]:
    """How much longer each model's measured steps took than the fit over all models says (geometric mean).

    One sample in addition that says "no longer" keeps a single noisy measurement from deciding.
    """
    if fit is None:
        return {}
    logs: dict[str, list[float]] = {}
    for sample in samples:
        logs.setdefault(sample.model_key, []).append(math.log(sample.seconds / expected_seconds(fit, sample)))
    return {key: math.exp(sum(values) / (len(values) + 1)) for key, values in logs.items()}


def expected_seconds(fit: StepFit, sample: Sample) -> float:
    """What the fit says of a sample."""
    return predicted_seconds(fit, sample.table_s, sample.operators)


# --------------------
# The resident set of a training process over what the traced allocations make its heap grow to.


def fit_resident(points: list[StepPoint]) -> ResidentFit | None:
    """Resident set over weights and heap; ``None`` without points that know both.

    What the heap has grown to is resident, so only the part beyond it is fitted, and it is never negative. Models in 4
    bits are left out: calibration draws them in full precision first, which may be their peak.
    """
    known = [p for p in points if p.heap_bytes and p.resident_peak_bytes and p.method != "qlora"]
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
