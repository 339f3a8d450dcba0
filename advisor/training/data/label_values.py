"""Labels that are not one class a row: several of them, or numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.cells import is_absent, parsed
from advisor.training.data.labels import (
    FEW_ROWS,
    FLAGS,
    MAX_CLASS_SHARE,
    missing_labels,
    number_of,
    unknown_labels,
)
from advisor.training.data.tables import Table


def label_columns(table: Table, named: str) -> tuple[str, ...]:
    """The column of that name, or the columns of several labels that stand there with commas between.

    Raises:
        DataError: there is no such column.
    """
    if named in table.columns or "," not in named:
        table.column(named)
        return (named,)
    columns = tuple(name.strip() for name in named.split(",") if name.strip())
    for name in columns:
        table.column(name)
    return columns


def holds_label_lists(values: Sequence[Any]) -> bool:
    """Whether a column holds lists of labels (also as JSON text), where it holds anything."""
    there = [parsed(value) for value in values if value is not None and value == value and value != ""]
    return bool(there) and all(isinstance(value, list | tuple) for value in there)


def holds_flags(values: Sequence[Any]) -> bool:
    """Whether a column says yes or no (0 and 1, true and false, also as text), where it says anything."""
    there = [value for value in values if not is_absent(value)]
    return bool(there) and all(_flag(value) is not None for value in there)


def label_sets(table: Table, named: str, *, spec: DataSpec | None = None) -> list[tuple[str, ...] | None]:
    """The labels of every row, sorted: of a column of lists, or of one column of 0 and 1 per label.

    Lists of numbers that are all equally long and hold nothing but 0 and 1, one of them more than once, are such
    columns side by side.

    Args:
        table: The data.
        named: Column of the lists, or the columns of the labels with commas between.
        spec: Which labels stand for which, and rows with which labels are left out; ``None`` changes nothing.

    Returns:
        Sets; ``None`` for rows that are to be left out.

    Raises:
        DataError: missing labels, values that are neither, or a label that is left out or renamed but not there.
    """
    columns = label_columns(table, named)
    found = _listed_labels(table, columns[0]) if len(columns) == 1 else _flagged_labels(table, columns)
    missing = [labels is None for labels in found]
    if any(missing) and not (spec is not None and spec.drop_unlabelled):
        raise missing_labels(table, named, missing)
    names = sorted({name for labels in found if labels is not None for name in labels})
    renamed = dict(spec.label_map) if spec is not None else {}
    if unknown := sorted(set(renamed) - set(names)):
        raise unknown_labels(table, named, unknown, names, "--label-map")
    left_out = set(spec.drop_labels) if spec is not None else set()
    if absent := sorted(left_out - {renamed.get(name, name) for name in names}):
        raise unknown_labels(table, named, absent, names, "--drop-labels")
    sets = (None if labels is None else {renamed.get(name, name) for name in labels} for labels in found)
    return [None if labels is None or labels & left_out else tuple(sorted(labels)) for labels in sets]


def _listed_labels(table: Table, column: str) -> list[list[str] | None]:
    values = [parsed(value) for value in table.column(column)]
    there = [list(value) for value in values if isinstance(value, list | tuple)]
    if _are_vectors(there):
        return [
            None if value is None else [f"label{index}" for index, on in enumerate(value, start=1) if on]
            for value in values
        ]
    found: list[list[str] | None] = []
    for row, value in enumerate(values, start=1):
        if value is None or value != value or value == "":
            found.append(None)
            continue
        if not isinstance(value, list | tuple) or any(
            isinstance(part, list | dict) or is_absent(part) for part in value
        ):
            raise DataError(
                f"several labels must be a list of texts or whole numbers, but row {row} of {table.name} has"
                f" {str(value)[:60]!r} in {column!r}",
                fix='write them as ["a", "b"], or as a column of 0 and 1 per label: --label-column a,b,c; one label a'
                " row is --task sequence-classification",
            )
        found.append([_plain_name(part) for part in value])
    return found


def _are_vectors(lists: Sequence[Sequence[Any]]) -> bool:
    """A set of labels has none twice, so that equally long lists of 0 and 1 with one of them twice are no sets."""
    lengths = {len(values) for values in lists}
    if len(lengths) != 1 or lengths.pop() < 2:
        return False
    return all(value in (0, 1) and not isinstance(value, str) for values in lists for value in values) and any(
        len(set(values)) < len(values) for values in lists
    )


def _flagged_labels(table: Table, columns: Sequence[str]) -> list[list[str] | None]:
    found: list[list[str] | None] = []
    for row, values in enumerate(zip(*(table.column(column) for column in columns), strict=True), start=1):
        flags = [_flag(value) for value in values]
        if all(is_absent(value) for value in values):
            found.append(None)
            continue
        wrong = next((i for i, flag in enumerate(flags) if flag is None), None)
        if wrong is not None:
            raise DataError(
                f"a column per label must hold 0 or 1, but row {row} of {table.name} has {str(values[wrong])[:60]!r} in"
                f" {columns[wrong]!r}",
                fix="correct that row, or name the columns of the labels with --label-column a,b,c",
            )
        found.append([column for column, flag in zip(columns, flags, strict=True) if flag])
    return found


def _flag(value: Any) -> bool | None:
    text = str(value).strip().lower()
    if text in FLAGS:
        return text == "true"
    number = None if isinstance(value, list | dict) else number_of(text)
    return bool(number) if number in (0, 1) else None


def _plain_name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    number = None if isinstance(value, str) else number_of(text)
    return str(int(number)) if number is not None and number.is_integer() else text


def require_label_sets(name: str, sets: Sequence[tuple[str, ...]]) -> None:
    """Refuse labels that cannot be learned side by side.

    Raises:
        DataError: fewer than two labels, or nearly as many as rows.
    """
    labels = {label for labels in sets for label in labels}
    if len(labels) < 2:
        raise DataError(
            f"several labels a row need at least two labels, but {name} has {len(labels)}",
            fix="train on one class a row with --task sequence-classification, or name other columns with"
            " --label-column",
        )
    if len(sets) >= FEW_ROWS and len(labels) > MAX_CLASS_SHARE * len(sets):
        raise DataError(
            f"labels must come more than once, but {name} has {len(labels)} of them in {len(sets)} rows",
            fix="name the column of the labels with --label-column, or leave rare ones out with --drop-labels",
        )


# --- numbers ----------------------------------------------------------------------------------------------------------


def is_continuous(values: Sequence[Any]) -> bool:
    """Whether a column holds numbers of which some are not whole."""
    broken = False
    for value in values:
        if is_absent(value):
            continue
        number = None if isinstance(value, bool | list | dict) else number_of(str(value).strip())
        if number is None or not math.isfinite(number):
            return False
        broken = broken or not number.is_integer()
    return broken


def label_numbers(table: Table, column: str, *, spec: DataSpec | None = None) -> list[float | None]:
    """The number of every row; whole ones count, too.

    Args:
        table: The data.
        column: Of the numbers.
        spec: Whether rows without a number are left out; ``None`` refuses them.

    Returns:
        Numbers; ``None`` for rows that are to be left out.

    Raises:
        DataError: missing, no finite number, or options that only classes have.
    """
    if spec is not None and (spec.label_map or spec.drop_labels):
        raise DataError(
            "--label-map and --drop-labels name classes, but text-regression learns numbers",
            fix="leave them out, or pass --task sequence-classification",
        )
    values = table.column(column)
    missing = [is_absent(value) for value in values]
    if any(missing) and not (spec is not None and spec.drop_unlabelled):
        raise missing_labels(table, column, missing)
    numbers: list[float | None] = []
    for row, (value, absent) in enumerate(zip(values, missing, strict=True), start=1):
        number = None if absent or isinstance(value, bool | list | dict) else number_of(str(value).strip())
        if not absent and (number is None or not math.isfinite(number)):
            raise DataError(
                f"text-regression learns numbers, but row {row} of {table.name} has {str(value)[:60]!r} in {column!r}",
                fix="write numbers with a point and without units, or name another column with --label-column; classes"
                " are --task sequence-classification",
            )
        numbers.append(number)
    return numbers


def require_numbers(name: str, column: str, numbers: Sequence[float]) -> None:
    """Refuse numbers of which nothing can be learned.

    Raises:
        DataError: all are equal.
    """
    if len(set(numbers)) < 2:
        raise DataError(
            f"numbers to learn must differ, but all {len(numbers)} rows of {name} have {numbers[0]:g} in {column!r}",
            fix="name another column with --label-column",
        )
