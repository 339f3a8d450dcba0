"""Relative errors of predictions, summed up over cells that share something.

Percentiles of errors are by nearest rank (numpy's ``inverted_cdf``: the smallest error that at least that share of the
cells does not exceed, always one that occurred); medians are the mean of the two middle values of an even number;
quartiles of repeats are Weibull's (``(n + 1) p``, as ``statistics.quantiles`` has them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from advisor.core.stats import relative_half_iqr

LEAST_REPEATS = 4
"""Fewer values have no quartiles worth naming."""


@dataclass(frozen=True)
class ErrorRow:
    """Relative errors of one quantity, ``predicted / measured - 1``, over cells that share a value.

    Attributes:
        by, value: What they share: ``("method", "lora")``; ``("all", "all")`` for all cells.
        quantity: Its name ends in its unit.
        count: Cells in which it was measured.
        mape: Mean absolute (percentage) error, as a share.
        p50, p90, max: Of the absolute errors.
        bias: Median of the signed errors.
        intervals, covered: Predictions with a 90 % interval, and those whose interval contains the measured figure.
    """

    by: str
    value: str
    quantity: str
    count: int
    mape: float
    p50: float
    p90: float
    max: float
    bias: float
    intervals: int = 0
    covered: int = 0

    @property
    def coverage(self) -> float | None:
        """Share of the intervals that contain the measured figure; ``None`` without intervals."""
        return self.covered / self.intervals if self.intervals else None


@dataclass(frozen=True)
class LargestError:
    """One of the largest errors of a quantity.

    Attributes:
        label: Of the cell.
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
        value: The figure; ``None`` where nothing was measured.
        low, high: It must lie between; ``None`` where there is no such end.
        passed: ``None`` where there is no figure, or too little stands behind it.
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
    low: float | None = None,
    high: float | None = None,
    *,
    missing: str = "",
    note: str = "",
    unit: Literal["share", "cases"] = "share",
) -> AcceptanceThreshold:
    """A bound with its verdict, which needs a value and nothing ``missing``."""
    judged = value is not None and not missing
    passed = (low is None or value >= low) and (high is None or value <= high) if judged and value is not None else None
    return AcceptanceThreshold(name, value, low, high, passed, "; ".join(filter(None, (note, missing))), unit)


def relative_spread(repeats: Sequence[float]) -> float | None:
    """``relative_half_iqr`` of repeats; ``None`` below four of them."""
    return relative_half_iqr(repeats) if len(repeats) >= LEAST_REPEATS else None


def grouped(cells: pd.DataFrame, groupings: Mapping[str, str | None]) -> pd.DataFrame:
    """The same cells once as a whole and once per grouping, told apart by the columns ``by`` and ``value``.

    Args:
        cells: With a column per grouping; a list there puts the cell into several groups.
        groupings: Column -> column by which its groups are ordered; ``None`` for the order of the cells.
    """
    parts = [cells.assign(by="all", value="all")]
    for by, order in groupings.items():
        ordered = cells.sort_values(order, kind="stable") if order is not None else cells
        parts.append(ordered.explode(by).assign(by=by, value=lambda found, by=by: found[by]))
    return pd.concat(parts)


def error_rows(cells: pd.DataFrame) -> tuple[ErrorRow, ...]:
    """Sum up errors by group and quantity, in the order in which they occur.

    Args:
        cells: With the columns ``by``, ``value``, ``quantity`` and ``error``, and for intervals ``measured``, ``low``
            and ``high``; those without an error do not count.
    """
    if cells.empty:
        return ()
    columns = ["by", "value", "quantity", "error", "measured", "low", "high"]
    known = cells[cells["error"].notna()].reindex(columns=columns)
    groups: Any = known.groupby(["by", "value", "quantity"], sort=False)
    return tuple(_row(by, str(value), quantity, members) for (by, value, quantity), members in groups)


def _row(by: str, value: str, quantity: str, members: pd.DataFrame) -> ErrorRow:
    signed = members["error"].astype(float)
    sizes = signed.abs()
    intervals = members[members["low"].notna()]
    covered = (intervals["low"] <= intervals["measured"]) & (intervals["measured"] <= intervals["high"])
    return ErrorRow(
        *(by, value, quantity, len(members)),
        mape=float(sizes.mean()),
        p50=float(sizes.median()),
        p90=float(np.quantile(sizes, 0.9, method="inverted_cdf")),
        max=float(sizes.max()),
        bias=float(signed.median()),
        intervals=len(intervals),
        covered=int(covered.sum()),
    )


def largest_errors(cells: pd.DataFrame, count: int) -> tuple[LargestError, ...]:
    """The largest errors of every quantity, the largest first.

    Args:
        cells: With the columns of ``LargestError``; the last two may be missing.
        count: How many of each quantity.
    """
    if cells.empty:
        return ()
    names = list(LargestError.__dataclass_fields__)
    worst = cells[cells["error"].notna()].sort_values("error", key=lambda e: -e.astype(float).abs(), kind="stable")
    order = {quantity: place for place, quantity in enumerate(cells["quantity"].unique())}
    worst = worst.groupby("quantity").head(count).sort_values("quantity", key=lambda q: q.map(order), kind="stable")
    rows = worst.reindex(columns=names).astype(object).where(worst.reindex(columns=names).notna(), None)
    return tuple(LargestError(**row) for row in rows.to_dict("records"))
