"""Running text in equally long blocks, so that no token is wasted on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import DataError, ModelError
from advisor.training.data.rows import Row
from advisor.training.data.rules import Edges

_CHUNK_DOCUMENTS = 256


@dataclass(frozen=True)
class TokenStream:
    """Text as one row of tokens.

    Attributes:
        ids: Token ids, int32, shape (tokens,).
        starts: Where documents begin in it, ascending, shape (documents,).
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self) -> NDArray[np.int32]:
        """Of each token in its document, from 0, shape (tokens,)."""
        lengths = np.diff(np.append(self.starts, len(self.ids)))
        return (np.arange(len(self.ids)) - np.repeat(self.starts, lengths)).astype(np.int32)


LEAK = 0.05
"""Of the spread of a model's scores. A mask in place leaves rounding; without one, scores differ about as much as they
spread."""


def require_separation(model: Any, ids: Sequence[int], name: str) -> None:
    """Whether a model scores a document the same behind another one as alone.

    Args:
        model: Takes ``input_ids`` and ``position_ids`` and gives ``logits``.
        ids: Tokens of any text; halves of it, of 32 tokens at most, are the documents.
        name: How messages call the model.

    Raises:
        ModelError: it does not.
    """
    import torch

    half = min(32, len(ids) // 2)
    device = next(model.parameters()).device
    tokens = torch.tensor([list(ids[: 2 * half])], device=device)
    positions = torch.arange(half, device=device)[None]
    twice = torch.cat([positions, positions], dim=1)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        behind = model(input_ids=tokens, position_ids=twice).logits[:, -half:].float()
        alone = model(input_ids=tokens[:, half:], position_ids=positions).logits[:, -half:].float()
    model.train(was_training)
    if (behind - alone).abs().mean() > LEAK * alone.std():
        raise ModelError(
            f"documents of a block must not see each other, but {name} scores a document otherwise behind another one",
            fix="pass --packing joined",
        )


def token_stream(rows: Sequence[Row], tokenizer: Any, edges: Edges, *, continuous: bool) -> TokenStream:
    """All text as one row of token ids. Paragraphs of one continuous text are joined by new lines.

    Args:
        rows: Documents, or paragraphs of one text.
        tokenizer: The model's own.
        edges: What stands around every document, or around the one continuous text.
        continuous: Whether the rows are paragraphs of one text.
    """
    before, end = edges
    parts: list[int] = list(before) if continuous else []
    starts = [0] if continuous else []
    for start in range(0, len(rows), _CHUNK_DOCUMENTS):
        texts = [row.texts[0] + ("\n" if continuous else "") for row in rows[start : start + _CHUNK_DOCUMENTS]]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in encoded:
            if not continuous:
                starts.append(len(parts))
            parts += ids if continuous else [*before, *ids, *end]
    ids = np.array(parts + (end if continuous else []), dtype=np.int32)
    return TokenStream(ids, np.array(starts, dtype=np.int64))


@dataclass(frozen=True)
class Blocks:
    """Packed text.

    Attributes:
        ids: Token ids, int32, shape (blocks, max_seq_length).
        positions: Of each token in the part of its document that is in the block, same shape; those of a block with
            tokens around it count through.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]


def block_body_tokens(edges: Edges, max_seq_length: int) -> int:
    """Text tokens of a block: all of it, less what stands around every block."""
    return max_seq_length - len(edges[0]) - len(edges[1])


def pack(
    stream: TokenStream,
    edges: Edges,
    *,
    max_seq_length: int,
    seed: int,
    limit: int | None,
    name: str,
) -> Blocks:
    """Cut a stream of tokens into blocks; what is left at the end is dropped.

    Args:
        stream: All text.
        edges: What stands around every block.
        max_seq_length: Length of a block.
        seed: Of the order of the blocks.
        limit: How many to keep; fewer are a prefix of more.
        name: How messages call the text.

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
    blocks = stream.ids[: count * body].reshape(count, body)
    order = np.random.default_rng(abs(seed)).permutation(count)[:limit]
    # A document that goes on from one block to the next begins anew there.
    starts = np.unique(np.append(stream.starts, np.arange(count) * body))
    positions = TokenStream(stream.ids, starts).positions()[: count * body].reshape(count, body)
    if body < max_seq_length:
        before, after = (np.tile(np.array(ids, dtype=np.int32), (count, 1)) for ids in edges)
        blocks = np.concatenate([before, blocks, after], axis=1)
        positions = np.tile(np.arange(max_seq_length, dtype=np.int32), (count, 1))
    return Blocks(np.ascontiguousarray(blocks[order]), np.ascontiguousarray(positions[order]))
