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
        function: ``module:name`` of what computes it from the labels and the predicted classes of all held-out items;
            ``None`` where the task sums it up over its batches, which hold more than can be kept.
        options: Further arguments of ``function``.
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
    options: Mapping[str, Any] = field(default_factory=dict)
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

    def compute(self, labels: Any, predicted: Any) -> float:
        """The figure of classes, arrays of shape (items,).

        Raises:
            ValueError: the metric has no function.
        """
        import pkgutil

        if self.function is None:
            raise ValueError(f"a metric needs a function to be computed from classes, but {self.name} has none")
        return float(pkgutil.resolve_name(self.function)(labels, predicted, **self.options))


def perplexity(loss: float) -> float:
    """``exp`` of a mean negative log-likelihood per token, in nats; finite for every finite loss."""
    return math.exp(min(loss, MAX_EXPONENT))


def nats(figure: float) -> float:
    """The loss of a perplexity; of one that is not positive, a very small one."""
    return math.log(max(figure, 1e-9))


def same(loss: float) -> float:
    """The loss itself."""
    return loss


ACCURACY = Metric(
    "accuracy", "accuracy", higher_is_better=True, function="sklearn.metrics:accuracy_score", is_share=True
)
F1_MACRO = Metric(
    "f1_macro",
    "macro F1",
    higher_is_better=True,
    function="sklearn.metrics:f1_score",
    options={"average": "macro"},
)
PERPLEXITY = Metric(
    "perplexity", "perplexity", higher_is_better=False, low=1.0, high=math.inf, format=".4g", from_loss=perplexity,
    to_loss=nats,
)  # fmt: skip
LOSS = Metric(
    "eval_loss", "held-out loss", higher_is_better=False, high=math.inf, from_loss=same, to_loss=same
)  # fmt: skip

METRICS: Registry[Metric] = Registry(
    "advisor.metrics", "metric", Metric, lambda: (ACCURACY, F1_MACRO, PERPLEXITY, LOSS)
)


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        InputError: there is none, with near matches.
    """
    return METRICS.get(name)
