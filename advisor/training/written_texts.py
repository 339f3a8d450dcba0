"""Texts that a model writes from held-out rows, and how close they come to what people wrote."""

from __future__ import annotations

import re
import string
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advisor.core.metrics import ANSWER_F1, EXACT_ANSWER, ROUGE_SCORES
from advisor.training.data import PreparedData

References = Sequence[Sequence[str]]
"""Per item: all texts that are right."""


def write_texts(
    model: Any, data: PreparedData, tokenizer: Any, *, batch_size: int, limit_s: float | None = None
) -> list[str | None]:
    """What the model writes from the held-out rows, greedily, in their order.

    Args:
        model: An encoder and a decoder, in any mode; left in evaluation mode.
        data: Held-out rows; texts get as many tokens as targets may have.
        tokenizer: The model's own.
        batch_size: Rows at a time.
        limit_s: No batch is begun after so many seconds; one always is.

    Returns:
        A text per row, ``None`` for rows that there was no time for.
    """
    model.eval()
    place = next(model.parameters()).device
    written: list[str | None] = []
    rows, began_s = len(data.eval_dataset), time.perf_counter()
    for start in range(0, rows, batch_size):
        if written and limit_s is not None and time.perf_counter() - began_s > limit_s:
            break
        batch = data.collator([data.eval_dataset[index] for index in range(start, min(start + batch_size, rows))])
        inputs = {name: tensor.to(place) for name, tensor in batch.items() if name != "labels"}
        with torch.no_grad():
            tokens = model.generate(
                **inputs, max_new_tokens=data.max_seq_length, do_sample=False, num_beams=1, use_cache=True
            )
        written += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [*written, *[None] * (rows - len(written))]


def rouge_columns(written: Sequence[str | None], references: References) -> dict[str, NDArray[np.float64]]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of each text, as F-measures of stemmed words (Lin 2004, W04-1013); of several
    references the best counts. Words are runs of Latin letters and digits: of other scripts nothing is left.

    Raises:
        ImportError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ImportError(
            'ROUGE needs the package rouge-score, which is not installed: pip install "finetune-advisor[rouge]"'
        ) from None
    scorer = RougeScorer(list(ROUGE_SCORES), use_stemmer=True)
    columns = {name: np.full(len(written), np.nan) for name in ROUGE_SCORES}
    for item, (text, right) in enumerate(zip(written, references, strict=True)):
        if text is not None:
            for name, score in scorer.score_multi(list(right), text).items():
                columns[name][item] = score.fmeasure
    return columns


def answer_columns(written: Sequence[str | None], references: References) -> dict[str, NDArray[np.float64]]:
    """Exact match and F1 of the words of each answer, the best over all right answers, as SQuAD defines them
    (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1).
    """
    exact, overlap = np.full(len(written), np.nan), np.full(len(written), np.nan)
    for item, (text, right) in enumerate(zip(written, references, strict=True)):
        if text is not None:
            words = answer_words(text)
            exact[item] = max(float(words == answer_words(answer)) for answer in right)
            overlap[item] = max(word_f1(words, answer_words(answer)) for answer in right)
    return {EXACT_ANSWER: exact, ANSWER_F1: overlap}


def answer_words(text: str) -> list[str]:
    """Words of an answer in lower case, without punctuation and articles."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def word_f1(said: Sequence[str], right: Sequence[str]) -> float:
    """Twice the common words over all words, each as often as it occurs; 1 where both have none."""
    if not said or not right:
        return float(said == right)
    return 2 * (Counter(said) & Counter(right)).total() / (len(said) + len(right))
