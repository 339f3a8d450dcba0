"""What tasks keep of evaluation batches: a few numbers per row instead of its logits, whatever the vocabulary.

The mean negative log-likelihood is taken over items (rows of a classification, predicted tokens of a language model),
so that it depends on neither the evaluation batch size nor the order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from advisor.core.metrics import (
    ACCURACY,
    CHOSEN_REWARD,
    ENTITIES,
    ENTITIES_SAID,
    ENTITY_F1,
    ENTITY_HITS,
    F1_MICRO,
    HITS,
    LABEL,
    NLL_SUM,
    PERPLEXITY,
    PREDICTED,
    PROBABILITY,
    REJECTED_REWARD,
    REWARD_ACCURACY,
    REWARD_MARGIN,
    RMSE,
    TOKENS,
    perplexity,
    root,
)
from advisor.training.data.encoding import IGNORED_LABEL

NLL = "nll"
"""Among a task's figures: the mean loss per item. The negative log-likelihood in nats (of pairs of answers: that the
chosen one is preferred), but for numbers, whose loss is the squared error."""

# --- of one batch ---------------------------------------------------------------------------------------------------


def first_output(logits: Any) -> torch.Tensor:
    """Models that return more than logits hand over a tuple."""
    return logits[0] if isinstance(logits, tuple | list) else logits


def without_padding(labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Labels of tokens, ignored where ``mask`` is 0."""
    return labels.masked_fill(mask == 0, IGNORED_LABEL)


def reduce_classes(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Per row: the logarithm of every class's probability."""
    return functional.log_softmax(first_output(logits).float(), dim=-1)


def reduce_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per row: the summed negative log-likelihood in nats, the predicted tokens, and how many of them are right.

    Row by row, so that the up-cast copy is one row's and not the batch's. Positions before the labels' own (learned
    prompts) are left out.
    """
    rows, logits = [], logits[:, -labels.shape[1] :]
    for row_logits, row_labels in zip(logits, labels, strict=True):
        kept = row_labels != IGNORED_LABEL
        scores, wanted = row_logits[kept].float(), row_labels[kept]
        total = functional.cross_entropy(scores, wanted, reduction="sum")
        hits = (scores.argmax(dim=-1) == wanted).sum()
        rows.append(torch.stack([total, kept.sum().to(total.dtype), hits.to(total.dtype)]))
    return torch.stack(rows)


def reduce_scored_tokens(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As ``reduce_tokens``, from scores of each next token (rows, length, 2): its negative log-likelihood in
    nats, and 1.0 where it is the likeliest.
    """
    tokens = (labels[:, 1:] != IGNORED_LABEL).sum(dim=-1, keepdim=True)
    nll, hits = scores.sum(dim=1).split(1, dim=-1)
    return torch.cat([nll, tokens.to(nll.dtype), hits], dim=-1)


def reduce_label_sets(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Per row: the mean binary cross-entropy of its labels in nats, and the probability of each label."""
    scores = first_output(logits).float()
    nll = functional.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")
    return torch.cat([nll.mean(dim=-1, keepdim=True), scores.sigmoid()], dim=-1)


def reduce_numbers(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Per row: the predicted number."""
    return first_output(logits).float().reshape(len(labels), 1)


# --- of all rows ----------------------------------------------------------------------------------------------------


def class_columns(prediction: EvalPrediction) -> dict[str, np.ndarray]:
    """Columns of the predictions, of what ``reduce_classes`` kept."""
    scores = np.asarray(prediction.predictions)
    return {
        LABEL: np.asarray(prediction.label_ids).astype(np.int64),
        PREDICTED: scores.argmax(axis=1),
        PROBABILITY: np.exp(scores.astype(np.float64)).astype(np.float32),
    }


def class_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_classes`` kept."""
    scores, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids).astype(np.int64)
    nll = -np.take_along_axis(scores, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return {ACCURACY.name: float((scores.argmax(axis=1) == labels).mean()), NLL: float(nll.mean())}


def label_set_columns(prediction: EvalPrediction) -> dict[str, np.ndarray]:
    """Columns of the predictions, of what ``reduce_label_sets`` kept; a label is predicted from one half on."""
    probabilities = np.asarray(prediction.predictions)[:, 1:]
    return {
        LABEL: np.asarray(prediction.label_ids).astype(np.int64),
        PREDICTED: (probabilities >= 0.5).astype(np.int64),
        PROBABILITY: probabilities,
    }


def label_set_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_label_sets`` kept."""
    columns = label_set_columns(prediction)
    hits, both = int((columns[LABEL] & columns[PREDICTED]).sum()), int(columns[LABEL].sum() + columns[PREDICTED].sum())
    nll = np.asarray(prediction.predictions)[:, 0].astype(np.float64)
    return {F1_MICRO.name: 2 * hits / both if both else 0.0, NLL: float(nll.mean())}


def number_columns(prediction: EvalPrediction) -> dict[str, np.ndarray]:
    """Columns of the predictions, of what ``reduce_numbers`` kept: float64."""
    return {
        LABEL: np.asarray(prediction.label_ids, dtype=np.float64).reshape(-1),
        PREDICTED: np.asarray(prediction.predictions, dtype=np.float64)[:, 0],
    }


def number_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_numbers`` kept; the loss is the mean squared error."""
    columns = number_columns(prediction)
    squared = float(np.square(columns[LABEL] - columns[PREDICTED]).mean())
    return {RMSE.name: root(squared), NLL: squared}


def preference_columns(prediction: EvalPrediction, beta: float) -> dict[str, np.ndarray]:
    """Columns of the predictions, of the log-probabilities that are kept of pairs of answers: of the chosen and of the
    rejected one, then both by the model before training.
    """
    chosen, rejected, chosen_before, rejected_before = np.asarray(prediction.predictions, dtype=np.float64).T
    return {CHOSEN_REWARD: beta * (chosen - chosen_before), REJECTED_REWARD: beta * (rejected - rejected_before)}


def preference_figures(prediction: EvalPrediction, beta: float) -> dict[str, float]:
    """Of the same; the loss is DPO's (Rafailov et al. 2023, arXiv:2305.18290, equation 7)."""
    columns = preference_columns(prediction, beta)
    margins = columns[CHOSEN_REWARD] - columns[REJECTED_REWARD]
    return {
        REWARD_ACCURACY.name: float((margins > 0).mean()),
        REWARD_MARGIN.name: float(margins.mean()),
        NLL: float(np.logaddexp(0.0, -margins).mean()),
    }


def token_columns(prediction: EvalPrediction) -> dict[str, np.ndarray]:
    """Columns of the predictions, of what ``reduce_tokens`` kept."""
    nll, tokens, hits = np.asarray(prediction.predictions, dtype=np.float64).T
    return {NLL_SUM: nll, TOKENS: tokens.astype(np.int64), HITS: hits.astype(np.int64)}


def label_bytes(labels: Any, tokenizer: Any) -> np.ndarray:
    """Per row: UTF-8 bytes of the text that its labels stand for, special tokens left out.

    Args:
        labels: Token ids, shape (rows, tokens); ignored ones do not count.
        tokenizer: The model's own. Where it changes text (lower case, for example), it is the bytes of what it makes.
    """
    texts = tokenizer.batch_decode([row[row >= 0] for row in np.asarray(labels)], skip_special_tokens=True)
    return np.array([len(text.encode("utf-8", "replace")) for text in texts], dtype=np.int64)


def token_figures(prediction: EvalPrediction) -> dict[str, float]:
    """Of what ``reduce_tokens`` kept."""
    rows = np.asarray(prediction.predictions, dtype=np.float64)
    nll = float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1.0))
    return {NLL: nll, PERPLEXITY.name: perplexity(nll)}


def reduce_tags(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """As ``reduce_tokens``, and behind it the predicted tag of every token."""
    scores = first_output(logits)
    reduced = reduce_tokens(scores, labels)
    return torch.cat([reduced, scores.argmax(dim=-1).to(reduced.dtype)], dim=-1)


def tag_columns(prediction: EvalPrediction, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of the predictions, of what ``reduce_tags`` kept: tags by item, and whole entities.

    An entity is right when its type and both of its ends are (strict matching, as in CoNLL-2003).

    Args:
        prediction: All batches.
        names: Tags by index; without them every index is a type of its own.
    """
    from nervaluate import collect_named_entities

    kept, ids = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    tags: dict[str, list[list[str]]] = {LABEL: [], PREDICTED: []}
    counts = np.zeros((len(ids), 3), dtype=np.int64)
    for row, (labels, said) in enumerate(zip(ids, kept[:, 3:].astype(np.int64), strict=True)):
        words = labels != IGNORED_LABEL
        found = []
        for column, indices in ((LABEL, labels[words]), (PREDICTED, said[: len(labels)][words])):
            tags[column].append([names[index] if names else f"{index}" for index in indices])
            entities = collect_named_entities(in_bio(tags[column][-1]))
            found.append({(entity["label"], entity["start"], entity["end"]) for entity in entities})
        counts[row] = len(found[0] & found[1]), len(found[0]), len(found[1])
    texts = {name: np.array([*values, None], dtype=object)[:-1] for name, values in tags.items()}
    entities = dict(zip((ENTITY_HITS, ENTITIES, ENTITIES_SAID), counts.T, strict=True))
    return {**texts, **token_columns(EvalPrediction(kept[:, :3], ids)), **entities}


def in_bio(tags: Sequence[str]) -> list[str]:
    """Tags in BIO, of BIO, BIOES (BILOU), or of types without a prefix, where equal neighbours are one entity."""
    found, before = [], "O"
    for tag in tags:
        prefix, dash, kind = tag.partition("-")
        if dash and prefix in _IN_BIO:
            found.append(f"{_IN_BIO[prefix]}-{kind}")
        else:
            found.append("O" if tag == "O" else f"{'I' if tag == before else 'B'}-{tag}")
        before = tag
    return found


_IN_BIO = {"B": "B", "I": "I", "E": "I", "L": "I", "S": "B", "U": "B"}


def tag_figures(prediction: EvalPrediction, names: Sequence[str]) -> dict[str, float]:
    """Of what ``reduce_tags`` kept."""
    columns = tag_columns(prediction, names)
    nll = float(columns[NLL_SUM].sum() / max(columns[TOKENS].sum(), 1))
    both = int(columns[ENTITIES].sum() + columns[ENTITIES_SAID].sum())
    return {ENTITY_F1.name: 2 * int(columns[ENTITY_HITS].sum()) / both if both else 0.0, NLL: nll}
