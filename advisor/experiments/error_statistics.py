"""Relative errors of predictions, summed up over many cells and by group.

Two kinds of quantile, so that a figure never depends on the library that computes it: percentiles of errors are by
nearest rank (``inverted_cdf``: the smallest error that at least that share of the cells does not exceed, always a
measured one); medians are the usual ones (the mean of the two middle values of an even number); quartiles of repeats
are Weibull's (``(n + 1) p``, as ``statistics.quantiles``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from advisor.core.stats import relative_half_iqr

LEAST_REPEATS = 4
"""Fewer values have no quartiles worth naming."""


@dataclass(frozen=True)
class ErrorStatistics:
    """Relative errors of one quantity, ``predicted / measured - 1``.

    Attributes:
        count: How many.
        mape: Mean absolute (percentage) error, as a share.
        median, p90, worst: Of the absolute errors.
        bias: Median of the signed errors.
        intervals: How many predictions have a 90 % interval.
        covered: How many of those intervals contain the measured figure.
    """

    count: int
    mape: float
    median: float
    p90: float
    worst: float
    bias: float
    intervals: int = 0
    covered: int = 0

    @property
    def coverage(self) -> float | None:
        """Share of the intervals that contain the measured figure; ``None`` without intervals."""
        return self.covered / self.intervals if self.intervals else None


@dataclass(frozen=True)
class ErrorGroup:
    """Cells that share a value.

    Attributes:
        by: What they share, for example ``"method"``; ``"all"`` for all cells.
        value: The value.
        count: Cells, those without a figure included.
        errors: By quantity; a quantity that no cell measured is missing.
    """

    by: str
    value: str
    count: int
    errors: dict[str, ErrorStatistics]


@dataclass(frozen=True)
class LargestError:
    """One of the largest errors of a quantity.

    Attributes:
        quantity: Its name ends in its unit.
        label: Of the cell.
        error: ``predicted / measured - 1``.
        spread: Of the cell's repeats, as in :func:`relative_spread`.
        reference_ratio: How slow the machine was beside the cell; 1 is usual.
    """

    quantity: str
    label: str
    predicted: float
    measured: float
    error: float
    spread: float | None = None
    reference_ratio: float | None = None


@dataclass(frozen=True)
class AcceptanceThreshold:
    """A bound that a figure must keep.

    Attributes:
        name: Of the figure.
        value: The figure; ``None`` where nothing was measured.
        low, high: It must lie between; ``None`` where there is no such end.
        passed: ``None`` where there is no figure, or too few cells stand behind it.
        note: How the bound came about, or what is missing.
        unit: Of the figure.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    passed: bool | None
    note: str = ""
    unit: Literal["share", "cases"] = "share"


def threshold(
    name: str,
    value: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    missing: str = "",
    note: str = "",
    unit: Literal["share", "cases"] = "share",
) -> AcceptanceThreshold:
    """A bound and its verdict.

    Args:
        name: Of the figure.
        value: The figure, if there is one.
        low: Lowest value that passes.
        high: Highest value that passes.
        missing: What is missing for a verdict.
        note: How the bound came about.
        unit: Of the figure.
    """
    passed = None
    if value is not None and not missing:
        passed = (low is None or value >= low) and (high is None or value <= high)
    return AcceptanceThreshold(name, value, low, high, passed, "; ".join(filter(None, (note, missing))), unit)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    return float(np.quantile(np.asarray(list(values), dtype=float), share, method="inverted_cdf"))


def relative_spread(repeats: Sequence[float]) -> float | None:
    """``relative_half_iqr`` of repeats; ``None`` below four of them."""
    return relative_half_iqr(repeats) if len(repeats) >= LEAST_REPEATS else None


def error_statistics(errors: Iterable[float]) -> ErrorStatistics | None:
    """Sum up ``predicted / measured - 1`` of many cells, none of which has an interval; ``None`` of no cell."""
    return statistics_of(pd.DataFrame({"error": list(errors), "low": None, "high": None, "measured": None}))


def statistics_of(rows: pd.DataFrame) -> ErrorStatistics | None:
    """The same of rows with the columns ``error``, ``measured``, ``low`` and ``high`` (of the 90 % interval); rows
    without an error do not count.
    """
    rows = rows[rows["error"].notna()]
    if rows.empty:
        return None
    signed = rows["error"].astype(float)
    sizes = signed.abs()
    intervals = rows[rows["low"].notna()]
    covered = (intervals["low"] <= intervals["measured"]) & (intervals["measured"] <= intervals["high"])
    return ErrorStatistics(
        count=len(rows),
        mape=float(sizes.mean()),
        median=float(sizes.median()),
        p90=percentile(sizes, 0.9),
        worst=float(sizes.max()),
        bias=float(signed.median()),
        intervals=len(intervals),
        covered=int(covered.sum()),
    )


def error_groups(rows: pd.DataFrame, groupings: Mapping[str, str | None]) -> tuple[ErrorGroup, ...]:
    """Error statistics of all cells, then by each grouping.

    Args:
        rows: One per cell and quantity, with the columns ``key`` and ``quantity``, those of :func:`statistics_of`, and
            one per grouping; a list there puts the cell into several groups.
        groupings: Column -> column by which its groups are ordered; ``None`` for the order of the rows.
    """
    if rows.empty:
        return ()
    groups = [_group("all", "all", rows)]
    for by, order in groupings.items():
        ordered = rows.sort_values(order, kind="stable") if order is not None else rows
        groups += [_group(by, str(value), members) for value, members in ordered.explode(by).groupby(by, sort=False)]
    return tuple(groups)


def _group(by: str, value: str, rows: pd.DataFrame) -> ErrorGroup:
    errors = {str(name): statistics_of(members) for name, members in rows.groupby("quantity", sort=False)}
    known = {name: found for name, found in errors.items() if found is not None}
    return ErrorGroup(by, value, int(rows["key"].nunique()), known)


def largest_errors(rows: pd.DataFrame, count: int) -> tuple[LargestError, ...]:
    """The largest errors of every quantity, the largest first.

    Args:
        rows: As for :func:`error_groups`, with the columns ``label`` and ``predicted``, and perhaps ``spread`` and
            ``reference_ratio``.
        count: How many of each quantity.
    """
    found = []
    for quantity, members in rows[rows["error"].notna()].groupby("quantity", sort=False):
        worst = members.sort_values("error", key=lambda error: -error.abs(), kind="stable").head(count)
        found += [
            LargestError(
                str(quantity),
                row["label"],
                float(row["predicted"]),
                float(row["measured"]),
                float(row["error"]),
                _optional(row.get("spread")),
                _optional(row.get("reference_ratio")),
            )
            for row in worst.to_dict("records")
        ]
    return tuple(found)


def _optional(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
