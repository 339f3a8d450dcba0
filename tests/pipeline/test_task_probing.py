"""What a probe makes of a recommendation, and when none is made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from advisor.core.budget import Budget
from advisor.core.cost import Interval
from advisor.core.linear_probe import ConfusedClasses, DoubtfulRow, LinearProbeReport, ProbeCurvePoint
from advisor.core.metrics import ACCURACY
from advisor.core.recommendation import Recommendation
from advisor.costmodel.quality.evidence import QualityEvidence
from advisor.costmodel.quality.probed import ProbedQuality
from advisor.pipeline.task_probing import PROBE_MOST_S, probe_limit_s, why_not_probed, with_probe
from advisor.strategies import get_strategy
from tests.search.planner_fakes import FakeCostModel, cpu, data_profile, distilbert, plans_of

METHOD = "linear_probe"
GIB = 1 << 30


def report(value: float, **changes: Any) -> LinearProbeReport:
    known = LinearProbeReport(
        metric=ACCURACY, value=value, interval=Interval(value - 0.02, value + 0.02), loss=0.3, chance_loss=0.69,
        chance_value=0.5, curve=(ProbeCurvePoint(100, value - 0.1, 0.5, 0.4), ProbeCurvePoint(800, value, 0.3, 0.2)),
        cross_validated_loss=0.3, regularisation=0.01, pooling="mean", width=8, train_rows=800, eval_rows=200,
        all_train_rows=800, all_eval_rows=200,
    )  # fmt: skip
    return dataclasses.replace(known, **changes)


@pytest.fixture(scope="module")
def recommendation() -> Recommendation:
    methods = ("lora", "head", METHOD)
    return plans_of(distilbert(), FakeCostModel(cpu()), Budget(), data=data_profile(), methods=methods)


def methods_of(answer: Recommendation) -> list[str]:
    return [item.plan.strategy.method for item in answer.ranked]


def test_a_probe_that_nothing_is_expected_to_beat_is_recommended(recommendation: Recommendation) -> None:
    assert methods_of(recommendation)[0] == "lora", "before anything is known of the task"
    answer = with_probe(recommendation, report(0.97))
    assert methods_of(answer)[0] == METHOD
    assert answer.best.predicted.quality.value == 0.97
    assert answer.best.predicted.quality.basis == answer.best.predicted.quality.evidence == "measured"
    assert answer.probe.value == 0.97
    assert any("it is recommended" in line for line in answer.advice)


def test_a_weak_probe_leaves_the_order_and_shows_its_curve(recommendation: Recommendation) -> None:
    answer = with_probe(recommendation, report(0.55))
    assert methods_of(answer)[0] == "lora" and methods_of(answer).index(METHOD) > 0
    assert "0.450 at 100, 0.550 at 800" in answer.advice[0]
    assert "0.530 to 0.570" in answer.advice[0]


def test_methods_that_the_user_asked_for_are_kept(recommendation: Recommendation) -> None:
    asked = dataclasses.replace(recommendation, ranked=recommendation.ranked[:1])
    answer = with_probe(asked, report(0.999))
    assert methods_of(answer) == methods_of(asked)
    assert any("linear_probe is none of them" in line for line in answer.advice)


def test_labels_that_cannot_be_told_from_the_text_are_said_to_be_so(recommendation: Recommendation) -> None:
    confused = (ConfusedClasses("a", "b", 40, 0.4),)
    answer = with_probe(recommendation, report(0.5, loss=0.69, confused=confused))
    assert "can hardly be told from this text" in answer.advice[1]
    assert "a taken for b in 40 rows (40%)" in answer.advice[1]


def test_likely_wrong_labels_are_named(recommendation: Recommendation) -> None:
    row = DoubtfulRow(7, "good", "bad", 0.99, "a dull film")
    answer = with_probe(recommendation, report(0.9, doubtful_rows=1, doubtful=(row,)))
    assert "row 7 ('a dull film') is good, the probe says bad (0.99)" in answer.advice[1]


def test_a_partial_probe_or_another_pooling_is_not_passed_off_as_measured(recommendation: Recommendation) -> None:
    model, data = distilbert(), data_profile()
    config = get_strategy(METHOD).default_config(model)
    partial = ProbedQuality(report(0.9, train_rows=80)).estimate(model, config, data, min_quality=0.9)
    assert partial.evidence == "extrapolated" and "from 80 of 800" in partial.reason
    assert partial.p_at_least == pytest.approx(0.5)
    other = ProbedQuality(report(0.9)).estimate(model, config.replaced(pooling="own"), data)
    assert other.basis == "prior"
    assert ProbedQuality(report(0.9), evidence=QualityEvidence()).caution(model, config) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"here": False}, "another machine"),
        ({"limit_s": 1.0}, "too short"),
        ({"weights_bytes": 20 * GIB}, "loading"),
        ({"free_bytes": GIB - 1}, "free or allowed"),
    ],
)
def test_no_probe_is_made_where_it_would_cost_too_much(changes: dict[str, Any], words: str) -> None:
    usual = {"weights_bytes": GIB // 8, "needed_bytes": GIB, "limit_s": 60.0, "free_bytes": GIB, "here": True}
    assert why_not_probed(**usual) is None
    refusal = why_not_probed(**(usual | changes))
    assert refusal is not None and words in refusal


def test_a_probe_takes_a_tenth_of_the_time_and_never_more_than_a_minute() -> None:
    assert probe_limit_s(Budget()) == PROBE_MOST_S == 60
    assert probe_limit_s(Budget(time_s=120)) == pytest.approx(12)
    assert probe_limit_s(Budget(time_s=36_000)) == PROBE_MOST_S
