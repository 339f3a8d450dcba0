"""Figures that sum up many relative errors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Absolute relative errors.

    Attributes:
        count: How many.
        median, p90, worst: Of ``|predicted / measured - 1|``.
        bias: Median of ``predicted / measured - 1``.
    """

    count: int
    median: float
    p90: float
    worst: float
    bias: float


def summarize(signed_errors: Sequence[float]) -> Summary | None:
    """Sum up ``predicted / measured - 1`` of many cases; ``None`` of none."""
    if not signed_errors:
        return None
    sizes = sorted(abs(error) for error in signed_errors)
    bias = statistics.median(signed_errors)
    return Summary(len(sizes), statistics.median(sizes), percentile_90(sizes), sizes[-1], bias)


def percentile_90(sizes: Sequence[float]) -> float:
    """The smallest figure that nine in ten do not exceed (nearest rank)."""
    return sorted(sizes)[-(-9 * len(sizes) // 10) - 1]
