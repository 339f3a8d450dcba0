"""Chance level: what a classifier reaches that knows the classes' shares and reads no text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from advisor.core.data import DataProfile
from advisor.core.stats import NORMAL_95

LOSS_MARGIN = 0.03
"""A held-out loss must be below the classes' entropy by this share: as much as a loss differs between seeds."""

SHARE_SDS = 2.33
"""Of the many trials of a study: an accuracy must be above the majority's share by so many standard errors, one lucky
run in a hundred."""


def is_chance_accuracy(accuracy: float, majority_share: float, items: int, *, sds: float = NORMAL_95) -> bool:
    """Whether an accuracy is no better than always answering the most frequent class, as far as the items can tell.

    Args:
        accuracy: On held-out items, as a share.
        majority_share: Of the most frequent class.
        items: How many.
        sds: Standard errors (of a binomial share) above the majority's share that a better one needs.
    """
    error = math.sqrt(max(majority_share * (1 - majority_share), 0.0) / max(items, 1))
    return accuracy <= majority_share + sds * error


@dataclass(frozen=True)
class ChanceLevel:
    """Of a task with classes, on a number of held-out rows.

    Attributes:
        loss: Entropy of the classes' shares in nats, the loss of the best constant answer.
        share: Share of the most frequent class, the accuracy of the best constant answer.
        rows: Held-out rows.
    """

    loss: float
    share: float
    rows: int

    def holds(self, nll: float | None, metric: float | None) -> bool:
        """Whether a run is at chance: neither its loss nor its metric, a share, shows that it read the text."""
        if nll is None or nll < (1 - LOSS_MARGIN) * self.loss:
            return False
        return metric is None or is_chance_accuracy(metric, self.share, self.rows, sds=SHARE_SDS)


def chance_level(data: DataProfile, eval_rows: int) -> ChanceLevel | None:
    """The chance level of a data set; ``None`` without classes, or with one."""
    total = sum(data.class_counts.values())
    shares = [count / total for count in data.class_counts.values() if count]
    if len(shares) < 2:
        return None
    return ChanceLevel(-sum(share * math.log(share) for share in shares), max(shares), max(1, eval_rows))
