"""Chance level: what a classifier reaches that knows the classes' shares and reads no text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from advisor.core.data import DataProfile

LOSS_MARGIN = 0.03
"""A held-out loss must be below the classes' entropy by this share: as much as a loss differs between seeds."""

SHARE_SDS = 2.33
"""An accuracy must be above the majority's share by so many standard errors: one lucky run in a hundred."""


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
        error = math.sqrt(self.share * (1 - self.share) / self.rows)
        return metric is None or metric <= self.share + SHARE_SDS * error


def chance_level(data: DataProfile, eval_rows: int) -> ChanceLevel | None:
    """The chance level of a data set; ``None`` without classes, or with one."""
    total = sum(data.class_counts.values())
    shares = [count / total for count in data.class_counts.values() if count]
    if len(shares) < 2:
        return None
    return ChanceLevel(-sum(share * math.log(share) for share in shares), max(shares), max(1, eval_rows))
