"""What tasks keep of evaluation batches: a few numbers per row instead of its logits, whatever the vocabulary.

The mean negative log-likelihood is taken over items (rows of a classification, predicted tokens of a language model),
so that it depends on neither the evaluation batch size nor the order of the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from advisor.core.metrics import ACCURACY, PERPLEXITY, perplexity
from advisor.training.data.encoding import IGNORED_LABEL

NLL = "nll"
"""Among a task's figures: the mean negative log-likelihood per item, in nats."""

# --- of one batch ---------------------------------------------------------------------------------------------------


def first_output(logits: Any) -> torch.Tensor:
    """Models that return more than logits hand over a tuple."""
    return logits[0] if isinstance(logits, tuple | list) else logits


def without_padding(labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Labels of tokens, ignored where ``mask`` is 0."""
    return labels.masked_fill(mask == 0, IGNORED_LABEL)


def reduce_classes(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Per row: the predicted class, and the negative log-likelihood of the label in nats."""
    scores = first_output(logits).float()
    nll = functional.cross_entropy(scores, labels, reduction="none")
    return torch.stack([scores.argmax(dim=-1).float(), nll], dim=-1)


def reduce_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per row: the summed negative log-likelihood in nats, and the number of predicted tokens.

    Row by row, so that the up-cast copy is one row's and not the batch's.
    """
    rows = []
    for row_logits, row_labels in zip(logits, labels, strict=True):
        kept = row_labels != IGNORED_LABEL
        total = functional.cross_entropy(row_logits[kept].float(), row_labels[kept], reduction="sum")
        rows.append(torch.stack([total, kept.sum().to(total.dtype)]))
    return torch.stack(rows)


def reduce_labelled_tokens(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """As ``reduce_tokens``, and the number of tokens that were labelled right."""
    scores = first_output(logits)
    hits = ((scores.argmax(dim=-1) == labels) & (labels != IGNORED_LABEL)).sum(dim=-1, keepdim=True)
    reduced = reduce_tokens(scores, labels)
    return torch.cat([reduced, hits.to(reduced.dtype)], dim=-1)


# --- of all rows ----------------------------------------------------------------------------------------------------


def predicted_classes(prediction: EvalPrediction) -> np.ndarray:
    """Of what ``reduce_classes`` kept: int64, shape (rows,)."""
    return np.asarray(prediction.predictions)[:, 0].astype(np.int64)


def class_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_classes`` kept."""
    hits = predicted_classes(prediction) == np.asarray(prediction.label_ids)
    nll = np.asarray(prediction.predictions)[:, 1].astype(np.float64)
    return {ACCURACY.name: float(hits.mean()), NLL: float(nll.mean())}


def token_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_tokens`` kept."""
    rows = np.asarray(prediction.predictions, dtype=np.float64)
    nll = float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1.0))
    return {NLL: nll, PERPLEXITY.name: perplexity(nll)}


def labelled_token_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_labelled_tokens`` kept."""
    nll, tokens, hits = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
    return {ACCURACY.name: float(hits / max(tokens, 1.0)), NLL: float(nll / max(tokens, 1.0))}
