"""Running text in equally long blocks, so that no token is wasted on padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import DataError
from advisor.training.data.rows import Row
from advisor.training.data.rules import Edges

_CHUNK_DOCUMENTS = 256


def token_stream(rows: Sequence[Row], tokenizer: Any, edges: Edges, *, continuous: bool) -> NDArray[np.int32]:
    """All text as one row of token ids. Paragraphs of one continuous text are joined by new lines.

    Args:
        rows: Documents, or paragraphs of one text.
        tokenizer: The model's own.
        edges: What stands around every document, or around the one continuous text.
        continuous: Whether the rows are paragraphs of one text.

    Returns:
        Token ids, shape (tokens,).
    """
    before, end = edges
    parts: list[int] = list(before) if continuous else []
    for start in range(0, len(rows), _CHUNK_DOCUMENTS):
        texts = [row.texts[0] + ("\n" if continuous else "") for row in rows[start : start + _CHUNK_DOCUMENTS]]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in encoded:
            parts += ids if continuous else [*before, *ids, *end]
    return np.array(parts + (end if continuous else []), dtype=np.int32)


def block_body_tokens(edges: Edges, max_seq_length: int) -> int:
    """Text tokens of a block: all of it, less what stands around every block."""
    return max_seq_length - len(edges[0]) - len(edges[1])


def pack(
    stream: NDArray[np.int32],
    edges: Edges,
    *,
    max_seq_length: int,
    seed: int,
    limit: int | None,
    name: str,
) -> NDArray[np.int32]:
    """Cut a stream of tokens into blocks; what is left at the end is dropped.

    Args:
        stream: Token ids, shape (tokens,).
        edges: What stands around every block.
        max_seq_length: Length of a block.
        seed: Of the order of the blocks.
        limit: How many to keep; fewer are a prefix of more.
        name: How messages call the text.

    Returns:
        Blocks, shape (blocks, max_seq_length).

    Raises:
        DataError: the text does not fill one block.
    """
    body = block_body_tokens(edges, max_seq_length)
    count = len(stream) // body
    if count < 1:
        raise DataError(
            f"a block needs {body} tokens of text, but {name} has {len(stream)}",
            fix="add text, hold out another share, or pass a shorter --max-seq-length",
        )
    blocks = stream[: count * body].reshape(count, body)
    if body < max_seq_length:
        before, after = (np.tile(np.array(ids, dtype=np.int32), (count, 1)) for ids in edges)
        blocks = np.concatenate([before, blocks, after], axis=1)
    order = np.random.default_rng(abs(seed)).permutation(count)
    return np.ascontiguousarray(blocks[order[:limit]])
