"""Rungs, climbing, stopping, verdicts: pure arithmetic."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from advisor.core.chance import chance_level
from advisor.core.metrics import ACCURACY, PERPLEXITY, Metric
from advisor.core.run import Measurement
from advisor.core.strategy import StrategyConfig
from advisor.search.study.durations import StudyClock
from advisor.search.study.records import Evaluation, TrialSummary
from advisor.search.study.successive_halving import (
    MIN_SAMPLES,
    RunCost,
    choose_ladder,
    climbers,
    expected_gain,
    floor_of,
    with_known_rungs,
    worth_going_on,
)
from advisor.search.study.trial_history import TrialHistory, pareto_points, verdict_of, winner
from tests.search import study_fakes as fakes

COST = RunCost(4.0, 0.014)


def evaluation(
    rows: int = 100,
    nll: float | None = 0.5,
    metric: float | None = 0.8,
    *,
    memory: float = -0.5,
    peak: int = 100,
    total_s: float = 10.0,
    outcome: str = "completed",
) -> Evaluation:
    return Evaluation(
        rows,
        outcome,
        "",
        nll,
        metric,
        peak,
        total_s,
        total_s,
        {"memory": memory},
        Measurement(outcome),  # type: ignore[arg-type]
    )


def trial(number: int, *evaluations: Evaluation, verdict: str = "completed") -> TrialSummary:
    config = StrategyConfig("lora", 1e-3)
    return TrialSummary(number, {}, config, verdict, "", evaluations=evaluations)  # type: ignore[arg-type]


def ladder(time_s: float, full: int = 8000, floor: int = 640, cost: RunCost | None = COST) -> tuple[int, ...]:
    return choose_ladder(full, floor, cost, time_s, openings=12, race=4)


def test_a_large_budget_gets_the_whole_ladder() -> None:
    assert ladder(1e5) == (800, 2400, 8000)


def test_a_medium_budget_gets_the_lower_rungs_scaled_to_what_the_race_takes() -> None:
    rows = ladder(240)
    assert len(rows) == 2 and rows[0] >= 640 and rows[1] == pytest.approx(3 * rows[0], abs=3)
    assert 4 * COST.seconds(rows[0]) + 3 * COST.seconds(rows[1]) <= 0.65 * 240 + 1


def test_a_hopeless_budget_gets_one_rung_that_is_still_long_enough() -> None:
    assert ladder(20) == (640,)


def test_an_unknown_speed_starts_at_the_shortest_runs_that_say_something() -> None:
    assert ladder(240, cost=None) == (640, 1920, 8000)


def test_sixty_steps_are_the_least() -> None:
    assert (floor_of(32, 3.0), floor_of(32, 1.0), floor_of(8, 3.0)) == (640, 1920, 160)


def test_rungs_move_to_rows_that_were_evaluated() -> None:
    assert with_known_rungs((700, 2100, 8000), {640, 5000, 7900}, 8000) == (640, 2100, 8000)


@example(full=1, floor=1, cost=RunCost(1.0, 5e-324), time_s=1.0)
@example(full=1, floor=1, cost=RunCost(0.0, 5e-324), time_s=1.0)
@example(full=100, floor=1, cost=RunCost(1.0, 0.0), time_s=0.1)
@given(
    st.integers(1, 100_000),
    st.integers(1, 2000),
    st.none() | st.builds(RunCost, st.floats(0, 100), st.floats(0, 1)),
    st.floats(0.1, 1e6),
)
def test_rungs_rise_and_never_exceed_the_rows(full: int, floor: int, cost: RunCost | None, time_s: float) -> None:
    rows = ladder(time_s, full, floor, cost)
    assert rows
    assert list(rows) == sorted(set(rows))
    assert rows[0] >= min(floor, full) and rows[-1] <= full


def test_a_constant_answer_is_at_chance_and_anything_better_is_not() -> None:
    level = chance_level(dataclasses.replace(fakes.PROFILE, class_counts={"no": 600, "yes": 400}), 500)
    assert level is not None and level.loss == pytest.approx(0.673, abs=1e-3)
    assert level.holds(0.673, 0.60) and level.holds(0.70, 0.62) and level.holds(5.0, None)
    assert not level.holds(0.64, 0.60), "the loss shows it"
    assert not level.holds(0.673, 0.66), "the accuracy shows it"
    assert chance_level(dataclasses.replace(fakes.PROFILE, class_counts={}), 500) is None


def test_a_rung_on_which_nothing_left_chance_is_passed_over() -> None:
    ledger = TrialHistory((100, 300, 1000))
    ledger.trials = {0: trial(0, dataclasses.replace(evaluation(100, 0.69, 0.5), at_chance=True), verdict="open")}
    assert (ledger.base_rung, ledger.next_rung(ledger.trials[0])) == (1, 1)
    assert winner(ledger.trials.values(), ACCURACY) is None, "it is no evidence"
    ledger.trials[1] = trial(1, evaluation(100, 0.5, 0.8), verdict="open")
    assert ledger.base_rung == 0
    assert winner(ledger.trials.values(), ACCURACY) is ledger.trials[1]


def test_the_recommended_default_only_gives_way_to_more_than_noise() -> None:
    default = dataclasses.replace(trial(0, evaluation(100, 0.500, 0.800)), origin="recommended")
    assert winner([default, trial(1, evaluation(100, 0.495, 0.801))], ACCURACY) is default
    assert winner([default, better := trial(1, evaluation(100, 0.450, 0.801))], ACCURACY) is better


@given(st.dictionaries(st.integers(0, 50), st.floats(0.01, 5), min_size=1))
def test_climbers_are_the_best_and_never_more_than_twice_as_many(scores: dict[int, float]) -> None:
    chosen = climbers(scores, 0)
    assert min(3, len(scores)) <= len(chosen) <= 6
    worst_chosen = max(scores[number] for number in chosen)
    assert all(score >= worst_chosen for number, score in scores.items() if number not in chosen)


def test_an_overlapping_trial_climbs_and_a_distant_one_does_not() -> None:
    assert climbers({0: 0.40, 1: 0.41, 2: 0.42, 3: 0.43, 4: 0.60}, 0) == {0, 1, 2, 3}


def test_fewer_climb_from_a_higher_rung() -> None:
    scores = {number: 0.4 + 0.2 * number for number in range(6)}
    assert (len(climbers(scores, 0)), len(climbers(scores, 1)), len(climbers(scores, 2))) == (3, 2, 1)


def test_expected_gain_of_one_trial_is_the_normal_formula() -> None:
    sampled = [0.4, 0.6]  # mean 0.5, sd 0.1414
    sd = math.sqrt(0.02)
    z = (0.45 - 0.5) / sd
    exact = (0.45 - 0.5) * 0.5 * math.erfc(-z / math.sqrt(2)) + sd * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert expected_gain(0.45, sampled, 1) == pytest.approx(exact, rel=1e-3)


def test_more_trials_promise_more() -> None:
    sampled = [0.4, 0.5, 0.6]
    gains = [expected_gain(0.35, sampled, count) for count in (1, 10, 100)]
    assert gains == sorted(gains) and gains[0] > 0


def test_a_flat_field_is_not_worth_more_trials_but_a_wide_one_is() -> None:
    flat = [0.5 + 0.001 * (index % 3) for index in range(MIN_SAMPLES)]
    wide = [0.5 + 0.1 * (index % 5) for index in range(MIN_SAMPLES)]
    assert not worth_going_on(0.5, flat, 20)
    assert worth_going_on(0.5, wide, 20)
    assert worth_going_on(0.5, flat[:-1], 20)


@pytest.mark.parametrize(
    ("newest", "verdict"),
    [
        (evaluation(outcome="out_of_memory", nll=None), "out_of_memory"),
        (evaluation(outcome="over_time", nll=None), "over_time"),
        (evaluation(outcome="failed", nll=None), "failed"),
        (evaluation(memory=0.1), "infeasible"),
        (evaluation(nll=None), "pruned"),
        (evaluation(rows=1000), "completed"),
        (evaluation(rows=100), "open"),
    ],
)
def test_verdicts(newest: Evaluation, verdict: str) -> None:
    assert verdict_of((newest,), top_rows=1000)[0] == verdict


def test_the_lowest_rung_climbs_first() -> None:
    ledger = TrialHistory((100, 300, 1000))
    ledger.trials = {
        0: trial(0, evaluation(100, 0.40), evaluation(300, 0.38), verdict="open"),
        1: trial(1, evaluation(100, 0.42), verdict="open"),
        2: trial(2, evaluation(100, 0.41), verdict="open"),
    }
    assert [entry.number for entry in ledger.climbing()] == [2, 1, 0]


def test_the_winner_has_seen_the_most_rows() -> None:
    shallow, deep = trial(0, evaluation(100, 0.2, 0.95)), trial(1, evaluation(1000, 0.5, 0.8))
    assert winner([shallow, deep], ACCURACY) is deep


def test_between_equal_accuracies_the_likelihood_decides() -> None:
    noisy, likely = trial(0, evaluation(100, 0.50, 0.805)), trial(1, evaluation(100, 0.45, 0.80))
    better = trial(2, evaluation(100, 0.60, 0.90))
    assert winner([noisy, likely], ACCURACY) is likely
    assert winner([noisy, likely, better], ACCURACY) is better


def test_of_a_metric_with_unknown_noise_the_best_wins_whichever_way_is_better() -> None:
    distance = Metric("distance", "distance", higher_is_better=False, high=math.inf)
    near, far = trial(0, evaluation(100, 0.50, 0.4)), trial(1, evaluation(100, 0.45, 0.5))
    assert winner([near, far], distance) is near
    assert [point.trial for point in pareto_points([near, far], distance)] == [0]


def test_a_trial_that_broke_a_budget_cannot_win() -> None:
    assert winner([trial(0, evaluation(100, 0.1, 0.99, memory=0.2), verdict="infeasible")], ACCURACY) is None


def test_the_pareto_set_drops_what_is_beaten_everywhere() -> None:
    trials = [
        trial(0, evaluation(metric=0.9, peak=300, total_s=30)),
        trial(1, evaluation(metric=0.8, peak=100, total_s=10)),
        trial(2, evaluation(metric=0.7, peak=200, total_s=20)),
    ]
    assert [point.trial for point in pareto_points(trials, ACCURACY)] == [0, 1]
    assert [point.trial for point in pareto_points(trials, PERPLEXITY)] == [2, 1]


def test_the_clock_corrects_predictions_by_what_runs_took() -> None:
    clock = StudyClock(100.0, now=lambda: 0.0)
    assert clock.expect_s(10.0, 100) == 10.0
    clock.note(10.0, 30.0, 100)
    assert clock.expect_s(20.0, 200) == pytest.approx(60.0)
    assert clock.expect_s(None, 200) == pytest.approx(60.0)
