"""From a DataSpec to cleaned, split and ordered rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.core.model import Task
from advisor.training.data.assets import asset_path
from advisor.training.data.hub import read_split
from advisor.training.data.labels import label_order, label_texts, require_classes
from advisor.training.data.rows import Completion, Conversation, Findings, LabelledText, Message, PlainText, Row, RowKind, Rows
from advisor.training.data.splitting import count_copies, drop_shared, hold_out, hold_out_tail, shuffled
from advisor.training.data.tables import SUFFIX_KINDS, Table, read_table, read_text


def load_rows(spec: DataSpec, task: Task) -> Rows:
    """Read, clean, split, order and cap a data set.

    The last result is kept, so that profiling and preparing the same data read it once; a changed file is read again.

    Args:
        spec: As ``resolve_data`` made it.
        task: Decides how columns are read.

    Raises:
        DataError: the data cannot be found, read, or used for the task.
    """
    return _cached(spec, task, _stamp(spec))


@lru_cache(maxsize=1)
def _cached(spec: DataSpec, task: Task, stamp: tuple[Any, ...]) -> Rows:
    return read_rows(spec, task)


def read_rows(spec: DataSpec, task: Task) -> Rows:
    """``load_rows`` without keeping the result."""
    kind = row_kind(spec, task)
    if kind == "labelled":
        return _labelled(spec)
    train, empty = _clean(_unlabelled(spec, kind, _main_table(spec) if spec.kind != "text" else None, spec.source))
    if not train:
        raise _nothing_left(spec.source)
    if spec.eval_source is not None:
        evaluation, empty_eval = _clean(_read_eval(spec, kind))
        empty += empty_eval
    elif spec.kind == "text":
        train, evaluation = hold_out_tail([r for r in train if isinstance(r, PlainText)], spec.eval_fraction, name=spec.source)
    else:
        train, evaluation = hold_out(train, spec.eval_fraction, spec.split_seed, name=spec.source)
    return _finish(spec, kind, train, evaluation, empty)


def row_kind(spec: DataSpec, task: Task) -> RowKind:
    """Which rows a task makes of a source."""
    if task == "sequence-classification":
        return "labelled"
    if task == "causal-lm" and spec.text_pair_column:
        return "completion"
    return "conversation" if task == "causal-lm" and spec.text_column == "messages" else "text"


def open_table(spec: DataSpec, source: str | None = None) -> Table:
    """The table of a source (default: the training one) that is not plain text."""
    if source is None and spec.kind == "demo":
        return read_table(asset_path(spec.source), "demo")
    if spec.kind == "datasets":
        return read_split(spec.source, spec.split) if source is None else read_split(spec.source, source)
    path = Path(source or spec.source).expanduser()
    return read_table(path, SUFFIX_KINDS.get(path.suffix.lower(), spec.kind))


def _main_table(spec: DataSpec) -> Table:
    return open_table(spec)


def _stamp(spec: DataSpec) -> tuple[Any, ...]:
    """Changes whenever a local file changes."""
    names = [asset_path(spec.source) if spec.kind == "demo" else Path(spec.source).expanduser()]
    names += [Path(spec.eval_source).expanduser()] if spec.eval_source else []
    return tuple((p.stat().st_mtime_ns, p.stat().st_size) if p.is_file() else None for p in names)


def _labelled(spec: DataSpec) -> Rows:
    if spec.text_column is None or spec.label_column is None:
        raise DataError(
            f"classification needs a text and a label column, but {spec.source} was given without",
            fix="name them with --text-column and --label-column",
        )
    table = open_table(spec)
    texts, labels, empty = _labelled_texts(spec, table)
    declared = table.class_names.get(spec.label_column, ())
    eval_texts: list[tuple[str, str | None]] = []
    eval_labels: list[str] = []
    if spec.eval_source is not None:
        eval_texts, eval_labels, empty_eval = _labelled_texts(spec, open_table(spec, spec.eval_source))
        empty += empty_eval
    require_classes(table.name, spec.label_column, labels)
    if unseen := sorted(set(eval_labels) - set(labels)):
        raise DataError(
            f"held-out labels must occur in training, but {', '.join(map(repr, unseen[:5]))} do not",
            fix="check that both sets name their labels alike",
        )
    names = label_order(labels, eval_labels, declared)
    index = {name: number for number, name in enumerate(names)}
    train: list[Row] = [LabelledText(*text, index[label]) for text, label in zip(texts, labels, strict=True)]
    evaluation: list[Row] = [LabelledText(*t, index[label]) for t, label in zip(eval_texts, eval_labels, strict=True)]
    if spec.eval_source is None:
        train, evaluation = hold_out(train, spec.eval_fraction, spec.split_seed, name=table.name)
    return _finish(spec, "labelled", train, evaluation, empty, names)


def _labelled_texts(spec: DataSpec, table: Table) -> tuple[list[tuple[str, str | None]], list[str], int]:
    """Texts and label names of the rows that have text, and how many had none."""
    firsts = _texts(table, spec.text_column or "")
    pairs = _texts(table, spec.text_pair_column) if spec.text_pair_column else [None] * len(firsts)
    labels = label_texts(table, spec.label_column or "")
    kept = [i for i, (text, pair) in enumerate(zip(firsts, pairs, strict=True)) if text and pair != ""]
    if not kept:
        raise _nothing_left(table.name)
    return [(firsts[i], pairs[i]) for i in kept], [labels[i] for i in kept], len(firsts) - len(kept)


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
                fix="name the column that holds the text",
            )
        texts.append("" if value is None else str(value).strip())
    return texts


def _unlabelled(spec: DataSpec, kind: RowKind, table: Table | None, source: str) -> list[Row]:
    if table is None:
        return list(_paragraphs(read_text(Path(source).expanduser())))
    column = spec.text_column
    if column is None:
        raise DataError(f"language modelling needs a text column, but {source} was given without", fix="name --text-column")
    if kind == "conversation":
        return [_conversation(table, row, value) for row, value in enumerate(table.column(column), start=1)]
    texts = _texts(table, column)
    if kind == "completion":
        return [Completion(p, c) for p, c in zip(texts, _texts(table, spec.text_pair_column or ""), strict=True)]
    return [PlainText(text) for text in texts]


def _read_eval(spec: DataSpec, kind: RowKind) -> list[Row]:
    source = spec.eval_source or ""
    plain = kind == "text" and spec.kind != "datasets" and SUFFIX_KINDS.get(Path(source).suffix.lower(), spec.kind) == "text"
    return _unlabelled(spec, kind, None if plain else open_table(spec, source), source)


def _paragraphs(text: str) -> list[PlainText]:
    """Paragraphs between blank lines; the lines themselves when there are no blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    parts = re.split(r"\n\s*\n", text)
    return [PlainText(part.strip()) for part in (parts if len(parts) > 1 else text.split("\n"))]


def _conversation(table: Table, row: int, value: Any) -> Conversation:
    rule = f"'messages' must be a list of objects with role and content, but row {row} of {table.name}"
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


def _clean(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Rows with something to learn, and how many had nothing."""
    kept = [row for row in rows if _has_target(row)]
    return kept, len(rows) - len(kept)


def _has_target(row: Row) -> bool:
    if isinstance(row, Completion):
        return bool(row.completion)
    if isinstance(row, Conversation):
        return any(message.role == "assistant" and message.content.strip() for message in row.messages)
    return bool(row.text)


def _finish(
    spec: DataSpec, kind: RowKind, train: list[Row], evaluation: list[Row], empty: int, names: tuple[str, ...] = ()
) -> Rows:
    train, shared = drop_shared(train, evaluation)
    if not train or not evaluation:
        raise _nothing_left(spec.source if evaluation else str(spec.eval_source))
    if spec.kind != "text":
        train, evaluation = shuffled(train, spec.split_seed), shuffled(evaluation, spec.split_seed)
    if kind != "text":
        train, evaluation = train[: spec.max_train_rows], evaluation[: spec.max_eval_rows]
    rows = Rows(
        kind=kind,
        train=tuple(train),
        eval=tuple(evaluation),
        label_names=names,
        findings=Findings(empty, count_copies(train), shared),
        columns=tuple(filter(None, (spec.text_column, spec.text_pair_column, spec.label_column))),
    )
    if names and sum(count > 0 for count in rows.class_counts.values()) < 2:
        raise DataError(
            f"training needs at least two classes, but the {len(train)} training rows of {spec.source} have one",
            fix="raise the cap on training rows, or hold out fewer rows",
        )
    return rows


def _nothing_left(name: str) -> DataError:
    return DataError(
        f"a data set must have rows with text to learn from, but none is left of {name} after cleaning",
        fix="check the text column, and that training and evaluation are not the same rows",
    )
