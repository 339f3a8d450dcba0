"""Held-out metrics: which way is better, how a figure is written, and what computes it.

A figure carries its metric (``QualityEstimate.metric``), so that nobody has to know a metric by its name. Packages add
metrics with entry points in the group ``advisor.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from advisor.core.registry import Registry, SavedByName

LABEL, PREDICTED, PROBABILITY = "label", "predicted", "probability"
"""Columns of predictions: class index, one 0 or 1 per class where there are several labels, or a number; the same as
the model says it; probability per class, shape (items, classes)."""
ENTITY_HITS, ENTITIES, ENTITIES_SAID = "entity_hits", "entities", "entities_said"
"""Columns of tagged texts: entities that are found with their type and both ends, that there are, that are said."""
NLL_SUM, TOKENS, HITS, BYTES = "nll", "tokens", "hits", "bytes"
"""Columns of a language model's predictions, sums over the predicted tokens of an item: negative log-likelihood in
nats, tokens, tokens predicted right, UTF-8 bytes of their text."""
WRITTEN = "written"
"""Column of texts that a model wrote by itself, ``None`` where there was no time for it."""
ROUGE_SCORES = ("rouge1", "rouge2", "rougeL")
EXACT_ANSWER, ANSWER_F1 = "exact_match", "answer_f1"
"""Columns of a score per item between 0 and 1, of such a text beside its references; NaN where it was not written."""

CHOSEN_REWARD, REJECTED_REWARD = "chosen_reward", "rejected_reward"
"""Columns of pairs of answers: by how much the model has raised the log-probability of each over that of the model
before training, times beta (Rafailov et al. 2023, arXiv:2305.18290, section 5)."""

MAX_EXPONENT = 700.0
"""``math.exp`` overflows just above 709; a perplexity of e**700 says "diverged" as well as infinity does, and is
JSON."""


@dataclass(frozen=True, eq=False)
class Metric(SavedByName):
    """What a held-out figure means. There is one object per name; JSON holds the name.

    Attributes:
        name: Key in ``Measurement.metrics``.
        title: How it is called in prose.
        higher_is_better: Which way is better.
        low, high: Smallest and largest value.
        format: Of a figure, as Python's ``format`` takes it.
        function: ``module:name`` of what computes it from columns of the predictions, one value or row per held-out
            item; ``None`` where it only exists as a sum over batches.
        takes: Which columns ``function`` gets, in order (``Task.predictions`` names them).
        options: Further arguments of ``function``.
        resampled: ``module:name`` of what computes it for many bootstrap samples at once: it gets the counts of items,
            shape (samples, items), then the columns, and returns the figures, shape (samples,). ``None``: ``function``
            is called once a sample, which is slow.
        is_share: Whether it is the share of held-out items that are right, so that its sampling error is binomial.
            Published comparisons are of such figures.
        from_loss, to_loss: For a metric that says the same as the held-out loss (nats per item): the figure of a loss,
            and the loss of a figure. Its differences count relative to the figure, as those of a loss do.
    """

    name: str
    title: str
    higher_is_better: bool
    low: float = 0.0
    high: float = 1.0
    format: str = ".3f"
    function: str | None = None
    takes: tuple[str, ...] = (LABEL, PREDICTED)
    options: Mapping[str, Any] = field(default_factory=dict)
    resampled: str | None = None
    is_share: bool = False
    from_loss: Callable[[float], float] | None = None
    to_loss: Callable[[float], float] | None = None

    @classmethod
    def by_name(cls, name: str) -> Metric:
        return get_metric(name)

    @property
    def in_points(self) -> bool:
        """Whether differences are told in points: hundredths of a figure between 0 and 1."""
        return (self.low, self.high) == (0.0, 1.0)

    @property
    def is_relative(self) -> bool:
        """Whether differences count relative to the figure."""
        return self.from_loss is not None

    def score(self, value: float) -> float:
        """``value`` with the sign that makes higher better."""
        return value if self.higher_is_better else -value

    def show(self, value: float) -> str:
        """A figure in words."""
        return format(value, self.format)

    def show_difference(self, difference: float) -> str:
        """A difference of two figures in words."""
        return f"{100 * difference:+.1f} points" if self.in_points else f"{difference:+.3g}"

    def measured(self, metrics: Mapping[str, float]) -> float | None:
        """This metric among a run's held-out figures, with or without the Trainer's ``eval_`` prefix.

        What follows from the loss is computed from it when only that is there.
        """
        for name in (self.name, f"eval_{self.name}"):
            if name in metrics:
                return metrics[name]
        loss = metrics.get(LOSS.name, metrics.get("loss"))
        return self.from_loss(loss) if self.from_loss is not None and loss is not None else None

    def is_in(self, columns: Mapping[str, Any]) -> bool:
        """Whether predictions have all that it is computed from."""
        return self.function is not None and all(name in columns for name in self.takes)

    def compute(self, columns: Mapping[str, Any]) -> float:
        """The figure of all held-out items.

        Args:
            columns: Of the predictions, by name, each with one entry per item.

        Raises:
            ValueError: the metric has no function, or is not defined for these items (one class only, for example).
        """
        import pkgutil

        if self.function is None:
            raise ValueError(f"a metric needs a function to be computed from predictions, but {self.name} has none")
        return float(pkgutil.resolve_name(self.function)(*(columns[name] for name in self.takes), **self.options))


def perplexity(loss: float) -> float:
    """``exp`` of a mean negative log-likelihood per token, in nats; finite for every finite loss."""
    return math.exp(min(loss, MAX_EXPONENT))


def nats(figure: float) -> float:
    """The loss of a perplexity; of one that is not positive, a very small one."""
    return math.log(max(figure, 1e-9))


def root(loss: float) -> float:
    """The root of a mean squared error."""
    return math.sqrt(max(loss, 0.0))


def square(figure: float) -> float:
    """The mean squared error of its root."""
    return figure * figure


def same(loss: float) -> float:
    """The loss itself."""
    return loss


_PROBABILITIES = (LABEL, PROBABILITY)
_HOME = "advisor.training.quality"

ACCURACY = Metric(
    "accuracy",
    "accuracy",
    higher_is_better=True,
    function="sklearn.metrics:accuracy_score",
    resampled=f"{_HOME}:resampled_accuracy",
    is_share=True,
)
BALANCED_ACCURACY = Metric(
    "balanced_accuracy",
    "balanced accuracy",
    higher_is_better=True,
    function="sklearn.metrics:balanced_accuracy_score",
    resampled=f"{_HOME}:resampled_balanced_accuracy",
)
F1_MACRO = Metric(
    "f1_macro",
    "macro F1",
    higher_is_better=True,
    function="sklearn.metrics:f1_score",
    options={"average": "macro", "zero_division": 0},
    resampled=f"{_HOME}:resampled_f1_macro",
)
F1_WEIGHTED = Metric(
    "f1_weighted",
    "weighted F1",
    higher_is_better=True,
    function="sklearn.metrics:f1_score",
    options={"average": "weighted", "zero_division": 0},
    resampled=f"{_HOME}:resampled_f1_weighted",
)
PRECISION_MACRO = Metric(
    "precision_macro",
    "macro precision",
    higher_is_better=True,
    function="sklearn.metrics:precision_score",
    options={"average": "macro", "zero_division": 0},
    resampled=f"{_HOME}:resampled_precision_macro",
)
RECALL_MACRO = Metric(
    "recall_macro",
    "macro recall",
    higher_is_better=True,
    function="sklearn.metrics:recall_score",
    options={"average": "macro", "zero_division": 0},
    resampled=f"{_HOME}:resampled_recall_macro",
)
MCC = Metric(
    "mcc",
    "Matthews correlation",
    higher_is_better=True,
    low=-1.0,
    function="sklearn.metrics:matthews_corrcoef",
    resampled=f"{_HOME}:resampled_mcc",
)
ROC_AUC = Metric(
    "roc_auc",
    "ROC-AUC",
    higher_is_better=True,
    function=f"{_HOME}:roc_auc",
    takes=_PROBABILITIES,
    resampled=f"{_HOME}:resampled_roc_auc",
)
AVERAGE_PRECISION = Metric(
    "average_precision",
    "average precision",
    higher_is_better=True,
    function=f"{_HOME}:average_precision",
    takes=_PROBABILITIES,
    resampled=f"{_HOME}:resampled_average_precision",
)
LOG_LOSS = Metric(
    "log_loss",
    "log loss",
    higher_is_better=False,
    high=math.inf,
    function=f"{_HOME}:log_loss",
    takes=_PROBABILITIES,
    resampled=f"{_HOME}:resampled_log_loss",
)
BRIER_SCORE = Metric(
    "brier_score",
    "Brier score",
    higher_is_better=False,
    high=2.0,
    function=f"{_HOME}:brier_score",
    takes=_PROBABILITIES,
    resampled=f"{_HOME}:resampled_brier_score",
)
CALIBRATION_ERROR = Metric(
    "calibration_error",
    "expected calibration error",
    higher_is_better=False,
    function=f"{_HOME}:calibration_error",
    takes=_PROBABILITIES,
    resampled=f"{_HOME}:resampled_calibration_error",
)
CLASSIFICATION = (
    ACCURACY, F1_MACRO, F1_WEIGHTED, BALANCED_ACCURACY, PRECISION_MACRO, RECALL_MACRO, MCC, ROC_AUC, AVERAGE_PRECISION,
    LOG_LOSS, BRIER_SCORE, CALIBRATION_ERROR,
)  # fmt: skip
"""What is said of a classifier with one class per item."""

F1_MICRO = Metric(
    "f1_micro",
    "micro F1",
    higher_is_better=True,
    function="sklearn.metrics:f1_score",
    options={"average": "micro", "zero_division": 0},
    resampled=f"{_HOME}:resampled_f1_micro",
)
SUBSET_ACCURACY = Metric(
    "subset_accuracy",
    "share of rows with all labels right",
    higher_is_better=True,
    function="sklearn.metrics:accuracy_score",
    resampled=f"{_HOME}:resampled_accuracy",
    is_share=True,
)
LABEL_SETS = (F1_MICRO, F1_MACRO, SUBSET_ACCURACY, AVERAGE_PRECISION)
"""What is said of a classifier with any number of labels per item."""

RMSE = Metric(
    "rmse",
    "root mean squared error",
    higher_is_better=False,
    high=math.inf,
    format=".4g",
    function="sklearn.metrics:root_mean_squared_error",
    resampled=f"{_HOME}:resampled_rmse",
    from_loss=root,
    to_loss=square,
)
MAE = Metric(
    "mae",
    "mean absolute error",
    higher_is_better=False,
    high=math.inf,
    format=".4g",
    function="sklearn.metrics:mean_absolute_error",
    resampled=f"{_HOME}:resampled_mae",
)
PEARSON = Metric("pearson", "Pearson correlation", higher_is_better=True, low=-1.0, function=f"{_HOME}:pearson")
SPEARMAN = Metric("spearman", "Spearman correlation", higher_is_better=True, low=-1.0, function=f"{_HOME}:spearman")
R2 = Metric("r2", "explained variance (R2)", higher_is_better=True, low=-math.inf, function="sklearn.metrics:r2_score")
NUMBERS = (RMSE, MAE, PEARSON, SPEARMAN, R2)
"""What is said of predicted numbers."""

ENTITY_F1 = Metric(
    "entity_f1",
    "F1 of entities",
    higher_is_better=True,
    function=f"{_HOME}:f1_of_counts",
    takes=(ENTITY_HITS, ENTITIES, ENTITIES_SAID),
    resampled=f"{_HOME}:resampled_f1_of_counts",
)
ENTITY_PRECISION = Metric(
    "entity_precision",
    "precision of entities",
    higher_is_better=True,
    function=f"{_HOME}:share",
    takes=(ENTITY_HITS, ENTITIES_SAID),
    resampled=f"{_HOME}:resampled_share",
)
ENTITY_RECALL = Metric(
    "entity_recall",
    "recall of entities",
    higher_is_better=True,
    function=f"{_HOME}:share",
    takes=(ENTITY_HITS, ENTITIES),
    resampled=f"{_HOME}:resampled_share",
)

PERPLEXITY = Metric(
    "perplexity", "perplexity", higher_is_better=False, low=1.0, high=math.inf, format=".4g", from_loss=perplexity,
    to_loss=nats, function=f"{_HOME}:perplexity_of_tokens", takes=(NLL_SUM, TOKENS),
    resampled=f"{_HOME}:resampled_perplexity",
)  # fmt: skip
BITS_PER_BYTE = Metric(
    "bits_per_byte",
    "bits per byte",
    higher_is_better=False,
    high=math.inf,
    function=f"{_HOME}:bits_per_byte",
    takes=(NLL_SUM, BYTES),
    resampled=f"{_HOME}:resampled_bits_per_byte",
)
TOKEN_ACCURACY = Metric(
    "token_accuracy",
    "token accuracy",
    higher_is_better=True,
    function=f"{_HOME}:share",
    takes=(HITS, TOKENS),
    resampled=f"{_HOME}:resampled_share",
)


def _mean(name: str, title: str, *, is_share: bool = False) -> Metric:
    """The mean of a column of scores."""
    mean, resampled = f"{_HOME}:mean", f"{_HOME}:resampled_mean"
    return Metric(
        name, title, higher_is_better=True, takes=(name,), function=mean, resampled=resampled, is_share=is_share
    )


ROUGE = tuple(_mean(name, f"ROUGE-{name.removeprefix('rouge')}") for name in ROUGE_SCORES)
EXACT_MATCH = _mean(EXACT_ANSWER, "exact match of answers", is_share=True)
ANSWER_WORDS = _mean(ANSWER_F1, "F1 of the words of answers")
WRITING = (*ROUGE, EXACT_MATCH, ANSWER_WORDS)
"""What is said of texts that a model wrote by itself."""

TAGGING = (ENTITY_F1, ENTITY_PRECISION, ENTITY_RECALL, TOKEN_ACCURACY)
"""What is said of tags of words."""

REWARD_ACCURACY = Metric(
    "reward_accuracy",
    "reward accuracy",
    higher_is_better=True,
    function=f"{_HOME}:share_above",
    takes=(CHOSEN_REWARD, REJECTED_REWARD),
    resampled=f"{_HOME}:resampled_share_above",
    is_share=True,
)
REWARD_MARGIN = Metric(
    "reward_margin",
    "reward margin",
    higher_is_better=True,
    low=-math.inf,
    high=math.inf,
    function=f"{_HOME}:mean_difference",
    takes=(CHOSEN_REWARD, REJECTED_REWARD),
    resampled=f"{_HOME}:resampled_mean_difference",
)
PREFERENCES = (REWARD_ACCURACY, REWARD_MARGIN)
"""What is said of pairs of answers."""

LOSS = Metric(
    "eval_loss", "held-out loss", higher_is_better=False, high=math.inf, from_loss=same, to_loss=same
)  # fmt: skip

METRICS: Registry[Metric] = Registry(
    "advisor.metrics",
    "metric",
    Metric,
    lambda: dict.fromkeys(
        (
            *(*CLASSIFICATION, *LABEL_SETS, *NUMBERS, *TAGGING, PERPLEXITY, BITS_PER_BYTE, TOKEN_ACCURACY),
            *(*WRITING, *PREFERENCES, LOSS),
        )
    ),
)


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        InputError: there is none, with near matches.
    """
    return METRICS.get(name)
