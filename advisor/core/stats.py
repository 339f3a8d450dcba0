"""Quantiles of the normal and of Student's t distribution, and how far repeats scatter."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from statistics import NormalDist

_NORMAL = NormalDist()

NORMAL_95 = _NORMAL.inv_cdf(0.95)
"""Half width of a two-sided 90 % normal interval, in standard deviations."""
NORMAL_HALF_IQR = 0.6745
"""Half the interquartile range of a normal distribution, in standard deviations."""


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the standard normal distribution."""
    return _NORMAL.cdf(z)


def student_t_quantile(p: float, degrees_of_freedom: int) -> float:
    """Quantile of Student's t.

    Args:
        p: Between 0.5 and 1.
        degrees_of_freedom: At least 1.
    """
    if not 0.5 <= p < 1 or degrees_of_freedom < 1:
        raise ValueError(f"0.5 <= p < 1 <= degrees_of_freedom must hold, but got p={p} and {degrees_of_freedom}")
    from scipy.special import stdtrit  # imported here: it takes longer than most of what a prediction needs

    return float(stdtrit(degrees_of_freedom, p))


@functools.cache
def t_quantile_95(degrees_of_freedom: int) -> float:
    """95 % quantile of Student's t, so that plus and minus it hold 90 %.

    One degree of freedom counts as two: a single difference would make every interval infinite for practical purposes.
    """
    return student_t_quantile(0.95, max(degrees_of_freedom, 2))


def half_iqr(samples: Sequence[float]) -> float:
    """Half the interquartile range; of fewer than four samples half their whole range."""
    if len(samples) < 4:
        return (max(samples) - min(samples)) / 2
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2


def relative_half_iqr(samples: Sequence[float]) -> float:
    """Half the interquartile range over the median: within it lie half of the samples."""
    return half_iqr(samples) / statistics.median(samples)


def robust_relative_sd(samples: Sequence[float]) -> float:
    """Standard deviation over the median, estimated from the interquartile range, so that outliers do not count.

    Of fewer than four samples it is half their range over the median.
    """
    relative = relative_half_iqr(samples)
    return relative if len(samples) < 4 else relative / NORMAL_HALF_IQR
