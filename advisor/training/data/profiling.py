"""What planning needs to know of a data set: sizes, token lengths, classes, findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import DataError
from advisor.core.model import ModelSpec
from advisor.training.data.encoding import encode
from advisor.training.data.loading import load_rows
from advisor.training.data.packing import block_body_tokens, token_stream
from advisor.training.data.rows import Row, Rows

SAMPLE_ROWS = 2000
QUANTILES = 101
DEFAULT_LIMIT_TOKENS = 512
"""Longest default: the positions of BERT-size encoders."""
PACKED_SMALL_TOKENS = 128
SMALL_MODEL_PARAMETERS = 200_000_000
"""Models below this get blocks of 128 tokens by default, larger ones of 512: long blocks are slow on the machines that
small models are trained on. Any length can be asked for."""
EXACT_TEXT_BYTES = 8_000_000
"""Up to this size all text is tokenised to count its blocks (about two seconds); beyond, it is extrapolated."""
_ROUND_TOKENS = 8


def profile_data(spec: DataSpec, model: ModelSpec, tokenizer: Any, *, max_seq_length: int | None = None) -> DataProfile:
    """Measure a data set with the model's own tokenizer.

    Lengths come from at most 2,000 training rows: the first, since the rows are already in seeded order. Truncated
    rows are exact when all training rows are in the sample, and scaled up from it otherwise.

    Args:
        spec: As ``resolve_data`` made it.
        model: Decides task and longest sequence.
        tokenizer: The model's own.
        max_seq_length: Where rows are cut; ``None`` takes the longest row of the sample rounded up to a multiple of
            8, at most 512 and at most the model's positions. Packed text: 128 for small models, else 512.

    Raises:
        DataError: the data cannot be used, or the length is beyond the model's positions.
    """
    if max_seq_length is not None:
        require_max_seq_length(max_seq_length, model)
    rows = load_rows(spec, model.task)
    if rows.kind == "text":
        return _packed_profile(spec, rows, model, tokenizer, max_seq_length)
    sample = rows.train[:SAMPLE_ROWS]
    lengths = np.sort([len(row.input_ids) for row in encode(sample, tokenizer, max_seq_length=None)])
    longest = int(lengths[-1])
    limit = max_seq_length or default_max_seq_length(longest, model)
    truncated = int((lengths > limit).sum())
    cut = np.minimum(lengths, limit)
    return DataProfile(
        train_rows=len(rows.train),
        eval_rows=len(rows.eval),
        token_length_quantiles=tuple(int(q) for q in np.quantile(cut, np.linspace(0, 1, QUANTILES), method="higher")),
        max_token_length=longest,
        max_seq_length=limit,
        sampled_rows=len(sample),
        truncated_rows=round(truncated * len(rows.train) / len(sample)),
        **_common(rows),
    )


def default_max_seq_length(longest_tokens: int, model: ModelSpec) -> int:
    """Longest row rounded up to a multiple of 8, at most 512 and at most the model's positions."""
    rounded = -(-longest_tokens // _ROUND_TOKENS) * _ROUND_TOKENS
    return min(rounded, DEFAULT_LIMIT_TOKENS, model.max_positions or DEFAULT_LIMIT_TOKENS)


def require_max_seq_length(max_seq_length: int, model: ModelSpec) -> None:
    """Refuse lengths that the model cannot take.

    Raises:
        DataError: beyond the positions, or too short to hold text between special tokens.
    """
    if model.max_positions is not None and max_seq_length > model.max_positions:
        raise DataError(
            f"max_seq_length must be at most the model's {model.max_positions} positions, but got {max_seq_length}",
            fix=f"pass --max-seq-length {model.max_positions} or less; longer rows are truncated",
        )
    if max_seq_length < _ROUND_TOKENS:
        raise DataError(
            f"max_seq_length must be at least {_ROUND_TOKENS}, but got {max_seq_length}",
            fix="pass a longer --max-seq-length",
        )


def _common(rows: Rows) -> dict[str, Any]:
    return {
        "class_counts": rows.class_counts,
        "empty_rows": rows.findings.empty_rows,
        "duplicate_rows": rows.findings.duplicate_rows,
        "cross_split_duplicates": rows.findings.cross_split_duplicates,
        "text_bytes": rows.text_bytes,
        "fingerprint": rows.fingerprint,
    }


def _packed_profile(
    spec: DataSpec, rows: Rows, model: ModelSpec, tokenizer: Any, max_seq_length: int | None
) -> DataProfile:
    small = model.total_parameters < SMALL_MODEL_PARAMETERS
    longest = model.max_positions or DEFAULT_LIMIT_TOKENS
    length = max_seq_length or min(PACKED_SMALL_TOKENS if small else DEFAULT_LIMIT_TOKENS, longest)
    body = block_body_tokens(tokenizer, model.task, length)
    continuous = spec.kind == "text"

    def block_count(part: Sequence[Row], limit: int | None, what: str) -> tuple[int, int]:
        sample = _text_sample(part)
        tokens = len(token_stream(sample, tokenizer, model.task, continuous=continuous))
        tokens = round(tokens * _text_bytes(part) / max(_text_bytes(sample), 1))
        if tokens < body:
            raise DataError(
                f"a block needs {body} tokens of text, but the {what} part of {spec.source} has {tokens}",
                fix="add text, hold out another share, or pass a shorter --max-seq-length",
            )
        return min(tokens // body, limit or tokens), len(sample)

    train_blocks, sampled = block_count(rows.train, spec.max_train_rows, "training")
    eval_blocks, _ = block_count(rows.eval, spec.max_eval_rows, "held-out")
    return DataProfile(
        train_rows=train_blocks,
        eval_rows=eval_blocks,
        token_length_quantiles=(length,) * QUANTILES,
        max_token_length=length,
        max_seq_length=length,
        sampled_rows=sampled,
        **_common(rows),
    )


def _text_bytes(rows: Sequence[Row]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for row in rows for text in row.texts)


def _text_sample(rows: Sequence[Row]) -> Sequence[Row]:
    """All rows, or the first of them up to the size that is tokenised for counting."""
    total = 0
    for number, row in enumerate(rows):
        total += sum(len(text) for text in row.texts)
        if total > EXACT_TEXT_BYTES:
            return rows[: number + 1]
    return rows
