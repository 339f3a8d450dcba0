"""Tables as rows: which columns hold what, and which rows have something to learn from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.cells import CellError, is_absent, is_text, text_of
from advisor.training.data.delimited import DELIMITERS
from advisor.training.data.formats import (
    CHAT,
    FORMATS,
    PREFERENCE,
    PROMPT_COMPLETION,
    RUNNING_TEXT,
    TEXT,
    WORDS_WITH_TAGS,
    RowFormat,
)
from advisor.training.data.hub import read_split
from advisor.training.data.label_values import label_columns, label_numbers, label_sets
from advisor.training.data.labels import known_classes, label_texts, looks_like_classes, spelling_findings
from advisor.training.data.named import DATASETS
from advisor.training.data.rows import (
    ASSISTANT,
    AnswerPair,
    Completion,
    Conversation,
    PlainText,
    Row,
    RowKind,
    SourceAndTarget,
)
from advisor.training.data.tables import KNOWN_NAMES, Table, read_table
from advisor.training.data.text_files import file_kind, read_text


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
    kind = file_kind(path)
    if spec.kind == "conll" and kind in (None, "text"):
        kind = spec.kind  # such files often end in .txt
    return read_table(path, kind or spec.kind, spec.reading)


def stamp(spec: DataSpec) -> tuple[Any, ...]:
    """Changes whenever a local file changes."""
    names = [DATASETS.get(spec.source).path() if spec.kind == "demo" else Path(spec.source).expanduser()]
    names += [Path(spec.eval_source).expanduser()] if spec.eval_source else []
    return tuple((p.stat().st_mtime_ns, p.stat().st_size) if p is not None and p.is_file() else None for p in names)


@dataclass(frozen=True)
class RawRows:
    """Rows of a source that have something to learn from.

    Attributes:
        rows: In the order of the source; of words with tags, what rows are made of when all tags are known.
        empty_rows: How many had nothing.
        row_format: How they were read.
        notes: What is worth knowing of the reading, each a sentence for the user.
        other_splits: What else the source holds.
    """

    rows: list[Any]
    empty_rows: int
    row_format: RowFormat
    notes: tuple[str, ...] = ()
    other_splits: tuple[str, ...] = ()


_LOOK_CHARACTERS = 20_000
Label: TypeAlias = str | tuple[str, ...] | float
"""A class, several labels, or a number."""


@dataclass(frozen=True)
class RawLabels:
    """Labelled texts of a source.

    Attributes:
        texts: Texts, or pairs of them, of the rows that have both text and label.
        labels: Their classes, sets of labels, or numbers.
        empty_rows: How many rows had no text.
        declared: Classes in the order that the source declares.
        notes: What is worth knowing of the reading, each a sentence for the user.
        other_splits: What else the source holds.
    """

    texts: list[tuple[str, str | None]]
    labels: list[Any]
    empty_rows: int
    declared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    other_splits: tuple[str, ...] = ()


def labelled_texts(spec: DataSpec, kind: RowKind, eval_source: str | None = None) -> RawLabels:
    """Texts and labels of the rows that have both.

    Args:
        spec: Names source and columns.
        kind: Which labels: ``labelled``, ``multi-labelled`` or ``scored``.
        eval_source: Held-out file or split; ``None`` reads the training source.

    Raises:
        DataError: a column is missing or holds something else, or no row is left.
    """
    table = open_table(spec, eval_source)
    column = spec.label_column or ""
    firsts = _texts(table, spec.text_column or "")
    seconds = _texts(table, spec.text_pair_column) if spec.text_pair_column else [None] * len(firsts)
    labels: Sequence[Label | None] = _LABELS[kind](table, column, spec=spec)
    there = [i for i, (text, pair) in enumerate(zip(firsts, seconds, strict=True)) if text and pair != ""]
    kept = [(i, label) for i in there if (label := labels[i]) is not None]
    if not kept:
        raise nothing_left(table.name)
    used = (spec.text_column, spec.text_pair_column, *label_columns(table, column))
    notes = [*table.notes, *_unused(table, used)]
    if classes := [label for _, label in kept if isinstance(label, str)]:
        notes += spelling_findings(table, column, classes)
    if left_out := len(there) - len(kept):
        notes.append(f"{left_out} rows are left out: they have no label, or one of --drop-labels")
    return RawLabels(
        texts=[(firsts[i], seconds[i]) for i, _ in kept],
        labels=[label for _, label in kept],
        empty_rows=len(firsts) - len(there),
        declared=known_classes(table.class_names.get(column, ()), spec),
        notes=tuple(notes),
        other_splits=table.other_splits,
    )


_LABELS: dict[RowKind, Callable[..., Sequence[Label | None]]] = {
    "labelled": label_texts, "multi-labelled": label_sets, "scored": label_numbers
}  # fmt: skip


def tagged_texts(spec: DataSpec, eval_source: str | None = None) -> RawRows:
    """Texts with the raw tags of their words (``RawTagged``).

    Args:
        spec: Names source, format and columns.
        eval_source: Held-out file or split; ``None`` reads the training source.

    Raises:
        DataError: a column is missing or holds something else, or no row is left.
    """
    table = open_table(spec, eval_source)
    row_format = FORMATS.get(spec.format or WORDS_WITH_TAGS.name)
    columns = row_format.find(table, {"text_column": spec.text_column, "label_column": spec.label_column})
    if columns is None:
        raise _other_format(spec, table, row_format)
    rows = row_format.rows(table, columns, names=table.class_names.get(spec.label_column or "", ()))
    kept = [row for row in rows if row.words]
    if not kept:
        raise nothing_left(table.name)
    notes = (*table.notes, *_unused(table, tuple(columns.values())))
    return RawRows(kept, len(rows) - len(kept), row_format, notes, table.other_splits)


def unlabelled_rows(spec: DataSpec, kind: RowKind, eval_source: str | None = None) -> RawRows:
    """Rows without labels that have something to learn.

    Args:
        spec: Names source, format and columns.
        kind: Which rows to make, where ``spec`` names no format.
        eval_source: Held-out file or split; ``None`` reads the training source.

    Raises:
        DataError: a column is missing or holds something else, or no row is left.
    """
    path = Path(eval_source or spec.source).expanduser()
    splits: tuple[str, ...] = ()
    kind_of_file = spec.kind if eval_source is None else file_kind(path) or spec.kind
    if spec.kind != "datasets" and kind_of_file == "text":
        file = read_text(path, spec.reading.encoding)
        row_format, notes = RUNNING_TEXT, (*file.notes, *_table_in_text(path, file.text))
        rows: Sequence[Row] = _paragraphs(file.text)
    else:
        table = open_table(spec, eval_source)
        row_format = FORMATS.get(spec.format) if spec.format else _OLDER_FORMATS[kind]
        named = {"text_column": spec.text_column, "text_pair_column": spec.text_pair_column}
        columns = row_format.find(table, named)
        if columns is None:
            raise _other_format(spec, table, row_format)
        rows = row_format.rows(table, columns)
        notes, splits = (*table.notes, *_unused(table, tuple(columns.values()))), table.other_splits
    kept = [row for row in rows if _has_target(row)]
    if not kept:
        raise _nothing_to_learn(str(path), rows)
    told_apart = [row for row in kept if not (isinstance(row, AnswerPair) and row.chosen == row.rejected)]
    if not told_apart:
        raise DataError(
            f"one of two answers must be preferred, but chosen and rejected are equal in all {len(kept):,} rows of"
            f" {path}",
            fix="check that the columns chosen and rejected hold two different answers",
        )
    if alike := len(kept) - len(told_apart):
        notes = (*notes, f"{alike:,} rows are left out: their chosen and rejected answers are equal")
    return RawRows(told_apart, len(rows) - len(kept), row_format, notes, splits)


_OLDER_FORMATS = {"conversation": CHAT, "completion": PROMPT_COMPLETION, "text": TEXT, "answer-pair": PREFERENCE}
"""Of plans without a format."""


def _other_format(spec: DataSpec, table: Table, row_format: RowFormat) -> DataError:
    for column in (spec.text_column, spec.text_pair_column):
        if column is not None:
            table.column(column)
    return DataError(
        f"{table.name} must hold {row_format.title}, but its columns do not: {', '.join(map(repr, table.columns))}",
        fix="name a file with the same columns as the training data",
    )


def _unused(table: Table, used: Sequence[str | None]) -> list[str]:
    """Columns that nothing was read from, in a sentence; one without a name is numbers of rows."""
    unused = [name for name in table.columns if name and name not in used]
    return [f"columns of {Path(table.name).name} that are not used: {', '.join(map(repr, unused))}"] if unused else []


def nothing_left(name: str) -> DataError:
    """The error for data without a usable row."""
    return DataError(
        f"a data set must have rows with text to learn from, but none is left of {name} after cleaning",
        fix="check the text column, and that training and evaluation are not the same rows",
    )


def _nothing_to_learn(name: str, rows: Sequence[Row]) -> DataError:
    roles = {message.role for row in rows if isinstance(row, Conversation) for message in row.messages}
    if roles and ASSISTANT not in roles:
        return DataError(
            f"conversations must have turns of an assistant to learn, but those of {name} are by"
            f" {', '.join(sorted(roles)[:5])}",
            fix=f"rename the role that is to be learned to {ASSISTANT!r}",
        )
    return nothing_left(name)


def _texts(table: Table, column: str) -> list[str]:
    """A column as stripped texts; missing values become empty.

    Raises:
        DataError: a value is neither text nor a number.
    """
    texts = []
    for row, value in enumerate(table.column(column), start=1):
        try:
            texts.append(text_of(value))
        except CellError as failure:
            raise DataError(
                f"column {column!r} of {table.name} must hold text, but row {row} has {failure.got}",
                fix=_columns_of_text(table, but=column),
            ) from None
    return texts


def _columns_of_text(table: Table, but: str) -> str:
    firsts = {name: next((v for v in table.columns[name] if not is_absent(v)), None) for name in table.columns}
    texts = [name for name, value in firsts.items() if name != but and is_text(value)]
    names = [repr(name) for name in texts if not looks_like_classes(table.column(name))]
    if not names:
        return "write the text of every row into one column"
    return f"name one of {', '.join(names)} with --text-column"


def _table_in_text(path: Path, text: str) -> list[str]:
    """What else a file of running text may be, in a sentence: a table whose name ends in .txt, lines of fastText."""
    lines = [line for line in text[:_LOOK_CHARACTERS].splitlines()[:-1] if line.strip()]
    if len(lines) > 1 and all(line.startswith("__label__") for line in lines):
        return [f"{path.name} has labels of fastText; a table with a text and a label column is read with its labels"]
    for mark in DELIMITERS:
        names = [name.strip().lower() for name in (lines or [""])[0].split(mark)]
        same = len(lines) > 1 and all(line.count(mark) == len(names) - 1 for line in lines)
        if same and len(names) > 1 and KNOWN_NAMES.issuperset(names):
            return [f"{path.name} looks like a table; under a name that ends in .csv it is read as one"]
    return []


def _paragraphs(text: str) -> list[PlainText]:
    """Paragraphs between blank lines; the lines themselves when there are no blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    parts = re.split(r"\n\s*\n", text)
    return [PlainText(part.strip()) for part in (parts if len(parts) > 1 else text.split("\n"))]


def _has_target(row: Row) -> bool:
    if isinstance(row, Completion):
        return bool(row.completion)
    if isinstance(row, Conversation):
        return any(message.is_target for message in row.messages)
    if isinstance(row, SourceAndTarget):
        return bool(row.source and row.target)
    if isinstance(row, AnswerPair):
        return row.is_whole
    return isinstance(row, PlainText) and bool(row.text)
