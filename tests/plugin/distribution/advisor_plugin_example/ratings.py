"""Classes on an ordered scale: a task, its metric and a data set, each added by an entry point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from advisor.core.metrics import ACCURACY, Metric
from advisor.training.data.named import NamedDataset
from advisor.training.tasks.sequence_classification import SequenceClassification

if TYPE_CHECKING:
    import torch

RATING_DISTANCE = Metric(
    "rating_distance",
    "mean distance of ratings",
    higher_is_better=False,
    high=math.inf,
    format=".2f",
    function="sklearn.metrics:mean_absolute_error",
)


class RatingClassification(SequenceClassification):
    """A classifier without dropout before its head, trained so that near misses cost less than far ones."""

    traits = dataclasses.replace(
        SequenceClassification.traits,
        name="rating-classification",
        title="rating texts",
        metric=RATING_DISTANCE,
        config_values={**SequenceClassification.traits.config_values, "classifier_dropout": 0.0},
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (RATING_DISTANCE, ACCURACY)

    def suits(self, look: Any) -> bool:
        """Only where it is named: an ordered label looks like any other."""
        return False

    def compute_loss_func(self) -> Callable[..., torch.Tensor]:
        return squared_distance_of_distributions


def squared_distance_of_distributions(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | float | None = None
) -> torch.Tensor:
    """Squared earth mover's distance of predicted and true classes (Hou et al. 2016, arXiv:1611.05916)."""
    import torch

    logits = outputs["logits"].float()
    true = torch.nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    distance = (logits.softmax(-1).cumsum(-1) - true.cumsum(-1)).square().sum()
    return distance / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class FilmRatings(NamedDataset):
    """Sentences made of words that say how good a film was."""

    name = "film-ratings"
    description = "120 made-up sentences, rated 1 to 3"
    columns = ("text", "label")

    def rows(self) -> Iterator[dict[str, str]]:
        words = {"1": ("bad", "poor", "dull"), "2": ("film", "plot", "cast"), "3": ("good", "fine", "great")}
        for index in range(40):
            first, second, third, tail = index % 3, index // 3 % 3, index // 9 % 3, ("is", "was")[index // 27]
            for label, telling in words.items():
                yield {"text": f"{telling[first]} {tail} {telling[second]} it {telling[third]}", "label": label}
