"""Tables as rows: which columns hold what, and which rows have something to learn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.hub import read_split
from advisor.training.data.labels import label_texts
from advisor.training.data.named import DATASETS
from advisor.training.data.rows import CONVERSATION_COLUMN, Completion, Conversation, Message, PlainText, Row, RowKind
from advisor.training.data.tables import SUFFIX_KINDS, Table, read_table, read_text


def open_table(spec: DataSpec, source: str | None = None) -> Table:
    """The table of a source that is not plain text.

    Args:
        spec: Names the training source.
        source: Held-out file or split; ``None`` opens the training source.

    Raises:
        DataError: it cannot be found or read.
    """
    if source is None and spec.kind == "demo":
        return DATASETS.get(spec.source).table()
    if spec.kind == "datasets":
        return read_split(spec.source, spec.split if source is None else source)
    path = Path(source or spec.source).expanduser()
    return read_table(path, SUFFIX_KINDS.get(path.suffix.lower(), spec.kind))


def labelled_texts(spec: DataSpec, table: Table) -> tuple[list[tuple[str, str | None]], list[str], int]:
    """Texts and label names of the rows that have text, and how many had none.

    Raises:
        DataError: a column is missing or holds something else, or no row is left.
    """
    firsts = _texts(table, spec.text_column or "")
    seconds = _texts(table, spec.text_pair_column) if spec.text_pair_column else [None] * len(firsts)
    labels = label_texts(table, spec.label_column or "")
    kept = [i for i, (text, pair) in enumerate(zip(firsts, seconds, strict=True)) if text and pair != ""]
    if not kept:
        raise nothing_left(table.name)
    return [(firsts[i], seconds[i]) for i in kept], [labels[i] for i in kept], len(firsts) - len(kept)


def unlabelled_rows(spec: DataSpec, kind: RowKind, eval_source: str | None = None) -> tuple[list[Row], int]:
    """Rows for language modelling that have something to learn, and how many had nothing.

    Args:
        spec: Names source and columns.
        kind: Which rows to make.
        eval_source: Held-out file or split; ``None`` reads the training source.

    Raises:
        DataError: a column is missing or holds something else, or no row is left.
    """
    name = eval_source or spec.source
    rows = _read_unlabelled(spec, kind, eval_source)
    kept = [row for row in rows if _has_target(row)]
    if not kept:
        raise nothing_left(name)
    return kept, len(rows) - len(kept)


def nothing_left(name: str) -> DataError:
    """The error for data without a usable row."""
    return DataError(
        f"a data set must have rows with text to learn from, but none is left of {name} after cleaning",
        fix="check the text column, and that training and evaluation are not the same rows",
    )


def _read_unlabelled(spec: DataSpec, kind: RowKind, eval_source: str | None) -> Sequence[Row]:
    path = Path(eval_source or spec.source).expanduser()
    file_kind = spec.kind if eval_source is None else SUFFIX_KINDS.get(path.suffix.lower(), spec.kind)
    if spec.kind != "datasets" and file_kind == "text":
        return _paragraphs(read_text(path))
    if spec.text_column is None:
        raise DataError(
            f"language modelling needs a text column, but {spec.source} was given without",
            fix="name it with --text-column",
        )
    table = open_table(spec, eval_source)
    if kind == "conversation":
        values = table.column(spec.text_column)
        return [_conversation(table, row, value) for row, value in enumerate(values, start=1)]
    texts = _texts(table, spec.text_column)
    if kind == "completion":
        completions = _texts(table, spec.text_pair_column or "")
        return [Completion(prompt, completion) for prompt, completion in zip(texts, completions, strict=True)]
    return [PlainText(text) for text in texts]


def _texts(table: Table, column: str) -> list[str]:
    """A column as stripped texts; missing values become empty.

    Raises:
        DataError: a value is neither text nor a number.
    """
    texts = []
    for row, value in enumerate(table.column(column), start=1):
        if value is not None and not isinstance(value, str | int | float):
            raise DataError(
                f"column {column!r} of {table.name} must hold text, but row {row} has a {type(value).__name__}",
                fix=f"name the column that holds the text; conversations go into one called {CONVERSATION_COLUMN!r}",
            )
        missing = value is None or value != value  # Parquet writers turn missing text into NaN
        texts.append("" if missing else str(value).strip())
    return texts


def _paragraphs(text: str) -> list[PlainText]:
    """Paragraphs between blank lines; the lines themselves when there are no blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    parts = re.split(r"\n\s*\n", text)
    return [PlainText(part.strip()) for part in (parts if len(parts) > 1 else text.split("\n"))]


def _conversation(table: Table, row: int, value: Any) -> Conversation:
    column = CONVERSATION_COLUMN
    rule = f"{column!r} must be a list of objects with role and content, but row {row} of {table.name}"
    if value is None:
        return Conversation(())
    if not isinstance(value, list):
        raise DataError(f"{rule} has a {type(value).__name__}", fix='[{"role": "user", "content": "..."}, ...]')
    messages = []
    for turn in value:
        role, content = (turn.get("role"), _content(turn.get("content"))) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or content is None:
            raise DataError(f"{rule} has {str(turn)[:80]!r}", fix='{"role": "user", "content": "..."}')
        messages.append(Message(role, content))
    return Conversation(tuple(messages))


def _content(value: Any) -> str | None:
    """Content of a turn: text, or the text parts of a list."""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    return value if isinstance(value, str) else None


def _has_target(row: Row) -> bool:
    if isinstance(row, Completion):
        return bool(row.completion)
    if isinstance(row, Conversation):
        return any(message.role == "assistant" and message.content.strip() for message in row.messages)
    return bool(row.text)
