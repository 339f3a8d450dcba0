"""Quantiles of Student's t, and how far repeats scatter."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from advisor.core.stats import (
    NORMAL_95,
    T_95,
    half_iqr,
    relative_half_iqr,
    robust_relative_sd,
    student_t_quantile,
    t_quantile_95,
)


def test_student_t_against_tabulated_values():
    """Abramowitz & Stegun, table 26.10."""
    for freedom, quantile in ((1, 6.314), (2, 2.920), (5, 2.015), (9, 1.833), (30, 1.697)):
        assert student_t_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-4)
    for p, freedom in ((0.95, 0), (0.4, 3), (1.0, 3)):
        with pytest.raises(ValueError, match="must hold"):
            student_t_quantile(p, freedom)


def test_kept_quantiles_are_those_of_scipy():
    for freedom in (*range(1, len(T_95) + 30), 200, 1000, 10**6):
        assert student_t_quantile(0.95, freedom) == pytest.approx(float(stdtrit(freedom, 0.95)), rel=2e-10)
    assert student_t_quantile(0.9, 7) == float(stdtrit(7, 0.9))


def test_a_single_difference_counts_as_two_and_many_as_normal():
    assert t_quantile_95(0) == t_quantile_95(1) == t_quantile_95(2) == pytest.approx(2.920, abs=5e-4)
    assert t_quantile_95(10) == pytest.approx(1.812, abs=5e-4)
    assert NORMAL_95 < t_quantile_95(200) < 1.01 * NORMAL_95


def test_repeats_scatter_by_their_middle_half():
    samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0]
    assert half_iqr(samples) == 2.0
    assert relative_half_iqr(samples) == 0.5
    assert robust_relative_sd(samples) == pytest.approx(0.5 / 0.6745)
    assert half_iqr([1.0, 2.0, 4.0]) == 1.5, "half the range of so few"
    assert relative_half_iqr([1.0, 2.0, 4.0]) == robust_relative_sd([1.0, 2.0, 4.0]) == 0.75


@given(st.floats(0.5, 2.0), st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_robust_deviation_is_that_of_normal_samples(scale: float, seed: int):
    samples = [10 + scale * value for value in NormalDist().samples(2000, seed=seed)]
    assert robust_relative_sd(samples) == pytest.approx(scale / 10, rel=0.15)
