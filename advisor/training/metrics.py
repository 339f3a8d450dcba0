"""Held-out metrics that hold two numbers per row instead of its logits, whatever the vocabulary.

The mean negative log-likelihood is taken over items (rows of a classification, predicted tokens of a language model),
so that it depends on neither the evaluation batch size nor the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from advisor.core.model import Task

IGNORED_LABEL = -100


def reduce_logits(task: Task) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """What ``Trainer(preprocess_logits_for_metrics=...)`` keeps of each evaluation batch.

    Returns:
        A function from logits and labels to a float32 tensor of shape ``(rows, 2)``: predicted class and negative
        log-likelihood of the label (nats), or summed negative log-likelihood and number of predicted tokens. For labels
        of tokens a third column counts the tokens that were labelled right.
    """
    return {
        "sequence-classification": _reduce_classes,
        "causal-lm": _reduce_shifted_tokens,
        "masked-lm": _reduce_tokens,
        "seq2seq-lm": _reduce_tokens,
        "token-classification": _reduce_labelled_tokens,
    }[task]


def compute_metrics(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """What ``Trainer(compute_metrics=...)`` makes of all kept rows."""
    return {
        "sequence-classification": _classification_metrics,
        "token-classification": _token_classification_metrics,
    }.get(task, _language_model_metrics)


def held_out_metrics(logged: Mapping[str, float]) -> dict[str, float]:
    """The Trainer's ``eval_*`` figures under our names: its timings are dropped, ours replace its batch-mean loss."""
    kept = {
        name.removeprefix("eval_"): float(value)
        for name, value in logged.items()
        if name.removeprefix("eval_") in ("accuracy", "f1_macro", "perplexity")
    }
    kept["eval_loss"] = float(logged.get("eval_nll", logged.get("eval_loss", math.nan)))
    return kept


def _first(logits: Any) -> torch.Tensor:
    """Models that return more than logits hand over a tuple."""
    return logits[0] if isinstance(logits, tuple | list) else logits


def _reduce_classes(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    scores = _first(logits).float()
    nll = functional.cross_entropy(scores, labels, reduction="none")
    return torch.stack([scores.argmax(dim=-1).float(), nll], dim=-1)


def _reduce_tokens(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Row by row, so that the up-cast copy is one row's and not the batch's."""
    rows = []
    for row_logits, row_labels in zip(_first(logits), labels, strict=True):
        kept = row_labels != IGNORED_LABEL
        total = functional.cross_entropy(row_logits[kept].float(), row_labels[kept], reduction="sum")
        rows.append(torch.stack([total, kept.sum().to(total.dtype)]))
    return torch.stack(rows)


def _reduce_shifted_tokens(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    return _reduce_tokens(_first(logits)[:, :-1], labels[:, 1:])


def _reduce_labelled_tokens(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    scores = _first(logits)
    hits = ((scores.argmax(dim=-1) == labels) & (labels != IGNORED_LABEL)).sum(dim=-1, keepdim=True)
    reduced = _reduce_tokens(scores, labels)
    return torch.cat([reduced, hits.to(reduced.dtype)], dim=-1)


def _classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    rows, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    predicted = rows[:, 0].astype(np.int64)
    return {
        "accuracy": float((predicted == labels).mean()),
        "f1_macro": macro_f1(labels, predicted),
        "nll": float(rows[:, 1].astype(np.float64).mean()),
    }


def _token_classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    nll, tokens, hits = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
    return {"accuracy": float(hits / max(tokens, 1.0)), "nll": float(nll / max(tokens, 1.0))}


def _language_model_metrics(prediction: EvalPrediction) -> dict[str, float]:
    rows = np.asarray(prediction.predictions, dtype=np.float64)
    nll = float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1.0))
    return {"nll": nll, "perplexity": math.exp(min(nll, MAX_EXPONENT))}


MAX_EXPONENT = 700.0
"""``math.exp`` overflows just above 709; a perplexity of e**700 says "diverged" as well as infinity does, and is
JSON."""


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Unweighted mean of the F1 of every class that occurs in either (as
    ``sklearn.metrics.f1_score(average="macro")``).
    """
    scores = []
    for label in np.union1d(labels, predicted):
        hits = int(((labels == label) & (predicted == label)).sum())
        scores.append(2 * hits / int((labels == label).sum() + (predicted == label).sum()))
    return float(np.mean(scores))
