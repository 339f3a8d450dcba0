"""Errors, coverage and verdicts of memory, on figures that can be checked by hand."""

from __future__ import annotations

import pytest

from advisor.experiments.validation.compare import MemoryComparison, compare_memory, row_of
from advisor.experiments.validation.records import Record
from tests.experiments.validation.records import MIB, predicted, record


def completed(key: str, promised_mib: int, measured_mib: int, **fields: object) -> Record:
    return record(key, promised=predicted(promised_mib * MIB), allocated_bytes=measured_mib * MIB, **fields)  # type: ignore[arg-type]


def passed(comparison: MemoryComparison) -> dict[str, bool | None]:
    return {bound.name: bound.passed for bound in comparison.thresholds}


def test_errors_are_relative_to_what_was_measured() -> None:
    records = [completed("a", 110, 100), completed("b", 100, 100), completed("c", 99, 100), completed("d", 50, 100)]
    comparison = compare_memory(records, "cpu")
    errors = row_of(comparison.errors, quantity="allocated_bytes")
    assert errors is not None
    assert (errors.count, errors.max, errors.p90) == (4, 0.5, 0.5)
    assert errors.p50 == pytest.approx((0.01 + 0.10) / 2)
    assert errors.mape == pytest.approx((0.10 + 0.0 + 0.01 + 0.50) / 4)
    assert errors.bias == pytest.approx(-0.005)
    assert (errors.covered, errors.coverage) == (1, 1 / 4)  # 99 ± 1 % ends below 100
    assert [worst.label for worst in comparison.worst][:2] == ["case d", "case a"]


def test_the_p90_of_ten_is_the_ninth() -> None:
    errors = row_of(
        compare_memory([completed(str(i), 100 + i, 100) for i in range(1, 11)], "cpu").errors,
        quantity="allocated_bytes",
    )
    assert errors is not None
    assert errors.p90 == pytest.approx(0.09)


def test_groups_share_a_value_and_missing_figures_are_missing() -> None:
    records = [
        completed("a", 100, 100, method="full", total_parameters=10**7),
        completed(
            "b",
            100,
            100,
            method="lora",
            total_parameters=8 * 10**9,
            gradient_checkpointing=True,
            optim="sgd",
            amp="bf16",
        ),
    ]
    errors = compare_memory(records, "cpu").errors
    groups = {(row.by, row.value): row.count for row in errors}
    assert groups["all", "all"] == 2
    assert groups["method", "full"] == groups["size", "10M-100M"] == groups["size", "above 5B"] == 1
    assert groups["attention", "sdpa"] == 2
    assert groups["optimizer", "adamw_torch_fused"] == groups["optimizer", "sgd"] == 1
    assert groups["precision", "float32"] == groups["precision", "float32 + bf16 amp"] == 1
    assert groups["checkpointing", "on"] == groups["checkpointing", "off"] == 1
    assert {row.quantity for row in errors} == {"allocated_bytes"}


def test_out_of_memory_is_compared_with_fits() -> None:
    small, large = predicted(MIB), predicted(9 * 2**30, fits=False)
    records = [
        *(record(f"r{i}", promised=small, allocated_bytes=MIB) for i in range(18)),
        record("v", promised=small, outcome="out_of_memory"),
        record("right", promised=large, outcome="out_of_memory"),
        record("false", promised=large, allocated_bytes=MIB),
        record("unpredicted", outcome="refused"),
        record("broken", promised=small, outcome="failed"),
    ]
    comparison = compare_memory(records, "cpu")
    counts = {name: len(labels) for name, labels in comparison.fits.items()}
    assert counts == {
        "fitted_and_ran": 18,
        "refused_and_out_of_memory": 1,
        "fitted_but_out_of_memory": 1,
        "refused_but_ran": 1,
    }
    assert (comparison.fits["fitted_but_out_of_memory"], comparison.fits["refused_but_ran"]) == (
        ("case v",),
        ("case false",),
    )
    figures = {bound.name: bound.value for bound in comparison.thresholds}
    assert figures["false refusals"] == pytest.approx(1 / 19)
    assert passed(comparison)["fits but ran out of memory"] is False
    assert passed(comparison)["false refusals"] is False
    assert comparison.outcomes["completed"] == 19


def test_the_thresholds_are_those_of_the_device() -> None:
    records = [completed("a", 1000, 1001), completed("b", 1020, 1000)]
    assert passed(compare_memory(records, "cpu"))["allocated_bytes max"] is False
    on_a_card = passed(compare_memory(records, "cuda"))
    assert on_a_card["allocated_bytes p50"] is False
    assert on_a_card["allocated_bytes max"] is True
    assert on_a_card["reserved_bytes p50"] is None


def test_nothing_measured_is_no_verdict() -> None:
    comparison = compare_memory([], "cuda")
    assert not comparison.errors
    assert set(passed(comparison).values()) == {None}
