"""Losses in which rare classes count as much as frequent ones.

A class weighs ``rows / (classes * rows of the class)`` (King and Zeng 2001, doi:10.1093/oxfordjournals.pan.a004868;
scikit-learn's ``compute_class_weight("balanced")``), so that the weights of all training rows have the mean 1. The
weighted losses of a batch are summed and divided by its items, not by their weights: every row then has the same weight
whatever else lies in its batch, and accumulated micro-batches add up to the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from advisor.training.data.encoding import IGNORED_LABEL


def balanced_weights(labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """The weight of each class, shape (classes,); 1 for those that do not occur.

    Args:
        labels: Class indices; those below 0 do not count.
        classes: How many there are.
    """
    counts = np.bincount(np.asarray(labels)[labels >= 0].astype(np.int64), minlength=classes)
    occurring = counts > 0
    share = counts.sum() / max(1, occurring.sum())
    return np.divide(share, counts, out=np.ones(classes), where=occurring)


def balanced_label_weights(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Weights of not having and of having each label, shape (2, labels).

    Args:
        labels: 0 or 1, shape (rows, labels).
    """
    return np.stack([balanced_weights(column, 2) for column in np.asarray(labels).T], axis=1)


def weighted_cross_entropy(weights: NDArray[np.float64]) -> Callable[..., torch.Tensor]:
    """The cross-entropy of rows or tokens, as ``transformers.Trainer`` wants a loss."""
    table = torch.tensor(weights, dtype=torch.float32)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"]
        if labels.ndim > 1:  # learned prompts come before the tokens of the row
            logits = logits[:, -labels.shape[1] :]
        total = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(),
            labels.reshape(-1),
            weight=table.to(logits.device),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
        )
        return total / ((labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


def weighted_binary_cross_entropy(weights: NDArray[np.float64]) -> Callable[..., torch.Tensor]:
    """The binary cross-entropy of any number of labels a row, as ``transformers.Trainer`` wants a loss.

    Args:
        weights: As ``balanced_label_weights`` gives them.
    """
    without, having = torch.tensor(weights, dtype=torch.float32)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        labels = labels.to(logits.dtype)
        weight = torch.where(labels > 0, having.to(logits.device), without.to(logits.device))
        total = functional.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss
