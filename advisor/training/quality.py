"""How well a model answers held-out items: what scikit-learn does not have, and bootstrap intervals of every metric.

Functions take columns of predictions, one entry per item (``advisor.core.metrics``). Those named ``resampled_...`` take
how often each item was drawn, shape (samples, items), before the columns, and return one figure per sample; with every
item drawn once it is the figure itself.
"""

from __future__ import annotations

import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advisor.core.metrics import Metric, perplexity

Array: TypeAlias = NDArray[Any]

BINS = 15
"""Equally wide bins of confidence (Guo et al. 2017, arXiv:1706.04599, section 5)."""
LEVEL = 0.95
"""Of an interval."""
SAMPLES = 1000
"""Bootstrap samples of an interval, unless there are very many items."""
LEAST_SAMPLES = 100
DRAWS = 20_000_000
"""Items drawn for all samples together; so large a draw takes about a second."""
CHUNK_DRAWS = 2_000_000
"""Drawn at a time, so that the counts take 16 MB."""
SLOW_S = 2.0
"""Time for a metric without a function for many samples at once."""

# --- of items ---------------------------------------------------------------------------------------------------------


def one_against_rest(label: Array, probability: Array) -> Iterator[tuple[Array, Array]]:
    """Per class that some items have and others do not: which have it, and their scores; of two classes one of them.

    Args:
        label: Class indices, or 0 and 1 per class.
        probability: Shape (items, classes).

    Raises:
        ValueError: there is no such class.
    """
    if label.ndim == 1 and probability.shape[1] == 2:
        questions = [(label == 1, probability[:, 1])]
    else:
        has = label == 1 if label.ndim == 2 else label[:, None] == np.arange(probability.shape[1])
        questions = [(has[:, index], probability[:, index]) for index in range(probability.shape[1])]
    answerable = [(has, score) for has, score in questions if has.any() and not has.all()]
    if not answerable:
        raise ValueError("all items are of one class")
    yield from answerable


def roc_auc(label: Array, probability: Array) -> float:
    """Area under the ROC curve; of more than two classes the mean of one class against the rest."""
    from sklearn.metrics import roc_auc_score

    return float(np.mean([roc_auc_score(has, score) for has, score in one_against_rest(label, probability)]))


def average_precision(label: Array, probability: Array) -> float:
    """Area under precision over recall; of more than two classes the mean of one class against the rest."""
    from sklearn.metrics import average_precision_score

    return float(np.mean([average_precision_score(has, score) for has, score in one_against_rest(label, probability)]))


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative logarithm of the probability of the right class, in nats."""
    from sklearn.metrics import log_loss as of_items

    exact = probability.astype(np.float64)
    return float(of_items(label, exact / exact.sum(axis=1, keepdims=True), labels=range(probability.shape[1])))


def squared_errors(label: Array, probability: Array) -> Array:
    """Per item: the sum over classes of squared errors of the probabilities; of two classes half of it, the usual Brier
    score of the second one.
    """
    right = label if label.ndim == 2 else label[:, None] == np.arange(probability.shape[1])
    total = np.square(probability.astype(np.float64) - right).sum(axis=1)
    return total / 2 if probability.shape[1] == 2 else total


def brier_score(label: Array, probability: Array) -> float:
    """Mean squared error of the probabilities (Brier 1950)."""
    return float(squared_errors(label, probability).mean())


def confidence_bins(label: Array, probability: Array) -> tuple[Array, Array, Array]:
    """Per item: its bin of confidence, from 0 to ``BINS`` - 1; the probability of the predicted class; whether it is
    right.
    """
    confidence = probability.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # bins are open below, closed above
    return bins, confidence, probability.argmax(axis=1) == label


def calibration_error(label: Array, probability: Array) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy over bins (Guo et al. 2017, eq. 3)."""
    return float(resampled_calibration_error(np.ones((1, len(label))), label, probability)[0])


def perplexity_of_tokens(nll: Array, tokens: Array) -> float:
    """``exp`` of the mean negative log-likelihood per token: items weigh as many tokens as they have."""
    return perplexity(share(nll, tokens))


def bits_per_byte(nll: Array, number_of_bytes: Array) -> float:
    """Negative log-likelihood in bits per byte of text: comparable between tokenizers."""
    return share(nll, number_of_bytes) / math.log(2)


def share(part: Array, whole: Array) -> float:
    """Sum over sum."""
    total = float(np.sum(whole))
    if total <= 0:
        raise ValueError("there is nothing to divide by")
    return float(np.sum(part, dtype=np.float64)) / total


def mean(scores: Array) -> float:
    """Mean of the scores that are numbers.

    Raises:
        ValueError: there is none.
    """
    known = np.asarray(scores, dtype=np.float64)
    if np.isnan(known).all():
        raise ValueError("no item has a score")
    return float(np.nanmean(known))


def share_above(first: Array, second: Array) -> float:
    """Share of items whose first number is higher than the second."""
    return float((first > second).mean())


def mean_difference(first: Array, second: Array) -> float:
    """Mean of the first numbers minus the second ones."""
    return float((first - second).mean())


def pearson(label: Array, predicted: Array) -> float:
    """Correlation of numbers.

    Raises:
        ValueError: one side is constant.
    """
    if np.ptp(label) == 0 or np.ptp(predicted) == 0:
        raise ValueError("a constant correlates with nothing")
    return float(np.clip(np.corrcoef(label, predicted)[0, 1], -1.0, 1.0))


def spearman(label: Array, predicted: Array) -> float:
    """Correlation of ranks, tied ones at their mean.

    Raises:
        ValueError: one side is constant.
    """
    from scipy.stats import rankdata

    return pearson(rankdata(label), rankdata(predicted))


def f1_of_counts(hits: Array, true: Array, said: Array) -> float:
    """Twice what is right over what there is and what is said; 0 where there is nothing."""
    both = float(np.sum(true) + np.sum(said))
    return 2 * float(np.sum(hits)) / both if both else 0.0


# --- of many bootstrap samples at once --------------------------------------------------------------------------------


def resampled_accuracy(counts: Array, label: Array, predicted: Array) -> Array:
    """Share of drawn items that are right, with all of their labels where there are several."""
    right = label == predicted
    return counts @ (right.all(axis=1) if right.ndim == 2 else right) / counts.sum(axis=1)


def _by_class(counts: Array, label: Array, predicted: Array) -> tuple[Array, Array, Array]:
    """Per sample and class: items that are right, that have the label, that are predicted so."""
    if label.ndim == 2:
        return counts @ (label & predicted), counts @ label, counts @ predicted
    classes = int(max(label.max(), predicted.max())) + 1

    def counted(values: Array, mask: Array | None = None) -> Array:
        kept = counts if mask is None else counts * mask
        return np.stack([np.bincount(values, weights=row, minlength=classes) for row in kept])

    return counted(label, label == predicted), counted(label), counted(predicted)


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _mean(values: Array, where: Array) -> Array:
    return np.sum(values * where, axis=1) / np.maximum(where.sum(axis=1), 1)


def resampled_balanced_accuracy(counts: Array, label: Array, predicted: Array) -> Array:
    """Mean recall over the classes that were drawn."""
    right, true, _ = _by_class(counts, label, predicted)
    return _mean(_ratio(right, true), true > 0)


def resampled_precision_macro(counts: Array, label: Array, predicted: Array) -> Array:
    """Mean precision over the classes that were drawn or predicted."""
    right, true, said = _by_class(counts, label, predicted)
    return _mean(_ratio(right, said), true + said > 0)


def resampled_recall_macro(counts: Array, label: Array, predicted: Array) -> Array:
    """Mean recall over the classes that were drawn or predicted."""
    right, true, said = _by_class(counts, label, predicted)
    return _mean(_ratio(right, true), true + said > 0)


def resampled_f1_macro(counts: Array, label: Array, predicted: Array) -> Array:
    """Mean F1 over the classes that were drawn or predicted."""
    right, true, said = _by_class(counts, label, predicted)
    return _mean(_ratio(2 * right, true + said), true + said > 0)


def resampled_f1_micro(counts: Array, label: Array, predicted: Array) -> Array:
    """F1 over all labels together."""
    right, true, said = (part.sum(axis=1) for part in _by_class(counts, label, predicted))
    return _ratio(2 * right, true + said)


def resampled_rmse(counts: Array, label: Array, predicted: Array) -> Array:
    """Root of the mean squared error."""
    return np.sqrt(counts @ np.square(label - predicted) / counts.sum(axis=1))


def resampled_mae(counts: Array, label: Array, predicted: Array) -> Array:
    """Mean absolute error."""
    return counts @ np.abs(label - predicted) / counts.sum(axis=1)


def resampled_f1_weighted(counts: Array, label: Array, predicted: Array) -> Array:
    """Mean F1, each class weighted by its drawn items."""
    right, true, said = _by_class(counts, label, predicted)
    return np.sum(_ratio(2 * right, true + said) * true, axis=1) / true.sum(axis=1)


def resampled_mcc(counts: Array, label: Array, predicted: Array) -> Array:
    """Gorodkin's correlation of K classes (2004, doi:10.1016/j.compbiolchem.2004.09.006)."""
    right, true, said = _by_class(counts, label, predicted)
    total = true.sum(axis=1)
    covariance = right.sum(axis=1) * total - (true * said).sum(axis=1)
    spread = (total**2 - (said**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0)))


def _drawn_by_score(counts: Array, has: Array, score: Array) -> tuple[Array, Array]:
    """How often items with and without the class were drawn, per sample and distinct score, the highest first."""
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn = counts[:, order]
    positive = np.add.reduceat(drawn * has[order], starts, axis=1)
    return positive, np.add.reduceat(drawn, starts, axis=1) - positive


def resampled_roc_auc(counts: Array, label: Array, probability: Array) -> Array:
    """Pairs in the right order over all pairs, ties half (Mann and Whitney 1947)."""

    def area(has: Array, score: Array) -> Array:
        positive, negative = _drawn_by_score(counts, has, score)
        above = np.cumsum(positive, axis=1) - positive / 2
        return _undefined(np.sum(negative * above, axis=1), positive.sum(axis=1) * negative.sum(axis=1))

    return _over_questions(area, label, probability)


def resampled_average_precision(counts: Array, label: Array, probability: Array) -> Array:
    """Precision at every distinct score, weighted by the recall that it adds."""

    def area(has: Array, score: Array) -> Array:
        positive, negative = _drawn_by_score(counts, has, score)
        found = np.cumsum(positive, axis=1)
        precision = _ratio(found, found + np.cumsum(negative, axis=1))
        return _undefined(np.sum(precision * positive, axis=1), positive.sum(axis=1))

    return _over_questions(area, label, probability)


def _undefined(part: Array, whole: Array) -> Array:
    """NaN where a sample has no item of a kind."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _over_questions(area: Callable[[Array, Array], Array], label: Array, probability: Array) -> Array:
    areas = np.stack([area(has, score) for has, score in one_against_rest(label, probability)])
    known = ~np.isnan(areas)
    return _undefined(np.where(known, areas, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))


def resampled_log_loss(counts: Array, label: Array, probability: Array) -> Array:
    """As ``log_loss``; scikit-learn clips probabilities at the resolution of float64, too."""
    smallest = float(np.finfo(np.float64).eps)
    exact = probability.astype(np.float64)
    right = np.take_along_axis(exact / exact.sum(axis=1, keepdims=True), label[:, None], axis=1)[:, 0]
    return counts @ -np.log(np.clip(right, smallest, 1 - smallest)) / counts.sum(axis=1)


def resampled_brier_score(counts: Array, label: Array, probability: Array) -> Array:
    """As ``brier_score``."""
    return counts @ squared_errors(label, probability) / counts.sum(axis=1)


def resampled_calibration_error(counts: Array, label: Array, probability: Array) -> Array:
    """Per bin the distance of confidence and accuracy, weighted by its drawn items."""
    bins, confidence, right = confidence_bins(label, probability)
    gaps = (right - confidence)[:, None] * (bins[:, None] == np.arange(BINS))
    return np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)


def resampled_f1_of_counts(counts: Array, hits: Array, true: Array, said: Array) -> Array:
    """As ``f1_of_counts``."""
    return _ratio(2 * (counts @ hits), counts @ (true + said))


def resampled_mean(counts: Array, scores: Array) -> Array:
    """As ``mean``; NaN where a sample has no item with a score."""
    known = ~np.isnan(scores)
    return _undefined(counts @ np.where(known, scores, 0.0), counts @ known.astype(np.float64))


def resampled_share(counts: Array, part: Array, whole: Array) -> Array:
    """Sum over sum of the drawn items."""
    return (counts @ part) / (counts @ whole)


def resampled_share_above(counts: Array, first: Array, second: Array) -> Array:
    """``share_above`` of every sample."""
    return _ratio(counts @ (first > second).astype(np.float64), counts.sum(axis=1))


def resampled_mean_difference(counts: Array, first: Array, second: Array) -> Array:
    """``mean_difference`` of every sample."""
    return _ratio(counts @ (first - second).astype(np.float64), counts.sum(axis=1))


def resampled_perplexity(counts: Array, nll: Array, tokens: Array) -> Array:
    """As ``perplexity_of_tokens``."""
    return np.array([perplexity(mean) for mean in resampled_share(counts, nll, tokens)])


def resampled_bits_per_byte(counts: Array, nll: Array, number_of_bytes: Array) -> Array:
    """As ``bits_per_byte``."""
    return resampled_share(counts, nll, number_of_bytes) / math.log(2)


# --- intervals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BootstrapInterval:
    """Between which figures a metric lies when items are drawn anew.

    Attributes:
        low, high: Percentiles of the samples, so that ``LEVEL`` of them lie between.
        samples: How many there were.
    """

    low: float
    high: float
    samples: int


def draws(items: int, samples: int, seed: int) -> Iterator[Array]:
    """How often each item is drawn in bootstrap samples (Efron 1979), shape (samples, items), in chunks."""
    draw = np.random.default_rng(seed)
    at_once = max(1, CHUNK_DRAWS // items)
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        picked = draw.integers(items, size=(rows, items)) + items * np.arange(rows)[:, None]
        yield np.bincount(picked.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


def bootstrap_intervals(
    metrics: tuple[Metric, ...], columns: Mapping[str, Array], *, seed: int = 0
) -> dict[str, BootstrapInterval]:
    """Intervals of metrics over items, all from the same samples; by name of the metric.

    A metric is left out where there are fewer than two items or most samples do not define it. One without a function
    for many samples at once gets as many as ``SLOW_S`` seconds allow, and none if these are too few.
    """
    known = [metric for metric in metrics if metric.is_in(columns)]
    items = len(columns[known[0].takes[0]]) if known else 0
    if items < 2:
        return {}
    samples = max(LEAST_SAMPLES, min(SAMPLES, DRAWS // items))
    found: dict[str, list[Array]] = {metric.name: [] for metric in known}
    spent_s = dict.fromkeys(found, 0.0)
    for counts in draws(items, samples, seed):
        for metric in known:
            if metric.resampled is not None:
                found[metric.name].append(resampled_figures(metric, columns, counts))
                continue
            for row in counts.astype(np.int64):
                if spent_s[metric.name] > SLOW_S:
                    break
                started_s = time.perf_counter()
                found[metric.name].append(np.array([_one_sample(metric, columns, row)]))
                spent_s[metric.name] += time.perf_counter() - started_s
    intervals = {}
    for name, parts in found.items():
        figures = np.concatenate(parts)
        figures = figures[np.isfinite(figures)]
        if len(figures) >= LEAST_SAMPLES:
            low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            intervals[name] = BootstrapInterval(float(low), float(high), len(figures))
    return intervals


def resampled_figures(metric: Metric, columns: Mapping[str, Array], counts: Array) -> Array:
    """A metric of bootstrap samples, NaN where it is not defined: the same ``counts`` pair the figures of several runs.

    Args:
        metric: With a function.
        columns: Of the predictions.
        counts: How often each item was drawn, shape (samples, items).
    """
    if metric.resampled is None:
        return np.array([_one_sample(metric, columns, row) for row in counts.astype(np.int64)])
    try:
        found: Array = pkgutil.resolve_name(metric.resampled)(counts, *(columns[name] for name in metric.takes))
    except ValueError:
        return np.full(len(counts), np.nan)
    return found


def _one_sample(metric: Metric, columns: Mapping[str, Array], counts: Array) -> float:
    """NaN where the sample does not define the metric."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    try:
        return metric.compute({name: columns[name][drawn] for name in metric.takes})
    except ValueError:
        return math.nan
