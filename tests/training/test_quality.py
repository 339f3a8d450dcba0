"""Every metric against an independent computation, and intervals against what is known of them."""

from __future__ import annotations

import math
import pkgutil

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from advisor.core.metrics import (
    ACCURACY,
    ANSWER_F1,
    CALIBRATION_ERROR,
    CHOSEN_REWARD,
    CLASSIFICATION,
    ENTITIES,
    ENTITIES_SAID,
    ENTITY_HITS,
    EXACT_ANSWER,
    HITS,
    LABEL,
    LABEL_SETS,
    METRICS,
    NLL_SUM,
    NUMBERS,
    PERPLEXITY,
    PREDICTED,
    PROBABILITY,
    REJECTED_REWARD,
    ROUGE_SCORES,
    TOKEN_ACCURACY,
    TOKENS,
    Metric,
)
from advisor.training.quality import (
    bootstrap_intervals,
    calibration_error,
    draws,
    one_against_rest,
    perplexity_of_tokens,
    roc_auc,
)


def classified(classes: int, items: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    """Items of a classifier that is right more often than not; scores have ties."""
    draw = np.random.default_rng(seed)
    label = draw.integers(classes, size=items)
    scores = draw.normal(size=(items, classes)).round(1)
    scores[np.arange(items), label] += 1
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return {LABEL: label, PREDICTED: probability.argmax(1), PROBABILITY: probability}


def language(items: int = 60) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 40, size=items)
    return {
        NLL_SUM: draw.gamma(2.0, 1.0, items) * tokens,
        TOKENS: tokens,
        HITS: draw.integers(0, tokens + 1),
        "bytes": tokens * 4,
    }


def tagged(items: int = 60) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    entities, said = draw.integers(0, 5, size=items), draw.integers(0, 5, size=items)
    return {ENTITIES: entities, ENTITIES_SAID: said, ENTITY_HITS: draw.integers(0, np.minimum(entities, said) + 1)}


def written(items: int) -> dict[str, np.ndarray]:
    """Scores of texts, of which the last third was not written."""
    draw = np.random.default_rng(2)
    scores = {name: draw.random(items) for name in (*ROUGE_SCORES, EXACT_ANSWER, ANSWER_F1)}
    for column in scores.values():
        column[2 * items // 3 :] = np.nan
    return scores


def preferred(items: int) -> dict[str, np.ndarray]:
    """Log-ratios of two answers; some are equal."""
    draw = np.random.default_rng(3)
    return {name: draw.normal(size=items).round(1) for name in (CHOSEN_REWARD, REJECTED_REWARD)}


BUILT_IN = [metric for metric in METRICS.all() if metric.resampled is not None]


@pytest.mark.parametrize("metric", BUILT_IN, ids=lambda metric: metric.name)
@pytest.mark.parametrize("classes", [2, 5])
def test_vectorised_samples_agree_with_the_metric_of_the_drawn_items(metric: Metric, classes: int) -> None:
    """scikit-learn on the very items that were drawn, one sample at a time."""
    columns = {**classified(classes), **language(300), **tagged(300), **written(300), **preferred(300)}
    counts = next(draws(300, 8, seed=3))
    assert counts.shape == (8, 300) and (counts.sum(1) == 300).all()
    assert metric.resampled is not None
    many = pkgutil.resolve_name(metric.resampled)(counts, *(columns[name] for name in metric.takes))
    drawn = [np.repeat(np.arange(300), row.astype(int)) for row in counts]
    one_by_one = [metric.compute({name: columns[name][rows] for name in metric.takes}) for rows in drawn]
    assert many == pytest.approx(one_by_one, rel=1e-9)


def test_accuracy_f1_and_correlation_by_hand() -> None:
    """Two classes, ten items: 4 true positives, 1 false positive, 2 false negatives, 3 true negatives."""
    label = np.array([1] * 6 + [0] * 4)
    predicted = np.array([1] * 4 + [0] * 2 + [1] + [0] * 3)
    figures = {m.name: m.compute({LABEL: label, PREDICTED: predicted}) for m in CLASSIFICATION if PREDICTED in m.takes}
    f1 = (8 / 11, 6 / 9)
    assert figures == pytest.approx(
        {
            "accuracy": 0.7,
            "balanced_accuracy": (4 / 6 + 3 / 4) / 2,
            "f1_macro": sum(f1) / 2,
            "f1_weighted": 0.6 * f1[0] + 0.4 * f1[1],
            "precision_macro": (4 / 5 + 3 / 5) / 2,
            "recall_macro": (4 / 6 + 3 / 4) / 2,
            "mcc": (4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5),
        }
    )


def test_area_under_roc_is_the_share_of_pairs_in_order() -> None:
    label, score = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8, 0.05])
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label == 1] for n in score[label == 0]]
    assert roc_auc(label, np.stack([1 - score, score], 1)) == pytest.approx(np.mean(pairs))


def test_several_classes_are_asked_one_against_the_rest() -> None:
    columns = classified(4)
    expected = sklearn.metrics.roc_auc_score(columns[LABEL], columns[PROBABILITY], multi_class="ovr")
    assert roc_auc(columns[LABEL], columns[PROBABILITY]) == pytest.approx(expected)
    several = np.eye(4, dtype=int)[columns[LABEL]]  # the same as several labels an item
    assert roc_auc(several, columns[PROBABILITY]) == pytest.approx(expected)


def test_probabilities_are_scored_as_scikit_learn_does() -> None:
    two, many = classified(2), classified(3)
    log_loss, brier = (METRICS.get(name) for name in ("log_loss", "brier_score"))
    assert log_loss.compute(many) == pytest.approx(sklearn.metrics.log_loss(many[LABEL], many[PROBABILITY]))
    assert brier.compute(two) == pytest.approx(sklearn.metrics.brier_score_loss(two[LABEL], two[PROBABILITY][:, 1]))
    right = np.eye(3)[many[LABEL]]
    pairs = zip(many[PROBABILITY], right, strict=True)
    by_hand = [sum((said[k] - is_it[k]) ** 2 for k in range(3)) for said, is_it in pairs]
    assert brier.compute(many) == pytest.approx(sum(by_hand) / len(by_hand))


def test_calibration_error_by_hand_and_by_loops() -> None:
    """Three items said with 0.9, two of them right; one said with 0.6 and right: (3 * |2/3 - 0.9| + |1 - 0.6|) / 4."""
    probability = np.array([[0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    assert calibration_error(np.array([1, 0, 0, 0]), probability) == pytest.approx((3 * abs(2 / 3 - 0.9) + 0.4) / 4)
    columns = classified(5)
    confidence, right = columns[PROBABILITY].max(1), columns[PREDICTED] == columns[LABEL]
    total = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    assert CALIBRATION_ERROR.compute(columns) == pytest.approx(total / len(right))


def test_perplexity_weighs_tokens() -> None:
    """A row of 1 token at 4 nats and one of 3 tokens at 2 nats altogether: exp(6 / 4), not exp((4 + 2 / 3) / 2)."""
    assert perplexity_of_tokens(np.array([4.0, 2.0]), np.array([1, 3])) == pytest.approx(math.exp(1.5))
    assert TOKEN_ACCURACY.compute({HITS: np.array([1, 1]), TOKENS: np.array([1, 3])}) == 0.5


def test_one_class_has_no_curve_and_is_left_out() -> None:
    columns = {LABEL: np.ones(5, int), PREDICTED: np.ones(5, int), PROBABILITY: np.full((5, 2), 0.5)}
    with pytest.raises(ValueError, match="one class"):
        list(one_against_rest(columns[LABEL], columns[PROBABILITY]))
    with pytest.raises(ValueError, match="one class"):
        METRICS.get("roc_auc").compute(columns)


def test_the_interval_of_accuracy_is_the_binomial_one() -> None:
    label = np.zeros(400, int)
    predicted = (np.arange(400) < 80).astype(int)
    found = bootstrap_intervals((ACCURACY,), {LABEL: label, PREDICTED: predicted})[ACCURACY.name]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert found.samples == 1000
    assert (found.low, found.high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.006)
    assert bootstrap_intervals((ACCURACY,), {LABEL: label, PREDICTED: predicted})[ACCURACY.name] == found
    assert bootstrap_intervals((ACCURACY,), {LABEL: label[:1], PREDICTED: predicted[:1]}) == {}


def test_an_interval_over_rows_is_wider_where_they_are_few() -> None:
    found = [bootstrap_intervals((PERPLEXITY,), language(items))["perplexity"] for items in (20, 2000)]
    widths = [math.log(interval.high / interval.low) for interval in found]
    assert widths[0] > 5 * widths[1]


def test_a_metric_of_another_package_gets_an_interval_too() -> None:
    slow = Metric("distance", "d", higher_is_better=False, function="sklearn.metrics:mean_absolute_error")
    columns = classified(5)
    found = bootstrap_intervals((slow,), columns)["distance"]
    assert found.low < slow.compute(columns) < found.high


def several(items: int = 300) -> dict[str, np.ndarray]:
    """Items with any number of three labels."""
    draw = np.random.default_rng(1)
    label = draw.integers(0, 2, size=(items, 3))
    probability = np.clip(0.5 * label + draw.random((items, 3)) * 0.7, 0, 1)
    return {LABEL: label, PREDICTED: (probability >= 0.5).astype(int), PROBABILITY: probability}


@pytest.mark.parametrize("metric", LABEL_SETS, ids=lambda metric: metric.name)
def test_samples_of_several_labels_agree_with_the_metric_of_the_drawn_items(metric: Metric) -> None:
    columns, counts = several(), next(draws(300, 4, seed=3))
    many = pkgutil.resolve_name(metric.resampled or "")(counts, *(columns[name] for name in metric.takes))
    drawn = [np.repeat(np.arange(300), row.astype(int)) for row in counts]
    assert many == pytest.approx([metric.compute({n: columns[n][rows] for n in metric.takes}) for rows in drawn])


def test_several_labels_and_numbers_by_hand() -> None:
    """Labels right 3, said 4, true 5 in 3 rows of which one is all right; numbers 1, 2, 4 said as 1, 3, 3."""
    columns = {
        LABEL: np.array([[1, 1, 0], [1, 0, 1], [0, 0, 1]]),
        PREDICTED: np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
    }
    assert METRICS.get("f1_micro").compute(columns) == pytest.approx(2 * 3 / (4 + 5))
    assert METRICS.get("subset_accuracy").compute(columns) == pytest.approx(2 / 3)
    numbers = {LABEL: np.array([1.0, 2.0, 4.0]), PREDICTED: np.array([1.0, 3.0, 3.0])}
    figures = {metric.name: metric.compute(numbers) for metric in NUMBERS}
    assert figures == pytest.approx(
        {
            "rmse": math.sqrt(2 / 3),
            "mae": 2 / 3,
            "pearson": scipy.stats.pearsonr(*numbers.values()).statistic,
            "spearman": scipy.stats.spearmanr(*numbers.values()).statistic,
            "r2": 1 - 2 / (16 / 9 + 1 / 9 + 25 / 9),
        }
    )
    assert METRICS.get("rmse").to_loss is not None and METRICS.get("rmse").measured({"eval_loss": 4.0}) == 2.0
    with pytest.raises(ValueError, match="constant"):
        METRICS.get("spearman").compute({LABEL: np.ones(3), PREDICTED: np.arange(3.0)})
