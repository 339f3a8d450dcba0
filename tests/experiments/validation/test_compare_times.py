"""Errors of step times, the machine's noise beside them, and the thresholds that follow from both."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.experiments.error_statistics import ErrorRow
from advisor.experiments.validation.compare import TimeComparison, compare_times, row_of
from advisor.experiments.validation.records import Record
from tests.experiments.validation.records import record, timed


def judged(comparison: TimeComparison) -> dict[str, tuple[float | None, bool | None]]:
    return {bound.name: (bound.value, bound.passed) for bound in comparison.thresholds}


def row(comparison: TimeComparison, by: str = "all", value: str = "all") -> ErrorRow:
    found = row_of(comparison.errors, by, value)
    assert found is not None
    return found


def many(error: float, count: int = 200, *, half_width: float = 0.2) -> list[Record]:
    """Cases of ever longer steps, all predicted too long by the same share."""
    return [timed(f"m{i}", 1.2**i, 1.2**i * (1 + error), rows=i + 1, half_width=half_width) for i in range(count)]


def test_only_timed_cases_that_ended_count_and_each_once() -> None:
    records = [
        timed("a", 1.0, 1.1),
        timed("a again", 1.0, 1.1, again=1),
        timed("seen", 1.0, 9.0, seen=True, rows=3),
        dataclasses.replace(timed("oom", 1.0, 9.0), outcome="out_of_memory"),
        dataclasses.replace(timed("memory only", 1.0, 9.0), repeats=0),
        record("refused", outcome="refused"),
        dataclasses.replace(timed("no prediction", 1.0), predicted=None),
    ]
    found = compare_times(records, "cpu")
    assert (found.cases, found.seen) == (1, 1)
    assert row(found).count == 1
    assert row(found).p50 == pytest.approx(0.1)
    assert [step.label for step in found.worst] == ["case a"]


def test_predictions_of_two_calibrations_are_told_apart() -> None:
    first, second = timed("a", 1.0, 1.1), timed("b", 1.0, 1.1, rows=3)
    assert second.predicted is not None
    later = dataclasses.replace(second, predicted=dataclasses.replace(second.predicted, calibration="2026-02-02"))
    assert compare_times([first, second], "cpu").predictors == 1
    assert compare_times([first, later], "cpu").predictors == 2


def test_nothing_gives_no_verdict() -> None:
    found = compare_times([], "cpu")
    assert found.errors == ()
    assert {passed for _, passed in judged(found).values()} == {None}
    few = compare_times(many(0.5, 10), "cpu")
    assert judged(few)["step time p50"][1] is None
    assert "10 cases; a verdict needs 60" in few.thresholds[0].note


def test_the_median_of_the_repeats_counts() -> None:
    found = compare_times([timed("a", (1.0, 1.0, 1.0, 9.0, 9.0), 1.0)], "cpu")
    assert row(found).max == 0


def test_groups_by_method_model_tokens_and_every_switch() -> None:
    records = [
        timed("a", 1.0, 1.1, method="full"),
        timed("b", 1.0, 1.3, execution={"amp": "bf16", "gradient_checkpointing": True, "attn_implementation": "eager"}),
        timed("c", 1.0, 0.5, model="minilm-l6", rows=1, execution={"gradient_accumulation_steps": 4, "optim": "sgd"}),
        timed("d", 1.0, 1.0, execution={"dtype": "bfloat16", "amp": "none"}),
    ]
    groups = {(row.by, row.value): dataclasses.replace(row, value="") for row in compare_times(records, "cpu").errors}
    assert groups["method", "full"].max == pytest.approx(0.1)
    assert groups["method", "lora"].count == 3
    assert groups["model", "minilm-l6"].bias == pytest.approx(-0.5)
    assert groups["tokens", "up to 128"].count == 1
    assert groups["tokens", "up to 1024"].count == 3
    assert groups["switch", "amp bf16"] == groups["switch", "checkpointing"] == groups["switch", "eager"]
    assert groups["switch", "accumulation"] == groups["switch", "sgd"]
    assert groups["switch", "bfloat16"].count == 1
    assert groups["switch", "none"].count == 1


def test_pairs_that_differ_by_more_than_15_percent_should_keep_their_order() -> None:
    records = [timed("a", 1.0, 1.0), timed("b", 1.1, 0.9), timed("c", 1.3, 0.95), timed("d", 2.0, 3.0)]
    found = compare_times(records, "cpu")
    # a-b is too close to count; a-c is wrong; b-c, a-d, b-d and c-d are right.
    assert (found.pairs, found.pairs_in_order) == (5, 4)
    assert judged(found)["pairs in the right order"] == (0.8, None)
    ties = compare_times([timed("a", 1.0, 1.0), timed("b", 2.0, 1.0)], "cpu")
    assert (ties.pairs, ties.pairs_in_order) == (1, 0)


def test_the_coverage_is_judged_only_over_enough_intervals() -> None:
    right, wrong = many(0.0, 180), many(0.5, 20)
    mixed = [*right, *[dataclasses.replace(case, key=f"x{case.key}", rows=999) for case in wrong]]
    found = compare_times(mixed, "cpu")
    assert (row(found).intervals, row(found).covered, row(found).coverage) == (200, 180, 0.9)
    assert judged(found)["coverage of the 90 % intervals"] == (0.9, True)
    assert judged(compare_times(right, "cpu"))["coverage of the 90 % intervals"] == (1.0, None)
    assert judged(compare_times(many(0.0), "cpu"))["coverage of the 90 % intervals"] == (
        1.0,
        False,
    )  # too wide is wrong too
    without = compare_times([timed("a", 1.0, 1.0, half_width=None)], "cpu")
    assert (row(without).intervals, row(without).coverage) == (0, None)


@pytest.mark.parametrize(("error", "passed"), [(0.05, True), (-0.07, True), (0.09, False), (0.25, False)])
def test_the_median_threshold(error: float, passed: bool) -> None:
    found = judged(compare_times(many(error), "cpu"))
    assert found["step time p50"] == (pytest.approx(abs(error)), passed)
    assert found["step time p90"][1] is (abs(error) <= 0.2)
    assert found["pairs in the right order"] == (1.0, True)


def test_the_thresholds_follow_the_repeat_noise_where_it_is_larger() -> None:
    cases = many(0.12)
    twice = [
        dataclasses.replace(case, key=f"again {case.key}", again=1, measured=timed("", 1.1 * case.step_s).measured)
        for case in cases[:6]
        if case.step_s
    ]
    noisy = compare_times([*cases, *twice], "cpu")
    noise = row(noisy, "noise", "measured twice")
    assert (noise.count, noise.p50) == (6, pytest.approx(1 - 1 / 1.1))
    assert noisy.thresholds[0].high == pytest.approx(1.5 * (1 - 1 / 1.1))
    assert noisy.thresholds[0].passed
    assert "repeat noise" in noisy.thresholds[0].note
    assert noisy.thresholds[1].high == 0.2  # 1.5 x 9 % is below it
    quiet = compare_times(cases, "cpu")
    assert (quiet.thresholds[0].high, quiet.thresholds[0].passed) == (0.08, False)
    assert compare_times([*cases, *twice], "cuda").thresholds[0].high == 0.05
    assert compare_times([*cases, *twice[:5]], "cpu").thresholds[0].high == 0.08  # too few to move a bound


def test_second_measurements_find_their_first_by_configuration() -> None:
    first = timed("a", 1.0, execution={"amp": "bf16"}, knobs={"rank": 4})
    alike = dataclasses.replace(first, key="b", again=1, measured=timed("", 1.25).measured)
    other = dataclasses.replace(alike, key="c", knobs={"rank": 8})
    noise = row(compare_times([first, alike, other], "cpu"), "noise", "measured twice")
    assert (noise.count, noise.bias) == (1, pytest.approx(-0.2))


def test_the_spread_of_a_cases_own_repeats() -> None:
    found = compare_times([timed("a", (0.9, 1.0, 1.0, 1.0, 1.1)), timed("b", (1.0, 2.0, 1.0))], "cpu")
    noise = row(found, "noise", "repeats of one case")
    assert (noise.count, noise.p50) == (1, pytest.approx(0.05))  # three repeats tell no spread


def test_the_reference_tells_slow_moments_apart() -> None:
    cases = [timed(f"s{i}", 1.0, 1.02, rows=i + 1, reference_s=(0.06, 0.05)) for i in range(9)]
    slow = timed("slow", 2.0, 1.0, rows=99, reference_s=(0.12, 0.10))
    found = compare_times([*cases, slow], "cpu")
    drift = row(found, "noise", "reference workload")
    # Before and after each have their own median, so that all but one took as long as usual.
    assert (drift.count, drift.p50, drift.max) == (10, pytest.approx(0.0), pytest.approx(1.0))
    assert found.reference_s == 0.05
    (steady,) = (row for row in found.errors if row.by == "steady")
    assert (steady.count, steady.max) == (9, pytest.approx(0.02))
    assert row(found).max == pytest.approx(0.5)
    assert found.worst[0].reference_ratio == pytest.approx(2.0)


def test_a_reference_after_the_steps_alone_is_enough_and_none_is_none() -> None:
    after_only = compare_times([timed(key, 1.0, reference_s=(0.5,)) for key in "ab"], "cpu")
    assert row(after_only, "noise", "reference workload").max == 0.0
    without = compare_times([timed("a", 1.0)], "cpu")
    assert without.reference_s is None
    assert not [found for found in without.errors if found.by == "steady" or found.value == "reference workload"]
