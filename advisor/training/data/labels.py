"""A column of raw labels as class names: the same for the same labels, whatever the file's format."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.cells import is_absent, parsed
from advisor.training.data.tables import Table

MAX_CLASS_SHARE = 0.5
"""More classes than this share of the rows means that the column is an id or free text, not a class."""
FEW_ROWS = 20
"""In fewer rows than this, many different labels tell nothing."""
_SHOWN = 5
_DIGITS = re.compile(r"-?\d+")
_LIKE_MISSING = frozenset({"n/a", "na", "#n/a", "<na>", "nan", "null"})
"""What programs write for a value that is not there, in lower case."""
FLAGS = frozenset({"true", "false"})


def label_texts(table: Table, column: str, *, spec: DataSpec | None = None) -> list[str | None]:
    """The class of every row: text without blanks around it, whole numbers as their digits, true and false as words.

    Args:
        table: The data.
        column: Of the labels.
        spec: Which labels stand for which class, and which rows are left out; ``None`` changes nothing.

    Returns:
        Names; ``None`` for rows that are to be left out.

    Raises:
        DataError: missing, mixed, or continuous labels, lists, or a class that is left out or renamed but not there.
    """
    values = table.column(column)
    declared = table.class_names.get(column)
    _refuse_lists(table, column, values)
    missing = [_is_missing(value, declared) for value in values]
    if any(missing) and not (spec is not None and spec.drop_unlabelled):
        raise missing_labels(table, column, missing)
    there = [value for value, absent in zip(values, missing, strict=True) if not absent]
    names = [declared[value] for value in there] if declared else _names(table, column, there)
    raw = names if declared else [str(value).strip() for value in there]
    renamed = dict(spec.label_map) if spec is not None else {}
    if unknown := sorted(set(renamed) - set(names) - set(raw)):
        raise unknown_labels(table, column, unknown, names, "--label-map")
    final = [renamed.get(name, renamed.get(text, name)) for name, text in zip(names, raw, strict=True)]
    if not declared:
        _refuse_continuous(table, column, final)
    left_out = set(spec.drop_labels) if spec is not None else set()
    if absent := sorted(left_out - set(final)):
        raise unknown_labels(table, column, absent, final, "--drop-labels")
    classes = iter(None if name in left_out else name for name in final)
    return [None if absent else next(classes) for absent in missing]


def known_classes(declared: tuple[str, ...], spec: DataSpec) -> tuple[str, ...]:
    """The classes that a source declares, renamed and left out as its rows are."""
    renamed = dict(spec.label_map)
    names = dict.fromkeys(renamed.get(name, name) for name in declared)
    return tuple(name for name in names if name not in spec.drop_labels)


def label_order(train: Iterable[str], evaluation: Iterable[str], declared: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Label names by class index: the declared order, else numbers by size, else alphabetical."""
    found = {*train, *evaluation}
    if declared and found <= set(declared):
        return declared
    if all(_DIGITS.fullmatch(name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def looks_like_classes(values: Sequence[Any]) -> bool:
    """Whether a column has few enough different values to be one of classes."""
    there = [str(value) for value in values if not is_absent(value)]
    return len(there) < FEW_ROWS or len(set(there)) <= MAX_CLASS_SHARE * len(there)


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
            fix=f"add rows of another class, or name another column than {column!r} with --label-column",
        )
    if not looks_like_classes(labels):
        raise DataError(
            f"a label column must have few values, but {column!r} of {name} has {len(classes)} in {len(labels)} rows",
            fix="name the column that holds the class with --label-column; without one, train on the texts with --task"
            " causal-lm or masked-lm",
        )


# --- names ------------------------------------------------------------------------------------------------------------


def _names(table: Table, column: str, values: Sequence[Any]) -> list[str]:
    kinds = Counter(_kind(value) for value in values)
    if len(kinds) > 1:
        found = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(
            f"labels must be of one type, but column {column!r} of {table.name} has {found}",
            fix="write all labels as text, or all as whole numbers",
        )
    texts = [str(value).strip() for value in values]
    if {text.lower() for text in texts} <= FLAGS:
        return [text.lower() for text in texts]
    texts = [str(value).lower() if isinstance(value, bool) else text for value, text in zip(values, texts, strict=True)]
    numbers = [number_of(text) for text in texts]
    if all(number is not None and number.is_integer() for number in numbers):
        return [text if _DIGITS.fullmatch(text) else str(int(float(text))) for text in texts]
    return texts


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, bool | int | float) else type(value).__name__


def number_of(text: str) -> float | None:
    """The number that a text is; ``None`` where it is none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _is_missing(value: Any, declared: tuple[str, ...] | None) -> bool:
    if declared is not None and value is not None:
        return not 0 <= value < len(declared)
    return is_absent(value)


# --- refusals ---------------------------------------------------------------------------------------------------------


def missing_labels(table: Table, column: str, missing: Sequence[bool]) -> DataError:
    """The error for rows without a label."""
    rows = [number for number, absent in enumerate(missing, start=1) if absent]
    shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    if len(rows) == len(missing):
        return DataError(
            f"every row must have a label, but no row of {table.name} has one in {column!r}",
            fix="name another label column or split",
        )
    return DataError(
        f"every row must have a label, but {len(rows)} of {len(missing)} rows of {table.name} have none in "
        f"{column!r} (rows {shown})",
        fix="pass --drop-unlabelled to leave these rows out, or name another label column or split",
    )


def unknown_labels(table: Table, column: str, unknown: Sequence[str], names: Sequence[str], option: str) -> DataError:
    """The error for an option that names labels which do not occur."""
    counts = Counter(names)
    shown = ", ".join(repr(name) for name, _ in counts.most_common(2 * _SHOWN)) + (", ..." if len(counts) > 10 else "")
    return DataError(
        f"{option} must name labels that occur, but column {column!r} of {table.name} has no"
        f" {', '.join(map(repr, unknown[:_SHOWN]))}",
        fix=f"choose from {shown}",
    )


def _refuse_lists(table: Table, column: str, values: Sequence[Any]) -> None:
    there = [parsed(value) for value in values if not is_absent(value)]
    if there and all(isinstance(value, list | dict | tuple) for value in there):
        several = "pass --task multi-label-classification, or give every row one class"
        raise DataError(
            f"a label must be text or a whole number, but column {column!r} of {table.name} has {str(there[0])[:60]!r}",
            fix="write one of its fields into a column of its own" if isinstance(there[0], dict) else several,
        )


def _refuse_continuous(table: Table, column: str, names: Sequence[str]) -> None:
    numbers = [(name, number_of(name)) for name in names]
    broken = [name for name, number in numbers if number is not None and not number.is_integer()]
    if broken and all(number is not None for _, number in numbers):
        first, second = (sorted(set(names), key=float) * 2)[:2]
        raise DataError(
            f"labels must be classes, but column {column!r} of {table.name} has numbers like {broken[0]}",
            fix="pass --task text-regression to learn the numbers; if every number is a class, name them: --label-map"
            f" {first}=NAME,{second}=NAME,...",
        )


# --- findings ---------------------------------------------------------------------------------------------------------


def spelling_findings(table: Table, column: str, names: Iterable[str]) -> list[str]:
    """Labels that look alike, in sentences."""
    found = []
    raw = {value for value in table.column(column) if isinstance(value, str) and value.strip()}
    if padded := sorted(value for value in raw if value != value.strip() and value.strip() in raw):
        found.append(f"blanks around labels are ignored: {_shown(padded)} and the same without blanks are one class")
    counts = Counter(names)
    alike: dict[str, list[str]] = {}
    for name, _ in counts.most_common():
        alike.setdefault(_spelling(name), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    if groups:
        pairs = ",".join(f"{other}={group[0]}" for group in groups for other in group[1:])
        said = "; ".join(" and ".join(map(repr, group)) for group in groups[:_SHOWN])
        found.append(
            f"labels that look alike count as different classes: {said}; --label-map {shlex.quote(pairs)} joins them"
        )
    return found


def _spelling(name: str) -> str:
    """Without case, blanks and punctuation; numbers as they are."""
    if number_of(name) is not None:
        return name
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) or name


def class_findings(names: Sequence[str], train: Mapping[str, int], evaluation: Mapping[str, int]) -> list[str]:
    """Classes with too few rows or in one split only, in sentences.

    Args:
        names: Of all classes.
        train: Training rows by class.
        evaluation: Held-out rows by class.
    """
    single = [name for name in names if train.get(name, 0) + evaluation.get(name, 0) == 1]
    untrained = [name for name in names if not train.get(name) and name not in single]
    unseen = [name for name in names if not evaluation.get(name) and train.get(name) and name not in single]
    found = []
    if missing := [name for name in names if name.casefold() in _LIKE_MISSING]:
        alike = "looks like a missing label" if len(missing) == 1 else "look like missing labels"
        option = f"--drop-labels {shlex.quote(','.join(missing))}"
        found.append(f"{_counted(missing)} {alike}; {option} leaves such rows out")
    if joined := _joined(names):
        found.append(
            f"classes like {_shown(joined[:2])} look like several labels in one: lists, such as"
            ' ["a", "b"], are learned as such by --task multi-label-classification'
        )
    if single:
        one = len(single) == 1
        found.append(
            f"{'the class' if one else f'{len(single)} classes'} {_shown(single)} {'has' if one else 'have'} one row"
            f"{'' if one else ' each'}, so that nothing can be said of {'it' if one else 'them'}; --drop-labels leaves"
            f" {'it' if one else 'them'} out"
        )
    if unseen:
        found.append(f"the held-out rows have none of {_counted(unseen)}: no figure tells how well it is learned")
    if untrained:
        found.append(f"the training rows have none of {_counted(untrained)}, which cannot be learned")
    return found


def _joined(names: Sequence[str]) -> list[str]:
    """Names that are made of others, with a mark between, and whose parts all come more than once."""
    for mark in "|;,":
        parts = {name: [part.strip() for part in name.split(mark)] for name in names}
        counts = Counter(part for found in parts.values() for part in found)
        joined = [name for name, found in parts.items() if len(found) > 1]
        if len(joined) > 1 and all(counts[part] > 1 for name in joined for part in parts[name]):
            return joined
    return []


def _counted(names: Sequence[str]) -> str:
    return f"the class {names[0]!r}" if len(names) == 1 else f"{len(names)} classes ({_shown(names)})"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
