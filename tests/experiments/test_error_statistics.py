"""Errors summed up, on figures that can be checked by hand and against the standard library."""

from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.experiments.error_statistics import (
    ErrorRow,
    error_rows,
    grouped,
    largest_errors,
    relative_spread,
    threshold,
)

SIZES = st.lists(st.floats(-10, 10), min_size=1, max_size=60)


def summed_up(errors: list[float]) -> ErrorRow:
    (row,) = error_rows(pd.DataFrame({"by": "all", "value": "all", "quantity": "step_s", "error": errors}))
    return row


def test_sizes_are_absolute_and_the_bias_is_signed() -> None:
    found = summed_up([-0.3, 0.1, 0.2])
    assert (found.count, found.p50, found.p90, found.max, found.bias) == (3, 0.2, 0.3, 0.3, 0.1)
    assert found.mape == pytest.approx(0.2)
    assert (found.intervals, found.coverage) == (0, None)
    assert error_rows(pd.DataFrame()) == ()


@given(values=SIZES)
def test_a_percentile_is_by_nearest_rank(values: list[float]) -> None:
    """The smallest value that nine in ten do not exceed, in whole numbers."""
    rank = -(-9 * len(values) // 10)
    assert summed_up(values).p90 == sorted(map(abs, values))[rank - 1]


@settings(max_examples=30)
@given(values=SIZES)
def test_median_and_bias_are_those_of_the_standard_library(values: list[float]) -> None:
    found = summed_up(values)
    assert math.isclose(found.p50, statistics.median(map(abs, values)), rel_tol=1e-12, abs_tol=1e-15)
    assert math.isclose(found.bias, statistics.median(values), rel_tol=1e-12, abs_tol=1e-15)


@given(values=st.lists(st.floats(0.1, 10), min_size=4, max_size=40))
def test_the_spread_is_that_of_the_standard_librarys_quartiles(values: list[float]) -> None:
    low, middle, high = statistics.quantiles(values, n=4)
    spread = relative_spread(values)
    assert spread is not None
    assert math.isclose(spread, (high - low) / 2 / middle, rel_tol=1e-9, abs_tol=1e-12)
    assert relative_spread(values[:3]) is None


CELLS = pd.DataFrame(
    [
        ("case a", "step_s", 1.1, 1.0, 0.1, 0.9, 1.2, "large", 9, ["x", "y"]),
        ("case b", "step_s", 0.5, 1.0, -0.5, 0.4, 0.6, "small", 1, ["x"]),
        ("case b", "device_bytes", 3.0, None, None, None, None, "small", 1, ["x"]),
    ],
    columns=[
        *("label", "quantity", "predicted", "measured", "error", "low", "high"),
        *("size", "parameters", "switch"),
    ],
)


def test_groups_come_in_the_given_order_and_a_list_is_several_groups() -> None:
    rows = error_rows(grouped(CELLS, {"size": "parameters", "switch": None}))
    assert [(row.by, row.value, row.count) for row in rows] == [
        *[("all", "all", 2), ("size", "small", 1), ("size", "large", 1)],
        *[("switch", "x", 2), ("switch", "y", 1)],
    ]
    assert {row.quantity for row in rows} == {"step_s"}  # nothing was measured of the other quantity
    assert (rows[0].intervals, rows[0].covered, rows[0].coverage) == (2, 1, 0.5)


def test_the_largest_errors_come_first() -> None:
    assert [(case.label, case.error) for case in largest_errors(CELLS, 5)] == [("case b", -0.5), ("case a", 0.1)]
    (worst,) = largest_errors(CELLS, 1)
    assert (worst.quantity, worst.predicted, worst.measured, worst.spread) == ("step_s", 0.5, 1.0, None)
    assert largest_errors(pd.DataFrame(), 1) == ()


@pytest.mark.parametrize(
    ("value", "low", "high", "missing", "passed"),
    [
        (0.1, None, 0.1, "", True),
        (0.11, None, 0.1, "", False),
        (0.9, 0.85, 0.95, "", True),
        (1.0, 0.85, 0.95, "", False),
        (0.8, 0.85, None, "", False),
        (None, None, 0.1, "", None),
        (0.11, None, 0.1, "too few", None),
    ],
)
def test_a_threshold_is_judged_where_there_is_enough(
    value: float | None, low: float | None, high: float | None, missing: str, passed: bool | None
) -> None:
    found = threshold("figure", value, low=low, high=high, missing=missing, note="a note")
    assert found.passed is passed
    assert found.note == "; ".join(filter(None, ("a note", missing)))
