"""Errors of step times, the machine's noise beside them, and the thresholds that follow from both."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.experiments.error_statistics import ErrorStatistics
from advisor.experiments.validation.records import Record
from advisor.experiments.validation.times import TimeComparison, compare_times, machine_drift, repeat_noise
from tests.experiments.validation.records import MIB, predicted, record, timed


def judged(comparison: TimeComparison) -> dict[str, tuple[float | None, bool | None]]:
    return {bound.name: (bound.value, bound.passed) for bound in comparison.thresholds}


def errors_of(comparison: TimeComparison) -> ErrorStatistics:
    assert comparison.errors is not None
    return comparison.errors


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
    assert errors_of(found).count == 1
    assert errors_of(found).median == pytest.approx(0.1)
    assert [step.label for step in found.worst] == ["case a"]


def test_predictions_of_two_calibrations_are_told_apart() -> None:
    first, second = timed("a", 1.0, 1.1), timed("b", 1.0, 1.1, rows=3)
    assert second.predicted is not None
    later = dataclasses.replace(second, predicted=dataclasses.replace(second.predicted, calibration="2026-02-02"))
    assert compare_times([first, second], "cpu").predictors == 1
    assert compare_times([first, later], "cpu").predictors == 2


def test_nothing_gives_no_verdict() -> None:
    found = compare_times([], "cpu")
    assert found.groups == ()
    assert {passed for _, passed in judged(found).values()} == {None}
    few = compare_times(many(0.5, 10), "cpu")
    assert judged(few)["step time median"][1] is None
    assert "10 cases; a verdict needs 60" in few.thresholds[0].note


def test_the_median_of_the_repeats_counts() -> None:
    found = compare_times([timed("a", (1.0, 1.0, 1.0, 9.0, 9.0), 1.0)], "cpu")
    assert errors_of(found).worst == 0


def test_groups_by_method_model_tokens_and_every_switch() -> None:
    records = [
        timed("a", 1.0, 1.1, method="full"),
        timed("b", 1.0, 1.3, execution={"amp": "bf16", "gradient_checkpointing": True, "attn_implementation": "eager"}),
        timed("c", 1.0, 0.5, model="minilm-l6", rows=1, execution={"gradient_accumulation_steps": 4, "optim": "sgd"}),
        timed("d", 1.0, 1.0, execution={"dtype": "bfloat16", "amp": "none"}),
    ]
    groups = {(group.by, group.value): group.errors["step_s"] for group in compare_times(records, "cpu").groups}
    assert groups["method", "full"].worst == pytest.approx(0.1)
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
    order = compare_times(records, "cpu").order
    # a-b is too close to count; a-c is wrong; b-c, a-d, b-d and c-d are right.
    assert (order.pairs, order.right, order.share) == (5, 4, 0.8)
    ties = compare_times([timed("a", 1.0, 1.0), timed("b", 2.0, 1.0)], "cpu").order
    assert (ties.pairs, ties.right) == (1, 0)


def test_the_coverage_is_judged_only_over_enough_intervals() -> None:
    right, wrong = many(0.0, 180), many(0.5, 20)
    mixed = [*right, *[dataclasses.replace(case, key=f"x{case.key}", rows=999) for case in wrong]]
    found = compare_times(mixed, "cpu")
    assert (errors_of(found).intervals, errors_of(found).covered, errors_of(found).coverage) == (200, 180, 0.9)
    assert judged(found)["coverage of the 90 % intervals"] == (0.9, True)
    assert judged(compare_times(right, "cpu"))["coverage of the 90 % intervals"] == (1.0, None)
    assert judged(compare_times(many(0.0), "cpu"))["coverage of the 90 % intervals"] == (
        1.0,
        False,
    )  # too wide is wrong too
    without = compare_times([timed("a", 1.0, 1.0, half_width=None)], "cpu")
    assert (errors_of(without).intervals, errors_of(without).coverage) == (0, None)


@pytest.mark.parametrize(("error", "passed"), [(0.05, True), (-0.07, True), (0.09, False), (0.25, False)])
def test_the_median_threshold(error: float, passed: bool) -> None:
    found = judged(compare_times(many(error), "cpu"))
    assert found["step time median"] == (pytest.approx(abs(error)), passed)
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
    assert noisy.noise.pairs == 6
    assert noisy.noise.between is not None
    assert noisy.noise.between.median == pytest.approx(1 - 1 / 1.1)
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
    noise = repeat_noise([first, alike, other])
    assert noise.pairs == 1
    assert noise.between is not None
    assert noise.between.bias == pytest.approx(-0.2)


def test_the_spread_of_a_cases_own_repeats() -> None:
    noise = repeat_noise([timed("a", (0.9, 1.0, 1.0, 1.0, 1.1)), timed("b", (1.0, 2.0, 1.0))])
    assert noise.cases == 1  # three repeats tell no spread
    assert noise.within_median == pytest.approx(0.05)


def test_the_reference_tells_slow_moments_apart() -> None:
    cases = [timed(f"s{i}", 1.0, 1.02, rows=i + 1, reference_s=(0.06, 0.05)) for i in range(9)]
    slow = timed("slow", 2.0, 1.0, rows=99, reference_s=(0.12, 0.10))
    found = compare_times([*cases, slow], "cpu")
    assert found.drift.count == 10
    assert found.drift.median_s == 0.05
    assert found.drift.ratios["slow"] == pytest.approx(2.0)
    assert found.drift.ratios["s0"] == pytest.approx(1.0)  # before and after each have their own median
    assert found.steady is not None
    assert found.steady.count == 9
    assert found.steady.worst == pytest.approx(0.02)
    assert errors_of(found).worst == pytest.approx(0.5)
    assert found.worst[0].reference_ratio == pytest.approx(2.0)


def test_without_a_reference_there_is_no_drift_to_speak_of() -> None:
    drift = machine_drift([timed("a", 1.0), record("b", promised=predicted(MIB))])
    assert (drift.count, drift.median_s, drift.deviation) == (0, None, None)
    after_only = machine_drift([timed("a", 1.0, reference_s=(0.5,)), timed("b", 1.0, reference_s=(0.5,))])
    assert after_only.ratios == {"a": 1.0, "b": 1.0}
