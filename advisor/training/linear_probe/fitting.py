"""A logistic regression on frozen features, its strength chosen by cross-validation, and what it shows of the task."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.cost import Interval
from advisor.core.errors import DataError
from advisor.core.linear_probe import ConfusedClasses, DoubtfulRow, LinearProbeReport, ProbeCurvePoint
from advisor.core.metrics import ACCURACY
from advisor.core.stats import share_interval
from advisor.training.linear_probe.features import FrozenFeatures

Scores = NDArray[np.float64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths ``C`` that cross-validation chooses from; features have zero mean and unit variance."""
FOLDS, FEW_ROWS, FOLDS_OF_FEW = 3, 2000, 5
"""Parts of cross-validation; more where there are fewer rows than that."""
MOST_VALIDATED_ROWS = 20_000
"""Cross-validation looks at the first so many rows: the choice of a strength does not need more."""
MOST_ITERATIONS = 300
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)
"""Of the training rows, at which the learning curve is measured."""
DOUBTFUL = 0.95
"""Cross-validated probability of another class from which a label counts as doubtful."""
NEAR_DUPLICATE = 0.98
"""Cosine of centred features from which two rows count as nearly the same."""
COMPARED_ROWS = (2000, 20_000)
"""Held-out and training rows that are compared with each other for that."""
SHOWN = 10
"""Doubtful rows and confused pairs that a report lists."""
SLOWER = 1.5
"""How long a point of the learning curve takes at most, against all before it together."""
_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class LinearHead:
    """Scores of classes as a linear function of features.

    Attributes:
        weight: float32, shape (classes, width).
        bias: float32, shape (classes,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def scores(self, features: NDArray[np.float32]) -> Scores:
        """Of features of shape (rows, width): shape (rows, classes)."""
        return np.asarray(features, dtype=np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def probabilities(self, features: NDArray[np.float32]) -> Scores:
        """The same as probabilities."""
        return softmax(self.scores(features))


@dataclass(frozen=True)
class FittedProbe:
    """A head for new rows, and what it shows of the task.

    Attributes:
        head: Fitted to all training rows that were looked at.
        report: For people, and for a model of quality.
        probabilities: Of the held-out rows, shape (rows, classes), in their order.
    """

    head: LinearHead
    report: LinearProbeReport
    probabilities: Scores


def fit_probe(features: FrozenFeatures, limit_s: float | None = None) -> FittedProbe:
    """Fit a head at every point of the learning curve, and look at the task through it.

    Args:
        features: Of the rows that were looked at.
        limit_s: Leave out the points that would probably end later than so many seconds from now; the first is always
            fitted. The report is then about fewer rows.

    Raises:
        DataError: the rows that were looked at have fewer than two classes, or none is held out.
    """
    began_s = time.perf_counter()
    classes = len(features.label_names)
    if len(np.unique(features.train_labels)) < 2 or not len(features.eval_labels):
        raise DataError(
            "a linear probe needs held-out rows and training rows of two classes, but the"
            f" {len(features.train_labels)} training rows that were looked at have"
            f" {len(np.unique(features.train_labels))} and {len(features.eval_labels)} rows are held out",
            fix="give it more rows, or more time",
        )
    held_out = np.asarray(features.evaluation)
    curve: list[ProbeCurvePoint] = []
    chosen = _Chosen.empty()
    probabilities = np.empty((0, classes))
    for rows in _curve_rows(features.train_labels):
        spent_s = time.perf_counter() - began_s
        # A point has twice the rows of the one before, and so takes about as long as all before it, and more.
        if curve and limit_s is not None and SLOWER * spent_s > limit_s - spent_s:
            features = features.first(curve[-1].train_rows)
            break
        train, labels = np.asarray(features.train[:rows]), features.train_labels[:rows]
        chosen = choose_strength(train, labels, classes)
        head = fit_head(train, labels, classes, chosen.strength)
        probabilities = head.probabilities(held_out)
        value = float((probabilities.argmax(axis=1) == features.eval_labels).mean())
        loss, train_loss = mean_loss(probabilities, features.eval_labels), mean_loss(head.probabilities(train), labels)
        curve.append(ProbeCurvePoint(rows, value, loss, train_loss))
    report = _report(features, curve, chosen, probabilities, time.perf_counter() - began_s)
    return FittedProbe(head, report, probabilities)


# --- fitting --------------------------------------------------------------------------------------------------------


def fit_head(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    strength: float,
    *,
    bias: bool = True,
    balanced: bool = False,
) -> LinearHead:
    """A logistic regression in terms of the features as they are.

    Args:
        features: Shape (rows, width).
        labels: Class indices; classes that do not occur get a score far below the others.
        classes: How many there are.
        strength: ``C``, for features with zero mean and unit variance.
        bias: Without one, features are not centred either.
        balanced: Weigh classes by their inverse frequency.
    """
    mean = features.mean(axis=0) if bias else np.zeros(features.shape[1], np.float32)
    scale = _scale(features)
    model = _regression(strength, bias, balanced).fit((features - mean) / scale, labels)
    weight, offset = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if not bias:
        offset = np.zeros(len(weight))
    if len(weight) == 1:  # two classes: one row of weights, for the second
        weight, offset = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-offset / 2, offset / 2])
    weight = weight / scale
    whole = np.zeros((classes, features.shape[1]), np.float32)
    offsets = np.full(classes, math.log(_LEAST_PROBABILITY), np.float32)
    whole[model.classes_], offsets[model.classes_] = weight, offset - weight @ mean.astype(np.float64)
    return LinearHead(whole, offsets if bias else np.zeros(classes, np.float32))


@dataclass(frozen=True)
class _Chosen:
    """A strength, and how rows were scored with it by probes that did not see them.

    Attributes:
        strength: The one with the smallest loss.
        loss: Of the rows that cross-validation looked at.
        probabilities: Of these rows, shape (rows, classes).
    """

    strength: float
    loss: float
    probabilities: Scores

    @classmethod
    def empty(cls) -> _Chosen:
        return cls(1.0, math.inf, np.empty((0, 0)))


def choose_strength(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, *, balanced: bool = False
) -> _Chosen:
    """The strength with the smallest cross-validated loss; stops where stronger fits only get worse. The loss counts
    every row once, also where fits are ``balanced``.
    """
    features, labels = features[:MOST_VALIDATED_ROWS], labels[:MOST_VALIDATED_ROWS]
    parts = _parts(labels)
    scaled = (features - features.mean(axis=0)) / _scale(features)
    best = _Chosen.empty()
    for strength in STRENGTHS:
        found = np.full((len(labels), classes), _LEAST_PROBABILITY)
        for part in range(parts.max() + 1):
            inside = parts == part
            if len(np.unique(labels[~inside])) < 2:
                found[inside] = 1 / classes
                continue
            model = _regression(strength, balanced=balanced).fit(scaled[~inside], labels[~inside])
            found[np.ix_(inside, model.classes_)] = model.predict_proba(scaled[inside])
        found /= found.sum(axis=1, keepdims=True)
        loss = mean_loss(found, labels)
        if loss > best.loss:
            break
        best = _Chosen(strength, loss, found)
    return best


def _parts(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which part of cross-validation a row is in: every class is dealt out evenly, in the order of the rows."""
    folds = FOLDS if len(labels) >= FEW_ROWS else FOLDS_OF_FEW
    order = np.argsort(labels, kind="stable")
    parts = np.empty(len(labels), dtype=np.int64)
    parts[order] = np.arange(len(labels)) % folds
    return parts


def _regression(strength: float, bias: bool = True, balanced: bool = False) -> _Quiet:
    return _Quiet(strength, bias, balanced)


class _Quiet:
    """scikit-learn's logistic regression; that it did not converge to the last digit is no news to anybody."""

    def __init__(self, strength: float, bias: bool, balanced: bool) -> None:
        from sklearn.linear_model import LogisticRegression

        weights = "balanced" if balanced else None
        self._model = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS, fit_intercept=bias, class_weight=weights)

    def fit(self, features: NDArray[Any], labels: NDArray[np.int64]) -> _Quiet:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(features, labels)
        self.coef_, self.intercept_, self.classes_ = self._model.coef_, self._model.intercept_, self._model.classes_
        return self

    def predict_proba(self, features: NDArray[np.float32]) -> Scores:
        found: Scores = self._model.predict_proba(features)
        return found


def _scale(features: NDArray[np.float32]) -> NDArray[np.float32]:
    deviation = features.std(axis=0)
    return np.where(deviation > 0, deviation, 1).astype(np.float32)


def _curve_rows(labels: NDArray[np.int64]) -> list[int]:
    """Sizes of the learning curve at which there are two classes, and a few rows of each on average."""
    classes = len(np.unique(labels))
    sizes = [max(1, round(fraction * len(labels))) for fraction in FRACTIONS]
    usable = [rows for rows in sizes if rows >= 4 * classes and len(np.unique(labels[:rows])) == classes]
    return sorted({*usable, len(labels)})


def softmax(scores: Scores) -> Scores:
    """Probabilities of scores of shape (rows, classes)."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Scores = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def mean_loss(probabilities: Scores, labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood in nats."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, _LEAST_PROBABILITY)).mean())


# --- the task, seen through the head --------------------------------------------------------------------------------


def _report(
    features: FrozenFeatures,
    curve: list[ProbeCurvePoint],
    chosen: _Chosen,
    probabilities: Scores,
    fitting_s: float,
) -> LinearProbeReport:
    names, labels = features.label_names, features.train_labels
    shares = np.bincount(labels, minlength=len(names)) / len(labels)
    predicted = probabilities.argmax(axis=1)
    seen = labels[: len(chosen.probabilities)]
    doubtful = _doubtful_rows(features, chosen.probabilities, seen)
    last = curve[-1]
    return LinearProbeReport(
        metric=ACCURACY,
        value=last.value,
        interval=Interval(*share_interval(last.value, len(predicted))),
        loss=last.loss,
        chance_loss=mean_loss(np.tile(shares, (len(predicted), 1)), features.eval_labels),
        chance_value=float((features.eval_labels == shares.argmax()).mean()),
        curve=tuple(curve),
        cross_validated_loss=chosen.loss,
        regularisation=chosen.strength,
        pooling=features.pooling,
        width=features.train.shape[1],
        train_rows=len(labels),
        eval_rows=len(predicted),
        all_train_rows=features.all_train_rows,
        all_eval_rows=features.all_eval_rows,
        class_shares={name: float(share) for name, share in zip(names, shares, strict=True)},
        class_entropy=_entropy(shares) / math.log(len(names)) if len(names) > 1 else 1.0,
        duplicate_share=features.duplicate_rows / max(1, features.all_train_rows),
        near_duplicate_share=near_duplicates(np.asarray(features.train), np.asarray(features.evaluation)),
        label_noise_share=label_noise(chosen.probabilities, seen),
        doubtful_rows=len(doubtful),
        doubtful=tuple(doubtful[:SHOWN]),
        confused=_confused(predicted, features.eval_labels, names),
        mean_tokens=float(features.lengths.mean()),
        longest_tokens=int(features.lengths.max()),
        truncated_share=float((features.lengths >= features.max_seq_length).mean()),
        max_seq_length=features.max_seq_length,
        features_s=features.seconds,
        fitting_s=fitting_s,
        kept_rows=features.kept_rows,
        model_fingerprint=features.model_fingerprint,
        data_fingerprint=features.data_fingerprint,
    )


def _entropy(shares: Scores) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _confused(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], names: tuple[str, ...]
) -> tuple[ConfusedClasses, ...]:
    wrong = predicted != labels
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    sizes = np.bincount(labels, minlength=len(names))
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(
        ConfusedClasses(names[own], names[other], rows, rows / int(sizes[own]))
        for (own, other), rows in ordered[:SHOWN]
    )


def _doubtful_rows(features: FrozenFeatures, probabilities: Scores, labels: NDArray[np.int64]) -> list[DoubtfulRow]:
    likely, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    found = np.flatnonzero((likely != labels) & (sure >= DOUBTFUL))
    names = features.label_names
    return [
        DoubtfulRow(int(row), names[labels[row]], names[likely[row]], float(sure[row]), features.texts[row])
        for row in found[np.argsort(-sure[found], kind="stable")]
    ]


def label_noise(probabilities: Scores, labels: NDArray[np.int64]) -> float:
    """Share of rows that confident learning counts under another class (Northcutt et al. 2021, "confident joint").

    A row counts under the likeliest of the classes whose cross-validated probability is at least the mean over the
    rows labelled so.

    Args:
        probabilities: Cross-validated, shape (rows, classes).
        labels: As the data has them.
    """
    classes = probabilities.shape[1]
    own = [probabilities[labels == index, index] for index in range(classes)]
    means = [column.mean() if len(column) else 1.0 for column in own]
    confident = np.where(probabilities >= np.array(means), probabilities, -1.0)
    counted = confident.max(axis=1) >= 0
    return float((counted & (confident.argmax(axis=1) != labels)).mean()) if len(labels) else 0.0


def near_duplicates(train: NDArray[np.float32], evaluation: NDArray[np.float32]) -> float:
    """Share of held-out rows with a training row whose features have a cosine of at least ``NEAR_DUPLICATE``."""
    held_out, known = evaluation[: COMPARED_ROWS[0]], train[: COMPARED_ROWS[1]]
    mean = known.mean(axis=0)
    left, right = _unit(held_out - mean), _unit(known - mean)
    alike = sum(int(((part @ right.T).max(axis=1) >= NEAR_DUPLICATE).sum()) for part in _split(left))
    return alike / max(1, len(held_out))


def _split(rows: NDArray[np.float32], size: int = 256) -> list[NDArray[np.float32]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found
