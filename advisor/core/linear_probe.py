"""What a linear classifier on frozen features of a model shows of a task, for the cost of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from advisor.core.cost import Interval
from advisor.core.metrics import Metric
from advisor.core.serialization import to_json
from advisor.core.units import counted


@dataclass(frozen=True)
class ProbeCurvePoint:
    """The held-out result of a probe that was fitted to some of the rows.

    Attributes:
        train_rows: The first so many rows, in the data set's seeded order: smaller sets are parts of larger ones.
        value: Of the report's metric.
        loss: Mean negative log-likelihood of the held-out labels, in nats.
        train_loss: The same of the rows that it was fitted to.
    """

    train_rows: int
    value: float
    loss: float
    train_loss: float


@dataclass(frozen=True)
class ConfusedClasses:
    """Held-out rows of one class that were taken for another.

    Attributes:
        label, predicted: Names of the classes.
        rows: How many.
        share: Of the held-out rows of ``label``.
    """

    label: str
    predicted: str
    rows: int
    share: float


@dataclass(frozen=True)
class DoubtfulRow:
    """A training row whose label is likely wrong.

    Attributes:
        row: Its place in the training rows, counted from 0 in the data set's seeded order.
        label: As the data has it.
        likely: The class that the probe is sure of.
        probability: Cross-validated: of a probe that never saw the row.
        text: The beginning of the row's text.
    """

    row: int
    label: str
    likely: str
    probability: float
    text: str


@dataclass(frozen=True)
class LinearProbeReport:
    """Result of a probe, and descriptors of its task. Every share is between 0 and 1, every loss in nats per row.

    Attributes:
        metric: What ``value`` is.
        value: Held-out figure of the probe that was fitted to all rows it had.
        interval: 90 %, of the sampling of the held-out rows.
        loss: Held-out mean negative log-likelihood.
        chance_loss: The same of a guess that only knows how frequent every class is.
        chance_value: The metric of always answering the most frequent class.
        curve: At an eighth, a quarter, a half and all of the rows, as far as every class is there.
        cross_validated_loss: Of training rows that the probe did not see.
        regularisation: The chosen inverse strength ``C`` of scikit-learn's ``LogisticRegression``, on features with
            zero mean and unit variance.
        pooling: How a row's features are made of its tokens.
        width: Features per row.
        train_rows, eval_rows: Rows that were looked at.
        all_train_rows, all_eval_rows: Rows of the data set.
        class_shares: Of the training rows, by label name.
        class_entropy: Of these shares, relative to equal ones: 1 is balanced.
        duplicate_share: Training rows whose text occurs before them among the training rows.
        near_duplicate_share: Held-out rows with a training row of nearly the same features (cosine of at least
            ``training.linear_probe.NEAR_DUPLICATE``): how far held-out figures may flatter.
        label_noise_share: Training rows that confident learning (Northcutt et al. 2021) counts under another class than
            their own. An upper estimate: rows that are merely hard are among them.
        doubtful_rows: How many training rows have another class with a cross-validated probability of at least
            ``training.linear_probe.DOUBTFUL``.
        doubtful: The most doubtful of them.
        confused: The most frequent confusions of held-out rows.
        mean_tokens, longest_tokens: Of the rows, cut at ``max_seq_length``.
        truncated_share: Rows that reach the cut.
        max_seq_length: Where rows were cut.
        features_s, fitting_s: Wall clock of the forward passes, loading included, and of everything after them.
        kept_rows: How many of the rows' features came from the disk.
        model_fingerprint, data_fingerprint: Of the contents; empty where there is none.
    """

    metric: Metric
    value: float
    interval: Interval
    loss: float
    chance_loss: float
    chance_value: float
    curve: tuple[ProbeCurvePoint, ...]
    cross_validated_loss: float
    regularisation: float
    pooling: str
    width: int
    train_rows: int
    eval_rows: int
    all_train_rows: int
    all_eval_rows: int
    class_shares: dict[str, float] = field(default_factory=dict)
    class_entropy: float = 1.0
    duplicate_share: float = 0.0
    near_duplicate_share: float = 0.0
    label_noise_share: float = 0.0
    doubtful_rows: int = 0
    doubtful: tuple[DoubtfulRow, ...] = ()
    confused: tuple[ConfusedClasses, ...] = ()
    mean_tokens: float = 0.0
    longest_tokens: int = 0
    truncated_share: float = 0.0
    max_seq_length: int = 0
    features_s: float = 0.0
    fitting_s: float = 0.0
    kept_rows: int = 0
    model_fingerprint: str = ""
    data_fingerprint: str = ""

    @property
    def curve_in_words(self) -> str:
        """For example ``"0.719 at 128, 0.730 at 256"``."""
        return ", ".join(f"{self.metric.show(point.value)} at {point.train_rows:,}" for point in self.curve)

    @property
    def near_chance(self) -> bool:
        """Whether the labels can hardly be told from the text: neither the metric nor the loss is clearly better than a
        guess that only knows how frequent the classes are.
        """
        return self.interval.low <= self.chance_value and self.loss >= NEAR_CHANCE_LOSS * self.chance_loss

    @property
    def complete(self) -> bool:
        """Whether all rows were looked at."""
        return (self.train_rows, self.eval_rows) == (self.all_train_rows, self.all_eval_rows)

    @property
    def spent(self) -> str:
        """What was done and how long it took, in words."""
        rows = self.train_rows + self.eval_rows
        of_all = "" if self.complete else f" of {self.all_train_rows + self.all_eval_rows:,}"
        kept = f", {self.kept_rows:,} of them from an earlier pass" if self.kept_rows else ""
        passes = f"features of {rows:,}{of_all} rows{kept} in {self.features_s:.0f} s"
        return f"{passes}; {counted(len(self.curve), 'fit')} with cross-validation in {self.fitting_s:.0f} s"

    def to_json(self) -> str:
        """The record as JSON text."""
        return to_json(self)


NEAR_CHANCE_LOSS = 0.95
"""A probe whose held-out loss is at least this share of the loss of a guess has learned next to nothing."""
