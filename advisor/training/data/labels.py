"""A column of raw labels as class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from advisor.core.errors import DataError
from advisor.training.data.tables import Table

MAX_CLASS_SHARE = 0.5
"""More classes than this share of the rows means that the column is an id or free text, not a class."""
_FEW_ROWS = 20


def label_texts(table: Table, column: str) -> list[str]:
    """The labels of a table as names; integers as their digits.

    Raises:
        DataError: missing, mixed, or continuous labels.
    """
    values = table.column(column)
    _refuse_missing(table, column, values)
    if names := table.class_names.get(column):
        return [names[value] for value in values]
    kinds = Counter(_kind(value) for value in values)
    if len(kinds) > 1:
        found = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(
            f"labels must be of one type, but column {column!r} of {table.name} has {found}",
            fix="write all labels as text, or all as whole numbers",
        )
    texts = [_text(value) for value in values]
    _refuse_continuous(table, column, texts)
    return texts


def label_order(train: Sequence[str], evaluation: Sequence[str], declared: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Label names by class index: the declared order, else numbers by size, else alphabetical."""
    found = {*train, *evaluation}
    if declared and found <= set(declared):
        return declared
    if all(_is_whole(name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def require_classes(name: str, column: str, labels: Sequence[str]) -> None:
    """Refuse a column that cannot be classified.

    Raises:
        DataError: a single class, or nearly as many classes as rows.
    """
    classes = set(labels)
    if len(classes) < 2:
        only = next(iter(classes), "none")
        raise DataError(
            f"classification needs at least two classes, but all {len(labels)} rows of {name} have the label {only!r}",
            fix=f"check the label column {column!r}",
        )
    if len(labels) >= _FEW_ROWS and len(classes) > MAX_CLASS_SHARE * len(labels):
        raise DataError(
            f"a label column must have few values, but {column!r} of {name} has {len(classes)} in {len(labels)} rows",
            fix="name the column that holds the class",
        )


def _refuse_missing(table: Table, column: str, values: Sequence[Any]) -> None:
    declared = table.class_names.get(column)
    missing = [
        row
        for row, value in enumerate(values)
        if value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and value != value)
        or (declared is not None and not 0 <= value < len(declared))
    ]
    if missing:
        shown = ", ".join(str(row + 1) for row in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"every row must have a label, but {len(missing)} of {len(values)} rows of {table.name} have none in "
            f"{column!r} (rows {shown})",
            fix="remove these rows, or name another label column or split",
        )


def _kind(value: Any) -> str:
    if isinstance(value, bool | int):
        return "whole number"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value).strip()
    raise DataError(
        f"a label must be text or a whole number, but got {str(value)[:60]!r}",
        fix="one class a row; lists are not classes",
    )


def _refuse_continuous(table: Table, column: str, texts: Sequence[str]) -> None:
    numbers = [text for text in texts if _is_number(text)]
    broken = [text for text in numbers if not _is_whole(text)]
    if broken and len(numbers) == len(texts):
        raise DataError(
            f"labels must be classes, but column {column!r} of {table.name} has numbers like {broken[0]}",
            fix="regression is not supported; turn the numbers into classes first",
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
