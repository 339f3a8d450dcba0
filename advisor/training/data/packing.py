"""Running text in equally long blocks, so that no token is wasted on padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import DataError
from advisor.core.model import Task
from advisor.training.data.encoding import special_prefix, special_suffix
from advisor.training.data.rows import Row

_CHUNK_DOCUMENTS = 256


def token_stream(rows: Sequence[Row], tokenizer: Any, task: Task, *, continuous: bool) -> NDArray[np.int32]:
    """All text as one row of token ids.

    For causal-lm every document begins as the tokenizer begins a text and ends with the end-of-sequence token;
    paragraphs of one continuous text are only joined by new lines. For masked-lm the bare texts follow each other.

    Args:
        rows: Documents, or paragraphs of one text.
        tokenizer: The model's own.
        task: causal-lm or masked-lm.
        continuous: Whether the rows are paragraphs of one text.

    Returns:
        Token ids, shape (tokens,).
    """
    before = special_prefix(tokenizer) if task == "causal-lm" else []
    end = [tokenizer.eos_token_id] if task == "causal-lm" and tokenizer.eos_token_id is not None else []
    parts: list[int] = list(before) if continuous else []
    for start in range(0, len(rows), _CHUNK_DOCUMENTS):
        texts = [row.texts[0] + ("\n" if continuous else "") for row in rows[start : start + _CHUNK_DOCUMENTS]]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in encoded:
            parts += ids if continuous else [*before, *ids, *end]
    return np.array(parts + (end if continuous else []), dtype=np.int32)


def block_body_tokens(tokenizer: Any, task: Task, max_seq_length: int) -> int:
    """Text tokens of a block: all of it, less the special tokens around every masked-lm block."""
    wrapped = special_prefix(tokenizer) + special_suffix(tokenizer) if task == "masked-lm" else []
    return max_seq_length - len(wrapped)


def pack(
    stream: NDArray[np.int32],
    tokenizer: Any,
    task: Task,
    *,
    max_seq_length: int,
    seed: int,
    limit: int | None,
    name: str,
) -> NDArray[np.int32]:
    """Cut a stream of tokens into blocks; what is left at the end is dropped.

    Args:
        stream: Token ids, shape (tokens,).
        tokenizer: Decides the special tokens around a masked-lm block.
        task: causal-lm or masked-lm.
        max_seq_length: Length of a block.
        seed: Of the order of the blocks.
        limit: How many to keep; fewer are a prefix of more.
        name: How messages call the text.

    Returns:
        Blocks, shape (blocks, max_seq_length).

    Raises:
        DataError: the text does not fill one block.
    """
    body = block_body_tokens(tokenizer, task, max_seq_length)
    count = len(stream) // body
    if count < 1:
        raise DataError(
            f"a block needs {body} tokens of text, but {name} has {len(stream)}",
            fix="add text, hold out another share, or pass a shorter --max-seq-length",
        )
    blocks = stream[: count * body].reshape(count, body)
    if body < max_seq_length:
        edges = [
            np.tile(np.array(ids, dtype=np.int32), (count, 1))
            for ids in (special_prefix(tokenizer), special_suffix(tokenizer))
        ]
        blocks = np.concatenate([edges[0], blocks, edges[1]], axis=1)
    order = np.random.default_rng(abs(seed)).permutation(count)
    return np.ascontiguousarray(blocks[order[:limit]])
