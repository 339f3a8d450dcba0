"""What planning needs to know of a data set: sizes, token lengths, classes, findings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.data import PAD_MULTIPLE, DataProfile, DataSpec, padded_length
from advisor.core.errors import DataError
from advisor.core.model import ModelSpec
from advisor.training.data.loading import load_timed_rows
from advisor.training.data.packing import block_body_tokens, token_stream
from advisor.training.data.rows import Row, Rows
from advisor.training.data.rules import DataRules, data_rules

SAMPLE_ROWS = 2000
"""Rows whose lengths are always measured."""
SAMPLE_TEXT_BYTES, SAMPLE_MOST_ROWS = 4_000_000, 5000
"""Further rows are measured where they are short, half a second of tokenising: 2,000 of 9,000 sentences left the mean
length of a batch of 32 random ones uncertain by 3 %."""
QUANTILES = 101
DEFAULT_LIMIT_TOKENS = 512
"""Longest default: the positions of BERT-size encoders."""
PACKED_SMALL_TOKENS = 128
SMALL_MODEL_PARAMETERS = 200_000_000
"""Models below this get blocks of 128 tokens by default, larger ones of 512: long blocks are slow on the machines that
small models are trained on. Any length can be asked for."""
EXACT_TEXT_BYTES = 8_000_000
"""Up to this size all text is tokenised to count its blocks (about two seconds); beyond, it is extrapolated."""


def profile_data(spec: DataSpec, model: ModelSpec, tokenizer: Any, *, max_seq_length: int | None = None) -> DataProfile:
    """Measure a data set with the model's own tokenizer.

    Lengths come from the first training rows, since they are already in seeded order: 2,000, and up to 5,000
    of up to 4 MB of text. Truncated rows are exact when all training rows are in the sample, and scaled up from it
    otherwise.

    Args:
        spec: As ``resolve_data`` made it.
        model: Decides task and longest sequence.
        tokenizer: The model's own.
        max_seq_length: Where rows are cut; ``None`` takes the longest row of the sample rounded up to a multiple of
            8, at most 512 and at most the model's positions. Packed text: 128 for small models, else 512.

    Raises:
        DataError: the data cannot be used, or the length (where none is named: of all rows) is beyond the model's
            positions.
    """
    if max_seq_length is not None:
        require_max_seq_length(max_seq_length, model)
    rows, reading_s = load_timed_rows(spec, model.task)
    if rows.kind == "text":
        return _packed_profile(spec, rows, reading_s, model, tokenizer, max_seq_length)
    sample = _length_sample(rows.train)
    lengths, tokenizing_s = _sorted_lengths(sample, tokenizer, data_rules(model.task))
    shortest, longest = int(lengths[0]), int(lengths[-1])
    if max_seq_length is None and model.max_positions is not None and shortest > model.max_positions:
        raise DataError(
            f"some rows must fit into the model's {model.max_positions} positions, but the shortest of {len(sample):,}"
            f" rows of {spec.source} has {shortest:,} tokens",
            fix=f"pass --max-seq-length {model.max_positions} to train on the beginning of each row, split the rows, or"
            " choose a model with more positions",
        )
    limit = max_seq_length or default_max_seq_length(longest, model)
    truncated = int((lengths > limit).sum())
    cut = np.minimum(lengths, limit)
    return DataProfile(
        train_rows=len(rows.train),
        eval_rows=len(rows.eval),
        token_length_quantiles=tuple(int(q) for q in np.quantile(cut, np.linspace(0, 1, QUANTILES), method="nearest")),
        max_token_length=longest,
        max_seq_length=limit,
        sampled_rows=len(sample),
        truncated_rows=round(truncated * len(rows.train) / len(sample)),
        length_counts=tuple(int(count) for count in np.bincount(np.maximum(cut - 1, 0) // PAD_MULTIPLE)),
        reading_s=reading_s,
        tokenizing_s_per_row=tokenizing_s / len(sample),
        **_common(rows),
    )


def _length_sample(rows: Sequence[Row]) -> Sequence[Row]:
    """The first rows, more of them where they are short."""
    characters = 0
    for number, row in enumerate(rows[:SAMPLE_MOST_ROWS]):
        if number >= SAMPLE_ROWS and characters > SAMPLE_TEXT_BYTES:
            return rows[:number]
        characters += sum(len(text) for text in row.texts)
    return rows[:SAMPLE_MOST_ROWS]


def _sorted_lengths(sample: Sequence[Row], tokenizer: Any, rules: DataRules) -> tuple[NDArray[np.int64], float]:
    """Tokens of each row, and the seconds that tokenising them took. One row goes first: what a tokenizer builds on its
    first call is no cost of a row.
    """
    next(rules.encode(sample[:1], tokenizer, max_seq_length=None))
    started_s = time.perf_counter()
    lengths = [row.length for row in rules.encode(sample, tokenizer, max_seq_length=None)]
    return np.sort(np.array(lengths, dtype=np.int64)), time.perf_counter() - started_s


def default_max_seq_length(longest_tokens: int, model: ModelSpec) -> int:
    """Longest row rounded up to a multiple of 8, at most 512 and at most the model's positions."""
    rounded = padded_length(longest_tokens)
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
    if max_seq_length < PAD_MULTIPLE:
        raise DataError(
            f"max_seq_length must be at least {PAD_MULTIPLE}, but got {max_seq_length}",
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
    spec: DataSpec, rows: Rows, reading_s: float, model: ModelSpec, tokenizer: Any, max_seq_length: int | None
) -> DataProfile:
    small = model.total_parameters < SMALL_MODEL_PARAMETERS
    longest = model.max_positions or DEFAULT_LIMIT_TOKENS
    length = max_seq_length or min(PACKED_SMALL_TOKENS if small else DEFAULT_LIMIT_TOKENS, longest)
    rules = data_rules(model.task)
    body = block_body_tokens(rules.block_edges(tokenizer), length)
    continuous = spec.kind == "text"

    def block_count(part: Sequence[Row], limit: int | None, what: str) -> tuple[int, int, float]:
        sample = _text_sample(part)
        started_s = time.perf_counter()
        tokens = len(token_stream(sample, tokenizer, rules.document_edges(tokenizer), continuous=continuous))
        whole = _text_bytes(part) / max(_text_bytes(sample), 1)
        tokenizing_s = whole * (time.perf_counter() - started_s)
        tokens = round(tokens * whole)
        if tokens < body:
            raise DataError(
                f"a block needs {body} tokens of text, but the {what} part of {spec.source} has {tokens}",
                fix="add text, hold out another share, or pass a shorter --max-seq-length",
            )
        return min(tokens // body, limit or tokens), len(sample), tokenizing_s

    train_blocks, sampled, train_s = block_count(rows.train, spec.max_train_rows, "training")
    eval_blocks, _, eval_s = block_count(rows.eval, spec.max_eval_rows, "held-out")
    return DataProfile(
        train_rows=train_blocks,
        eval_rows=eval_blocks,
        token_length_quantiles=(length,) * QUANTILES,
        max_token_length=length,
        max_seq_length=length,
        sampled_rows=sampled,
        reading_s=reading_s + train_s + eval_s,
        tokenizing_s_per_row=0.0,
        separate_documents=spec.separate_documents,
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


def data_findings(profile: DataProfile) -> list[str]:
    """What cleaning found, in words; empty when there is nothing to say."""
    counted = {
        "empty rows were dropped": profile.empty_rows,
        "rows occur more than once in the training split": profile.duplicate_rows,
        "training rows also in the held-out split were dropped": profile.cross_split_duplicates,
        f"training rows are truncated to {profile.max_seq_length} tokens": profile.truncated_rows,
    }
    findings = [f"{count} {text}" for text, count in counted.items() if count]
    share = profile.majority_share
    one_each = sum(profile.class_counts.values()) <= profile.train_rows
    if share is not None and share > 0.9 and one_each:
        findings.append(f"{share:.0%} of the training rows have one label: accuracy alone says little here")
    return findings
