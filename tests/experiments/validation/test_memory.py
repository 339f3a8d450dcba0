"""Errors, coverage and verdicts, on figures that can be checked by hand."""

from __future__ import annotations

import pytest

from advisor.experiments.validation.memory import compare_memory as compare
from tests.experiments.validation.records import MIB, predicted, record


def completed(key: str, promised_mib: int, measured_mib: int, **fields: object) -> object:
    return record(key, promised=predicted(promised_mib * MIB), allocated_bytes=measured_mib * MIB, **fields)  # type: ignore[arg-type]


def test_errors_are_relative_to_what_was_measured() -> None:
    records = [completed("a", 110, 100), completed("b", 100, 100), completed("c", 99, 100), completed("d", 50, 100)]
    comparison = compare(records, "cpu")
    errors = comparison.groups[0].errors["allocated_bytes"]
    assert (errors.count, errors.worst, errors.covered) == (4, 0.5, 1)  # 99 ± 1 % ends below 100
    assert errors.median == pytest.approx((0.01 + 0.10) / 2)
    assert errors.p90 == 0.5
    assert errors.mape == pytest.approx((0.10 + 0.0 + 0.01 + 0.50) / 4)
    assert errors.coverage == 1 / 4
    assert errors.bias == pytest.approx(-0.005)
    assert [worst.label for worst in comparison.worst][:2] == ["case d", "case a"]


def test_the_p90_of_ten_is_the_ninth() -> None:
    records = [completed(str(i), 100 + i, 100) for i in range(1, 11)]
    assert compare(records, "cpu").groups[0].errors["allocated_bytes"].p90 == pytest.approx(0.09)


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
    groups = {(group.by, group.value): group.count for group in compare(records, "cpu").groups}
    assert groups["all", "all"] == 2
    assert groups["method", "full"] == groups["size", "10M-100M"] == groups["size", "above 5B"] == 1
    assert groups["attention", "sdpa"] == 2
    assert groups["optimizer", "adamw_torch_fused"] == groups["optimizer", "sgd"] == 1
    assert groups["precision", "float32"] == groups["precision", "float32 + bf16 amp"] == 1
    assert groups["checkpointing", "on"] == groups["checkpointing", "off"] == 1
    assert "reserved_bytes" not in compare(records, "cpu").groups[0].errors


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
    fits = compare(records, "cpu").fits
    assert (fits.fitted_and_ran, fits.refused_and_out_of_memory) == (18, 1)
    assert (fits.violations, fits.false_refusals) == (("case v",), ("case false",))
    assert fits.false_refusal_share == pytest.approx(1 / 19)
    passed = {bound.name: bound.passed for bound in compare(records, "cpu").thresholds}
    assert passed["fits but ran out of memory"] is False
    assert passed["false refusals"] is False
    assert compare(records, "cpu").outcomes["completed"] == 19


def test_the_thresholds_are_those_of_the_device() -> None:
    records = [completed("a", 1000, 1001), completed("b", 1020, 1000)]
    assert {bound.name: bound.passed for bound in compare(records, "cpu").thresholds}["allocated_bytes worst"] is False
    passed = {bound.name: bound.passed for bound in compare(records, "cuda").thresholds}
    assert passed["allocated_bytes median"] is False
    assert passed["allocated_bytes worst"] is True
    assert passed["reserved_bytes median"] is None


def test_nothing_measured_is_no_verdict() -> None:
    comparison = compare([], "cuda")
    assert not comparison.groups
    assert {bound.passed for bound in comparison.thresholds} == {None}
