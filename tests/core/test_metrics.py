"""A metric says which way is better, how it is written and what computes it; records hold its name."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import pytest

from advisor.core.cost import QualityEstimate
from advisor.core.errors import InputError
from advisor.core.metrics import ACCURACY, F1_MACRO, LABEL, LOSS, METRICS, PERPLEXITY, PREDICTED, Metric, get_metric
from advisor.core.serialization import from_dict, to_json
from tests.core.records import cost_estimate


def test_every_metric_is_found_by_its_name() -> None:
    assert {"accuracy", "f1_macro", "perplexity", "eval_loss"} <= set(METRICS.names())
    for metric in METRICS.all():
        assert get_metric(metric.name) is metric
        assert metric.low < metric.high


def test_a_name_that_nobody_has_is_refused_with_near_ones() -> None:
    with pytest.raises(InputError, match="no metric 'acuracy'") as refused:
        get_metric("acuracy")
    assert "accuracy" in str(refused.value.fix)


def test_a_higher_score_is_better_in_either_direction() -> None:
    assert ACCURACY.score(0.9) > ACCURACY.score(0.8)
    assert PERPLEXITY.score(12.0) > PERPLEXITY.score(13.0)


def test_figures_and_differences_in_words() -> None:
    assert (ACCURACY.show(0.81234), ACCURACY.show_difference(-0.02)) == ("0.812", "-2.0 points")
    assert (PERPLEXITY.show(12.3456), PERPLEXITY.show_difference(0.25)) == ("12.35", "+0.25")


def test_a_figure_is_found_under_the_trainers_name_or_follows_from_the_loss() -> None:
    assert ACCURACY.measured({"eval_accuracy": 0.5}) == 0.5
    assert ACCURACY.measured({"eval_loss": 1.0}) is None
    assert PERPLEXITY.measured({"eval_loss": 1.0}) == pytest.approx(math.e)
    assert PERPLEXITY.measured({"perplexity": 3.0, "eval_loss": 1.0}) == 3.0
    assert LOSS.measured({"loss": 0.5}) == 0.5
    assert math.isfinite(PERPLEXITY.measured({"eval_loss": 5000.0}) or math.nan)


@pytest.mark.parametrize("metric", [m for m in METRICS.all() if m.from_loss is not None], ids=lambda m: m.name)
def test_loss_and_figure_are_each_others_inverse(metric: Metric) -> None:
    assert metric.from_loss is not None and metric.to_loss is not None
    assert metric.to_loss(metric.from_loss(1.5)) == pytest.approx(1.5)


def test_scikit_learn_computes_what_is_made_of_classes() -> None:
    items = {LABEL: [0, 0, 1, 1, 2], PREDICTED: [0, 1, 1, 1, 0]}
    assert ACCURACY.compute(items) == pytest.approx(3 / 5)
    # F1 of the classes: 2 * 1 / (2 + 2), 2 * 2 / (2 + 3), 0.
    assert F1_MACRO.compute(items) == pytest.approx((0.5 + 0.8 + 0.0) / 3)
    with pytest.raises(ValueError, match="eval_loss has none"):
        LOSS.compute(items)


def test_records_hold_the_name_and_read_the_metric() -> None:
    quality = cost_estimate().quality
    assert quality is not None
    text = to_json(quality)
    assert json.loads(text)["metric"] == "accuracy"
    assert from_dict(QualityEstimate, json.loads(text), what="the quality") == quality
    assert pickle.loads(pickle.dumps(quality)).metric is ACCURACY


def test_a_record_with_an_unknown_metric_is_refused() -> None:
    quality = cost_estimate().quality
    assert quality is not None
    values = {**json.loads(to_json(dataclasses.replace(quality))), "metric": "kappa"}
    with pytest.raises(InputError) as refused:
        from_dict(QualityEstimate, values, what="the quality")
    assert "no metric 'kappa'" in refused.value.problems[0]
