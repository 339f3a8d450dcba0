"""Budgets: what is understood, what is refused, and that printing and parsing agree."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.errors import EXIT_BAD_INPUT, BudgetError
from advisor.core.units import (
    counted,
    format_bytes,
    format_count,
    format_duration,
    parse_duration_s,
    parse_memory_bytes,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GiB", 8 * 2**30),
        ("8 GiB", 8 * 2**30),
        ("8gib", 8 * 2**30),
        ("8GB", 8_000_000_000),
        ("800MB", 800_000_000),
        ("0.5 GiB", 2**29),
        (".5GiB", 2**29),
        ("1B", 1),
        ("2TiB", 2 * 2**40),
    ],
)
def test_memory_budgets_are_understood(text: str, expected: int) -> None:
    assert parse_memory_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8", "GiB", "0GiB", "-8GiB", "8 GiBs", "8G", "0.1B", "8GiB 2GiB", "1e3GiB", "nan GiB"]
)
def test_memory_budgets_without_meaning_are_refused(text: str) -> None:
    with pytest.raises(BudgetError) as refused:
        parse_memory_bytes(text)
    assert repr(text) in refused.value.message
    assert refused.value.fix is not None
    assert refused.value.exit_code == EXIT_BAD_INPUT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", 7200),
        ("90min", 5400),
        ("45s", 45),
        ("1h30min", 5400),
        ("1 h 30 min", 5400),
        ("0.5h", 1800),
        ("1d", 86400),
    ],
)
def test_time_budgets_are_understood(text: str, expected: float) -> None:
    assert parse_duration_s(text) == expected


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-1h", "2 parsecs", "1h-30min", "half an hour", "0h0min"])
def test_time_budgets_without_meaning_are_refused(text: str) -> None:
    with pytest.raises(BudgetError) as refused:
        parse_duration_s(text)
    assert repr(text) in refused.value.message


@given(st.integers(min_value=1, max_value=2**50))
def test_whole_bytes_survive(value: int) -> None:
    assert parse_memory_bytes(f"{value}B") == value
    assert parse_memory_bytes(f"{value} KiB") == value * 1024


@given(st.integers(min_value=1, max_value=2**50))
def test_printed_bytes_can_be_read_again(value: int) -> None:
    read = parse_memory_bytes(format_bytes(value))
    assert abs(read - value) <= 0.006 * value


@given(st.integers(min_value=1, max_value=10**6), st.integers(min_value=0, max_value=59))
def test_hours_and_minutes_add_up(hours: int, minutes: int) -> None:
    assert parse_duration_s(f"{hours}h{minutes}min") == hours * 3600 + minutes * 60


@given(st.text(max_size=12))
def test_any_text_is_either_a_positive_budget_or_refused(text: str) -> None:
    for parse in (parse_memory_bytes, parse_duration_s):
        with contextlib.suppress(BudgetError):
            assert parse(text) > 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (2.5e-6, "2.5 µs"),
        (0.34, "340 ms"),
        (12.34, "12 s"),
        (3.21, "3.2 s"),
        (245, "4 min 05 s"),
        (7800, "2 h 10 min"),
        (1e8, "3.17 years"),
    ],
)
def test_durations_as_a_person_says_them(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(22_700_000, "22.7M"), (999, "999"), (1_500, "1.5k"), (7_241_732_096, "7.24B")]
)
def test_counts(value: int, expected: str) -> None:
    assert format_count(value) == expected


def test_bytes_keep_three_figures() -> None:
    assert [format_bytes(value) for value in (512, 1536, 150 * 2**20, 1.8 * 2**30)] == [
        "512 B",
        "1.50 KiB",
        "150 MiB",
        "1.80 GiB",
    ]


def test_one_thing_is_no_plural() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 1200)] == ["0 steps", "1 step", "2 steps", "1,200 steps"]
