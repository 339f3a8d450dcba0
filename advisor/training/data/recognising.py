"""Which format the rows of a table are in, and what to say where that is not certain or cannot be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.core.tasks import TASKS
from advisor.training.data.cells import is_absent, is_text
from advisor.training.data.formats import (
    CHAT_COLUMNS,
    CHOSEN,
    FORMATS,
    INDEX_COLUMNS,
    LABEL_COLUMNS,
    PREFERENCE,
    RUNNING_TEXT,
    TEXT,
    TEXT_COLUMNS,
    Doubt,
    RowFormat,
    recognise,
)
from advisor.training.data.labels import looks_like_classes
from advisor.training.data.rows import LABEL_KINDS, RowKind
from advisor.training.data.rules import DataRules
from advisor.training.data.tables import Table


def with_format(spec: DataSpec, table: Table | None, kinds: Sequence[RowKind], task: str) -> DataSpec:
    """``spec`` with the format that its rows are in and the columns that it reads.

    Args:
        spec: Has the format and the columns that the user named.
        table: The source; ``None`` for running text.
        kinds: Of rows that the task learns from.
        task: How messages call it.

    Raises:
        DataError: the format is not certain, cannot be trained, or does not suit the task.
    """
    if table is None:
        _require_text(spec, kinds, task)
        return replace(spec, format=RUNNING_TEXT.name, label_column=None)
    named = _named_columns(spec)
    labelled = not set(kinds).isdisjoint(LABEL_KINDS)
    if not labelled:
        named["label_column"] = None  # which this task does not read
    if spec.format is not None:
        row_format = FORMATS.get(spec.format)
        if row_format.kind not in kinds:
            raise _unsuitable(spec, row_format, task)
        columns = row_format.find(table, named)
        if columns is None:
            raise _not_of_format(table, row_format)
    else:
        found = recognise(table, kinds, named, Doubt.MUCH)
        if found is None or _are_preferences(table, kinds, named):
            raise _unrecognised(spec, table, kinds, task, labelled)
        row_format, columns = found
    if row_format.refused:
        raise DataError(f"{table.name} holds {row_format.title}, but {row_format.refused}", fix=row_format.instead)
    used = row_format.columns_of(columns)
    return replace(
        spec,
        format=row_format.name,
        text_column=used.get("text_column"),
        text_pair_column=used.get("text_pair_column"),
        label_column=used.get("label_column"),
        stratified=row_format.kind == "labelled",
    )


def _are_preferences(table: Table, kinds: Sequence[RowKind], named: dict[str, str | None]) -> bool:
    """Whether a task that could learn one of two answers would take them for prompts alone, or for plain texts."""
    if CHOSEN.kind not in kinds or PREFERENCE.kind in kinds:
        return False
    first = recognise(table, (*kinds, PREFERENCE.kind), named)
    return first is not None and first[0] is PREFERENCE


def _named_columns(spec: DataSpec) -> dict[str, str | None]:
    return {name: getattr(spec, name) for name in ("text_column", "text_pair_column", "label_column")}


def _require_text(spec: DataSpec, kinds: Sequence[RowKind], task: str) -> None:
    """Running text has no columns."""
    if RUNNING_TEXT.kind not in kinds:
        raise DataError(
            f"{task} needs rows with columns, but {spec.source} is plain text",
            fix="name a CSV, JSONL, Parquet or Excel file, or train with --task"
            f" {' or '.join(_tasks_for(RUNNING_TEXT))}",
        )
    if spec.format not in (None, RUNNING_TEXT.name):
        raise DataError(
            f"the format {spec.format} needs rows with columns, but {spec.source} is plain text",
            fix="leave --format out",
        )
    if column := spec.text_column or spec.text_pair_column:
        raise DataError(
            f"plain text has no columns, but {column!r} was named",
            fix="leave --text-column and --text-pair-column out",
        )


def _tasks_for(row_format: RowFormat) -> list[str]:
    """Tasks that are trained on such rows."""
    trained = (task for task in TASKS.all() if isinstance(task, DataRules) and not task.traits.predicted_only)
    return [task.name for task in trained if row_format.kind in task.row_kinds]


def _unsuitable(spec: DataSpec, row_format: RowFormat, task: str) -> DataError:
    tasks = _tasks_for(row_format)
    suitable = f"--task {' or '.join(tasks)}, or " if tasks else ""
    return DataError(
        f"{task} is not trained on {row_format.title}, but {spec.source} is to be read as such",
        fix=f"pass {suitable}another --format: {', '.join(f.name for f in FORMATS.all() if task in _tasks_for(f))}",
    )


def _not_of_format(table: Table, row_format: RowFormat) -> DataError:
    wanted = [part for part in row_format.parts if part.required]
    options = [f"--{part.option.replace('_', '-')} ({part.name})" for part in wanted if part.option]
    found = recognise(table, get_args(RowKind), {})
    advice = [f"name the columns with {' and '.join(options)}"] if options else []
    advice += [f"pass --format {found[0].name}, which the columns look like"] if found else ["leave --format out"]
    return DataError(
        f"{row_format.title} need {' and '.join(part.name for part in wanted) or 'a text and a label'}, but the columns"
        f" of {table.name} are {', '.join(map(repr, table.columns))}",
        fix=", or ".join(advice),
    )


def _unrecognised(spec: DataSpec, table: Table, kinds: Sequence[RowKind], task: str, labelled: bool) -> DataError:
    """No format of the task recognises the table: it is another one, or its columns are called otherwise."""
    named = _named_columns(spec)
    if PREFERENCE.kind in kinds:
        return DataError(
            f"{PREFERENCE.title} have columns of texts or turns called chosen and rejected, but the columns of"
            f" {table.name} are {', '.join(map(repr, table.columns))}",
            fix="call the columns with the preferred and the other answer so, or leave --task out",
        )
    other = recognise(table, get_args(RowKind), named, Doubt.SOME if labelled else Doubt.NONE)
    if other is not None and (other[0].instead or not any(named.values())):
        if other[0].refused:
            return DataError(f"{table.name} holds {other[0].title}, but {other[0].refused}", fix=other[0].instead)
        tasks = _tasks_for(other[0])
        if labelled and other[0].kind == "text":
            return DataError(
                f"every text must have a label, but {table.name} has no column of labels beside"
                f" {', '.join(map(repr, table.columns))}",
                fix=f"name one with --label-column, or train on the texts with --task {' or '.join(tasks)}",
            )
        return DataError(
            f"{table.name} holds {other[0].title}, which {task} is not trained on",
            fix=f"pass --task {' or '.join(tasks)}; "
            + (other[0].instead or f"or name the columns with --text-column{' and --label-column' * labelled}"),
        )
    free = [name for name in table.columns if name not in named.values() and name.lower() not in INDEX_COLUMNS]
    if labelled and spec.text_column is not None and spec.label_column is None:
        return _unknown_column(table, "label", LABEL_COLUMNS, free)
    texts = [name for name in free if is_text(_first_value(table, name))]
    objects = {name: value for name in free if isinstance(value := _first_value(table, name), dict)}
    if spec.text_column is None and objects and not texts:
        fields = [f"{name}.{key}" for name, value in objects.items() for key in value]
        return DataError(
            f"texts and labels must be values of columns, but the columns of {table.name} hold objects:"
            f" {', '.join(map(repr, objects))}",
            fix=f"write their fields as columns of their own: {', '.join(fields[:8])} (pandas.json_normalize does)",
        )
    if spec.text_column is None:
        turns = next((name for name in free if name.lower() in CHAT_COLUMNS and name not in texts), None)
        if turns is not None and "conversation" in kinds:
            return DataError(
                f"turns must be objects with role and content (or from and value), but column {turns!r} of"
                f" {table.name} has {str(_first_value(table, turns))[:60]!r}",
                fix='write them as {"role": "user", "content": "..."}',
            )
        more = "; the answer to a prompt with --text-pair-column" if "conversation" in kinds else ""
        if labelled:
            more = f"; for texts without labels, pass --task {' or '.join(_tasks_for(TEXT))} as well"
        varied = [name for name in texts if not looks_like_classes(table.column(name))]
        return _unknown_column(table, "text", TEXT_COLUMNS, varied or texts, more)
    column = spec.text_pair_column or spec.text_column
    option = "--text-pair-column" if spec.text_pair_column else "--text-column"
    first = _first_value(table, column)
    return DataError(
        f"{task} must find text in the columns that are named, but column {column!r} of {table.name} has"
        f" a {type(first).__name__}, {str(first)[:60]!r}",
        fix=f"name one of {', '.join(map(repr, texts))} with {option}" if texts else "name a file with texts",
    )


def _first_value(table: Table, column: str) -> Any:
    return next((value for value in table.column(column) if not is_absent(value)), None)


def _unknown_column(table: Table, what: str, usual: Sequence[str], free: Sequence[str], more: str = "") -> DataError:
    if not free:
        return DataError(
            f"the {what} column must be known, but {table.name} has no column left for it",
            fix=f"add a column with a {what} to every row",
        )
    return DataError(
        f"the {what} column must be known, but no column of {table.name} is called {' or '.join(usual[:2])}",
        fix=f"name one of {', '.join(map(repr, free))} with --{what}-column{more}",
    )
