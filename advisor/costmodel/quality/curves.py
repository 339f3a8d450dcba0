"""From short runs on growing prefixes to the held-out figure of the full run.

The negative log-likelihood L on fixed items falls about as a power of the training rows n; two prefixes give the slope
s = log(L1 / L2) / log(n2 / n1), and L(n) = L2 * (n / n2)**-s. A slope from two short runs is noisy, so it is stacked
(weights by inverse variance) with the slope that learning curves of this kind usually have; "nothing more is gained"
is the other end, and half the distance to it is the standard error of the extrapolation.

Accuracy follows from L by a curve fitted within the task, error = error0 * (L / L0)**gamma, where (L0, error0) belong
to answering with the class shares. Only the *change* of accuracy comes from the curve; its start is the measured
accuracy of the largest prefix, so a biased curve costs little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.costmodel.quality.evidence import EvidenceRun

PRIOR_SLOPE, PRIOR_SLOPE_SD = 0.10, 0.10
"""Power of the loss in the training rows. Hestness et al. 2017 (arXiv 1712.00409) report exponents of 0.06 to 0.09
for word language models, 0.07 to 0.36 over their domains; fine-tuning starts on a flatter part. The standard
deviation spans that range."""

PRIOR_GAMMA, PRIOR_GAMMA_WEIGHT = 1.5, 1.0
"""Curvature of error against loss when the task's own runs do not tell; weighs as much as one run. For two balanced
classes a calibrated classifier with error 0.2 has a loss near 0.43 to 0.50, which is gamma 1.9 to 2.8; over-confident
ones lie lower."""

_LEAST_VARIANCE = 1e-4
"""Of one answer; keeps the sampling error of a perfect score above zero."""

LOSS_NOISE = 0.03
"""Relative standard deviation of the held-out loss between seeds: 1.1 points of accuracy (the noise floor of
published re-runs) move the loss of a classifier at 20 % error by about that share."""


@dataclass(frozen=True)
class Extrapolation:
    """Held-out figure of the full run: point and standard error.

    Attributes:
        value: Accuracy (0-1), or loss in nats for language modelling.
        sd: Of extrapolation and sampling together, without the noise of the final run's own seed.
        ratio, ratio_sd: Loss of the full run over that of the largest prefix, and the standard error of its logarithm.
        increment: What the extrapolation added to the last measured figure.
    """

    value: float
    sd: float
    ratio: float
    ratio_sd: float
    increment: float


def stacked_slope(runs: Sequence[EvidenceRun], loss_noise: float = LOSS_NOISE) -> tuple[float, float]:
    """Power of the loss and its standard deviation: the measured slope stacked with the usual one, never negative."""
    weight, total = 1 / PRIOR_SLOPE_SD**2, PRIOR_SLOPE / PRIOR_SLOPE_SD**2
    points = [(run.train_rows, run.eval_loss) for run in runs if run.eval_loss]
    for (fewer, higher), (more, lower) in itertools.pairwise(points):
        span = math.log(more / fewer)
        if span > 0:
            variance = 2 * loss_noise**2 / span**2
            weight, total = weight + 1 / variance, total + math.log(higher / lower) / span / variance
    return max(total / weight, 0.0), math.sqrt(1 / weight)


def extrapolate_loss(runs: Sequence[EvidenceRun]) -> Extrapolation:
    """Loss of the full run from at least one usable run, fewest rows first."""
    last = runs[-1]
    loss = last.eval_loss or 0.0
    slope, slope_sd = stacked_slope(runs)
    span = math.log(max(last.target_train_rows / last.train_rows, 1.0))
    ratio = math.exp(-slope * span)
    ratio_sd = math.hypot(slope_sd * span, slope * span / 2)
    return Extrapolation(
        loss * ratio, loss * ratio * math.hypot(ratio_sd, LOSS_NOISE), ratio, ratio_sd, loss * (ratio - 1)
    )


def fit_gamma(runs: Sequence[EvidenceRun], majority_share: float, chance_loss: float) -> float:
    """Curvature of error against loss within the task, over all methods' runs."""
    weight, total = PRIOR_GAMMA_WEIGHT, PRIOR_GAMMA * PRIOR_GAMMA_WEIGHT
    for run in runs:
        if (
            not run.eval_loss
            or run.accuracy is None
            or not 0 < run.eval_loss < chance_loss
            or not majority_share < run.accuracy < 1
        ):
            continue
        # Runs that barely learnt lie next to the anchor, where the curvature cannot be read off: they weigh little.
        leverage = math.log(run.eval_loss / chance_loss) ** 2
        weight += leverage / 0.25
        total += (
            leverage
            / 0.25
            * (math.log((1 - run.accuracy) / (1 - majority_share)) / math.log(run.eval_loss / chance_loss))
        )
    return min(max(total / weight, 0.5), 4.0)


def extrapolate_accuracy(runs: Sequence[EvidenceRun], *, chance_loss: float, gamma: float) -> Extrapolation:
    """Accuracy of the full run from at least one usable run with accuracy, fewest rows first."""
    last = runs[-1]
    accuracy = last.accuracy or 0.0
    loss = extrapolate_loss(runs)
    learnt = (last.eval_loss or chance_loss) < chance_loss
    # The curve gives the share of the error that goes away; the measured error is what it applies to.
    error = (1 - accuracy) * (loss.ratio**gamma if learnt else 1.0)
    sampling = math.sqrt(max(accuracy * (1 - accuracy), _LEAST_VARIANCE) / max(last.eval_rows, 1))
    sd = math.hypot(gamma * loss.ratio_sd * error, sampling)
    return Extrapolation(1 - error, sd, loss.ratio, loss.ratio_sd, 1 - error - accuracy)


def chance_loss(class_counts: Sequence[int]) -> float:
    """Loss of answering with the class shares: their entropy, nats."""
    total = sum(class_counts)
    return -sum(count / total * math.log(count / total) for count in class_counts if count)
