"""Quantiles of the normal and of Student's t distribution, and how far repeats scatter."""

from __future__ import annotations

import math
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


T_95 = (
    6.31375151468, 2.91998558035, 2.35336343480, 2.13184678633, 2.01504837333, 1.94318028052, 1.89457860509,
    1.85954803753, 1.83311293266, 1.81246112281, 1.79588481870, 1.78228755565, 1.77093339599, 1.76131013577,
    1.75305035569, 1.74588367628, 1.73960672608, 1.73406360662, 1.72913281152, 1.72471824292, 1.72074290281,
    1.71714437438, 1.71387152775, 1.71088207991, 1.70814076125, 1.70561791976, 1.70328844572, 1.70113093427,
    1.69912702653, 1.69726088659, 1.69551878255, 1.69388874838, 1.69236030903, 1.69092425519, 1.68957245778,
    1.68829771412, 1.68709361960, 1.68595446017, 1.68487512171, 1.68385101334, 1.68287800213, 1.68195235747,
    1.68107070320, 1.68022997657, 1.67942739265, 1.67866041356, 1.67792672164, 1.67722419612, 1.67655089262,
    1.67590502516, 1.67528495042, 1.67468915373, 1.67411623670, 1.67356490635, 1.67303396529, 1.67252230308,
    1.67202888846, 1.67155276245, 1.67109303210, 1.67064886490,
)  # fmt: skip
"""95 % quantiles of Student's t with 1, 2, … degrees of freedom, as ``scipy.special.stdtrit`` gives them: a prediction
needs some, and importing scipy takes longer than the prediction."""


def student_t_quantile(p: float, degrees_of_freedom: int) -> float:
    """Quantile of Student's t, for ``p`` of 0.95 to a relative 2e-10.

    Beyond the table that one is the expansion of Abramowitz & Stegun, 26.7.5.

    Args:
        p: From 0.5 to below 1.
        degrees_of_freedom: At least 1.
    """
    n, z = degrees_of_freedom, NORMAL_95
    if not 0.5 <= p < 1 or n < 1:
        raise ValueError(f"0.5 <= p < 1 <= degrees_of_freedom must hold, but got p={p} and {n}")
    if p == 0.95 and n <= len(T_95):
        return T_95[n - 1]
    if p == 0.95:
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return z + sum(term / n**power for power, term in enumerate(terms, start=1))
    from scipy.special import stdtrit

    return float(stdtrit(n, p))


def t_quantile_95(degrees_of_freedom: int) -> float:
    """95 % quantile of Student's t, so that plus and minus it hold 90 %.

    One degree of freedom counts as two: a single difference would make every interval infinite for practical purposes.
    """
    return student_t_quantile(0.95, max(degrees_of_freedom, 2))


def share_interval(share: float, items: int) -> tuple[float, float]:
    """90 % interval of a probability of which ``share`` was seen in ``items`` independent items (Wilson 1927)."""
    squared = NORMAL_95**2
    centre = (share + squared / (2 * items)) / (1 + squared / items)
    half = NORMAL_95 / (1 + squared / items) * math.sqrt(share * (1 - share) / items + squared / (4 * items**2))
    return max(0.0, centre - half), min(1.0, centre + half)


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
