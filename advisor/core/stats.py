"""Quantiles and distribution functions of the normal and Student's t distribution, without further dependencies."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

_NORMAL = NormalDist()


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the standard normal distribution."""
    return _NORMAL.cdf(z)


NORMAL_95 = _NORMAL.inv_cdf(0.95)
"""Half width of a two-sided 90 % normal interval, in standard deviations."""


def student_t_quantile(p: float, degrees_of_freedom: int) -> float:
    """Quantile of Student's t: Cornish-Fisher start (Abramowitz & Stegun 26.7.5), then Newton steps on the exact
    density.

    Args:
        p: Between 0.5 and 1.
        degrees_of_freedom: At least 1.
    """
    if not 0.5 <= p < 1 or degrees_of_freedom < 1:
        raise ValueError(f"0.5 <= p < 1 <= degrees_of_freedom must hold, but got p={p} and {degrees_of_freedom}")
    z, v = _NORMAL.inv_cdf(p), degrees_of_freedom
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)
    for _ in range(60):
        step = (student_t_cdf(t, v) - p) / _student_t_density(t, v)
        t -= step
        if abs(step) < 1e-10:
            break
    return t


@functools.cache
def t_quantile_95(degrees_of_freedom: int) -> float:
    """95 % quantile of Student's t, so that plus and minus it hold 90 %.

    One degree of freedom counts as two: a single difference would make every interval infinite for practical purposes.
    """
    return student_t_quantile(0.95, max(degrees_of_freedom, 2))


def student_t_cdf(t: float, degrees_of_freedom: int) -> float:
    """P(T <= t), by the finite trigonometric series (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    v = degrees_of_freedom
    theta = math.atan2(t, math.sqrt(v))
    sine, cosine = math.sin(theta), math.cos(theta)
    if v % 2:
        term, total = cosine, cosine if v > 1 else 0.0
        for k in range(3, v - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        central = 2 / math.pi * (theta + sine * total)
    else:
        term = total = 1.0
        for k in range(2, v - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        central = sine * total
    return 0.5 + central / 2


def _student_t_density(t: float, v: int) -> float:
    log_scale = math.lgamma((v + 1) / 2) - math.lgamma(v / 2) - 0.5 * math.log(v * math.pi)
    return math.exp(log_scale - (v + 1) / 2 * math.log1p(t * t / v))
