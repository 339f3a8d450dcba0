"""Rows as token ids, kept in flat arrays: 10,000 sentences take 1 MB and come out in about a second."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import DataError
from advisor.training.data.conversations import pair_texts, segments
from advisor.training.data.rows import (
    AnswerPair,
    Completion,
    Conversation,
    LabelledText,
    MultiLabelledText,
    Row,
    ScoredText,
    SourceAndTarget,
    TaggedText,
    TextOrPair,
)

IGNORED_LABEL = -100
"""Positions with this label do not count in the loss (``torch.nn.CrossEntropyLoss.ignore_index``)."""

_CHUNK_ROWS = 1000


@dataclass(frozen=True)
class EncodedRow:
    """One tokenised row.

    Attributes:
        input_ids: With special tokens.
        token_type_ids: Which text of a pair a token belongs to; only for models that look at it.
        target: Per token, whether it counts in the loss; ``None`` when the label is a class.
        tags: Label of every token, ``IGNORED_LABEL`` where it has none.
        written: Tokens of the text that is to be written from this one.
        rejected: Tokens of the answer that is not preferred, where ``target`` says which ``input_ids`` are the one that
            is.
        label: Class index, indices of the labels, or a number; ``None`` for language modelling.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None = None
    target: list[bool] | None = None
    label: int | float | tuple[int, ...] | None = None
    tags: list[int] | None = None
    written: list[int] | None = None
    rejected: list[int] | None = None

    @property
    def length(self) -> int:
        """Tokens that a batch must have room for: of the row, of what is written from it, or of its prompt with the
        longer answer.
        """
        other = len(self.written or ())
        if self.rejected is not None:
            other = (self.target or []).count(False) + len(self.rejected)
        return max(len(self.input_ids), other)


class EncodedDataset:
    """A map-style data set of tokenised rows, as ``torch.utils.data.DataLoader`` wants it.

    Args:
        rows: At least one, all of one kind.
        num_labels: Of which a row may have several.

    Attributes:
        lengths: Tokens of each row (or of what is written from it, where that is more), int64 array of shape (rows,).
    """

    def __init__(self, rows: Iterable[EncodedRow], num_labels: int = 0) -> None:
        # Rows become arrays one by one: as lists of numbers, long texts would take ten times the memory meanwhile.
        ids: list[NDArray[np.int32]] = []
        types: list[NDArray[np.int8]] = []
        target: list[NDArray[np.bool_]] = []
        tags: list[NDArray[np.int32]] = []
        written: list[NDArray[np.int32]] = []
        rejected: list[NDArray[np.int32]] = []
        lengths: list[int] = []
        labels: list[int | float | NDArray[np.float32]] = []
        for row in rows:
            ids.append(np.array(row.input_ids, dtype=np.int32))
            if row.token_type_ids is not None:
                types.append(np.array(row.token_type_ids, dtype=np.int8))
            if row.target is not None:
                target.append(np.array(row.target, dtype=np.bool_))
            lengths.append(row.length)
            if row.written is not None:
                written.append(np.array(row.written, dtype=np.int32))
            if row.rejected is not None:
                rejected.append(np.array(row.rejected, dtype=np.int32))
            if row.tags is not None:
                tags.append(np.array(row.tags, dtype=np.int32))
            if isinstance(row.label, tuple):
                labels.append(np.isin(np.arange(num_labels), row.label).astype(np.float32))
            elif row.label is not None:
                labels.append(row.label)
        self.lengths: NDArray[np.int64] = np.array(lengths, dtype=np.int64)
        self._starts = np.cumsum([0, *(len(part) for part in ids)])
        self._written = written
        self._rejected = rejected
        self._input_ids = np.concatenate(ids)
        self._token_type_ids = np.concatenate(types) if types else None
        self._target = np.concatenate(target) if target else None
        self._labels = np.array(labels) if labels else None
        self._tags = np.concatenate(tags) if tags else None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def class_labels(self) -> NDArray[Any]:
        """Labels of all rows, or of all their tokens where these are labelled; none of language modelling."""
        found = self._tags if self._tags is not None else self._labels
        return np.empty(0, dtype=np.int64) if found is None else found

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``input_ids`` [length], ``labels`` and, where there are any, ``token_type_ids``.

        Labels are a class or number, 0 or 1 for every label, or [length]. Pairs of answers come as ``prompt_ids``,
        ``chosen_ids`` and ``rejected_ids``, as TRL calls them.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = slice(self._starts[index], self._starts[index + 1])
        item: dict[str, Any] = {"input_ids": self._input_ids[part].tolist()}
        if self._rejected and self._target is not None:
            ids, answer = self._input_ids[part], self._target[part]
            parts = (ids[~answer], ids[answer], self._rejected[index])
            return dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), (p.tolist() for p in parts), strict=True))
        if self._token_type_ids is not None:
            item["token_type_ids"] = self._token_type_ids[part].tolist()
        if self._labels is not None:
            item["labels"] = self._labels[index].tolist()
        if self._written:
            item["labels"] = self._written[index].tolist()
        if self._tags is not None:
            item["labels"] = self._tags[part].tolist()
        if self._target is not None:
            item["labels"] = np.where(self._target[part], self._input_ids[part], IGNORED_LABEL).tolist()
        return item


class BlockDataset:
    """Packed text: equally long blocks without padding.

    Args:
        blocks: Token ids, shape (blocks, max_seq_length).
        labels: Same shape, or ``None`` when the collator makes them.
        positions: Same shape, from 0 in every document of a block; ``None`` where a block is one text.
    """

    def __init__(
        self,
        blocks: NDArray[np.int32],
        labels: NDArray[np.int32] | None = None,
        positions: NDArray[np.int32] | None = None,
    ) -> None:
        self._blocks = blocks
        self._labels = labels
        self._positions = positions
        self.lengths: NDArray[np.int64] = np.full(len(blocks), blocks.shape[1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {"input_ids": self._blocks[index].tolist()}
        if self._labels is not None:
            item["labels"] = self._labels[index].tolist()
        if self._positions is not None:
            item["position_ids"] = self._positions[index].tolist()
        return item


def encode(
    rows: Sequence[Row], tokenizer: Any, *, max_seq_length: int | None, token_types: bool = False
) -> Iterator[EncodedRow]:
    """Tokenise labelled rows, completions, conversations or pairs of answers.

    Args:
        rows: All of one kind.
        tokenizer: The model's own.
        max_seq_length: Where rows are cut; ``None`` leaves them whole.
        token_types: Whether labelled rows get ``token_type_ids``.

    Raises:
        DataError: the tokenizer's chat template refuses a conversation.
    """
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[start : start + _CHUNK_ROWS]
        if isinstance(chunk[0], TextOrPair):
            labelled = [row for row in chunk if isinstance(row, TextOrPair)]
            yield from _encode_labelled(labelled, tokenizer, max_seq_length, token_types)
        elif isinstance(chunk[0], TaggedText):
            tagged = [row for row in chunk if isinstance(row, TaggedText)]
            yield from _encode_tagged(tagged, tokenizer, max_seq_length, token_types)
        elif isinstance(chunk[0], SourceAndTarget):
            pairs = [row for row in chunk if isinstance(row, SourceAndTarget)]
            yield from _encode_pairs(pairs, tokenizer, max_seq_length)
        elif isinstance(chunk[0], AnswerPair):
            answers = [row for row in chunk if isinstance(row, AnswerPair)]
            yield from _encode_answers(answers, tokenizer, max_seq_length)
        else:
            spoken = [row for row in chunk if isinstance(row, Completion | Conversation)]
            yield from _encode_targets(spoken, tokenizer, max_seq_length)


def special_prefix(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer puts before a text: the beginning-of-sequence or classification token, or nothing."""
    return _specials(tokenizer)[0]


def special_suffix(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer puts after a text: the separator, or nothing."""
    return _specials(tokenizer)[1]


def _specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _encode_labelled(
    rows: Sequence[TextOrPair], tokenizer: Any, max_seq_length: int | None, token_types: bool
) -> Iterator[EncodedRow]:
    texts = [row.text for row in rows]
    pairs = [row.pair or "" for row in rows] if rows[0].pair is not None else None
    encoded = tokenizer(
        texts,
        pairs,
        truncation=max_seq_length is not None,
        max_length=max_seq_length,
        return_attention_mask=False,
        return_token_type_ids=token_types,
        verbose=False,
    )
    types = encoded["token_type_ids"] if token_types else [None] * len(rows)
    for row, ids, kinds in zip(rows, encoded["input_ids"], types, strict=True):
        yield EncodedRow(list(ids), kinds, label=_label(row))


def _encode_tagged(
    rows: Sequence[TaggedText], tokenizer: Any, max_seq_length: int | None, token_types: bool
) -> Iterator[EncodedRow]:
    """The first token that ends in a word has the word's tag; further ones, and special tokens, have none."""
    if not tokenizer.is_fast:
        raise DataError(
            "words are told from their tokens by a fast tokenizer, but this model's is a slow one",
            fix="put a tokenizer.json into the model's folder",
        )
    encoded = tokenizer(
        [row.text for row in rows],
        truncation=max_seq_length is not None,
        max_length=max_seq_length,
        return_attention_mask=False,
        return_token_type_ids=token_types,
        return_offsets_mapping=True,
        verbose=False,
    )
    types = encoded["token_type_ids"] if token_types else [None] * len(rows)
    for row, ids, kinds, places in zip(rows, encoded["input_ids"], types, encoded["offset_mapping"], strict=True):
        yield EncodedRow(list(ids), kinds, tags=_tags_of_tokens(row, places))


def _encode_pairs(rows: Sequence[SourceAndTarget], tokenizer: Any, max_seq_length: int | None) -> Iterator[EncodedRow]:
    """Sources and targets with the tokenizer's special tokens; both are cut at the same length."""
    options = {"truncation": max_seq_length is not None, "max_length": max_seq_length, "verbose": False}
    sources = tokenizer([row.source for row in rows], return_attention_mask=False, **options)["input_ids"]
    targets = tokenizer(text_target=[row.target for row in rows], return_attention_mask=False, **options)["input_ids"]
    for source, target in zip(sources, targets, strict=True):
        yield EncodedRow(list(source), written=list(target))


def _encode_answers(rows: Sequence[AnswerPair], tokenizer: Any, max_seq_length: int | None) -> Iterator[EncodedRow]:
    """As TRL's ``DPOTrainer`` does it: the prompt alone and with each answer; answers begin where the tokens of these
    differ from the prompt's.

    Answers are cut from the right. A prompt that leaves no room for one loses its beginning, down to half of the row;
    TRL drops such rows.
    """
    parts = [pair_texts(row, tokenizer) for row in rows]
    texts = [text for row_parts in parts for text in row_parts]
    special = {"add_special_tokens": isinstance(rows[0].chosen, str)}  # a chat template brings its own
    ids = iter(tokenizer(texts, return_attention_mask=False, verbose=False, **special)["input_ids"])
    for _ in rows:
        alone, *whole = (list(next(ids)) for _ in range(3))
        shared = min(_shared_tokens(alone, answered) for answered in whole)
        prompt, (chosen, rejected) = alone[:shared], (answered[shared:] for answered in whole)
        if max_seq_length is not None:
            if len(prompt) >= max_seq_length:
                prompt = prompt[-(max_seq_length // 2) :]
            room = max_seq_length - len(prompt)
            chosen, rejected = chosen[:room], rejected[:room]
        target = [False] * len(prompt) + [True] * len(chosen)
        yield EncodedRow(prompt + chosen, target=target, rejected=rejected)


def _shared_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _tags_of_tokens(row: TaggedText, places: Sequence[tuple[int, int]]) -> list[int]:
    starts = [start for start, _ in row.words]
    tags, seen = [IGNORED_LABEL] * len(places), -1
    for index, (start, end) in enumerate(places):
        word = bisect.bisect_right(starts, end - 1) - 1  # some tokenizers count the blank before a word to its token
        if end > start and word > seen and row.words[word][0] < end <= row.words[word][1]:
            tags[index], seen = row.tags[word], word
    return tags


def _label(row: TextOrPair) -> int | float | tuple[int, ...] | None:
    match row:
        case LabelledText(label=label):
            return label
        case MultiLabelledText(labels=labels):
            return labels
        case ScoredText(value=value):
            return value
    return None


def _encode_targets(
    rows: Sequence[Completion | Conversation], tokenizer: Any, max_seq_length: int | None
) -> Iterator[EncodedRow]:
    parts = [segments(row, tokenizer) for row in rows]
    texts = [segment.text for row_parts in parts for segment in row_parts]
    ids = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
    prefix = special_prefix(tokenizer)
    for row_parts in parts:
        tokens: list[int] = [] if row_parts[0].complete else list(prefix)
        target = [False] * len(tokens)
        for segment in row_parts:
            piece = list(next(ids))
            if segment.ends and tokenizer.eos_token_id is not None:
                piece.append(tokenizer.eos_token_id)
            tokens += piece
            target += [segment.is_target] * len(piece)
        yield _cut(tokens, target, max_seq_length)


def _cut(tokens: list[int], target: list[bool], max_seq_length: int | None) -> EncodedRow:
    """Cut from the right, unless that removes everything that is to be learned: then the window moves to it."""
    if max_seq_length is None or len(tokens) <= max_seq_length:
        return EncodedRow(tokens, target=target)
    start = 0
    # The first position of a window predicts nothing, so a target there does not count.
    if not any(target[1:max_seq_length]):
        first = target.index(True)
        start = max(min(first - max_seq_length // 2, len(tokens) - max_seq_length), 0)
    part = slice(start, start + max_seq_length)
    return EncodedRow(tokens[part], target=target[part])
