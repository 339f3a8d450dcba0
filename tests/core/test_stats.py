"""Quantiles of Student's t."""

from __future__ import annotations

import pytest

from advisor.core.stats import NORMAL_95, student_t_cdf, student_t_quantile, t_quantile_95


def test_student_t_against_tabulated_values():
    """Abramowitz & Stegun, table 26.10."""
    for freedom, quantile in ((1, 6.314), (2, 2.920), (5, 2.015), (9, 1.833), (30, 1.697)):
        assert student_t_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-4)
        assert student_t_cdf(quantile, freedom) == pytest.approx(0.95, abs=1e-4)
    assert student_t_cdf(-1.0, 4) == pytest.approx(1 - student_t_cdf(1.0, 4))


def test_a_single_difference_counts_as_two_and_many_as_normal():
    assert t_quantile_95(0) == t_quantile_95(1) == t_quantile_95(2) == pytest.approx(2.920, abs=5e-4)
    assert t_quantile_95(10) == pytest.approx(1.812, abs=5e-4)
    assert NORMAL_95 < t_quantile_95(200) < 1.01 * NORMAL_95
