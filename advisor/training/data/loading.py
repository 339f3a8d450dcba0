"""From a DataSpec to cleaned, split and ordered rows."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.formats import FORMATS
from advisor.training.data.label_values import require_label_sets, require_numbers
from advisor.training.data.labels import class_findings, label_order, require_classes
from advisor.training.data.records import (
    RawLabels,
    RawRows,
    labelled_texts,
    nothing_left,
    stamp,
    tagged_texts,
    unlabelled_rows,
)
from advisor.training.data.rows import (
    LABEL_KINDS,
    Findings,
    LabelledText,
    MultiLabelledText,
    PlainText,
    Row,
    RowKind,
    Rows,
    ScoredText,
    TaggedText,
    classes_of,
)
from advisor.training.data.rules import data_rules
from advisor.training.data.splitting import count_copies, drop_shared, hold_out, hold_out_tail, shuffled
from advisor.training.data.tagged import OUTSIDE, entity_types, require_tags

_HELD_OUT_NAMES = ("validation", "valid", "val", "dev", "eval", "test")
_IS_HELD_OUT = re.compile("|".join(f"{name}.*" for name in _HELD_OUT_NAMES))
RUNNING_TEXT_CHARACTERS = 100
"""Paragraphs of running text shorter than this repeat by nature (headings, "Yes."): they are neither counted as copies
nor taken out of the text around them."""


def load_rows(spec: DataSpec, task: str) -> Rows:
    """Read, clean, split, order and cap a data set.

    The last result is kept, so that profiling and preparing the same data read it once; a changed file is read again.

    Args:
        spec: As ``resolve_data`` made it.
        task: Decides how columns are read.

    Raises:
        DataError: the data cannot be found, read, or used for the task.
    """
    return load_timed_rows(spec, task)[0]


def load_timed_rows(spec: DataSpec, task: str) -> tuple[Rows, float]:
    """``load_rows``, and the seconds that reading took when it was done."""
    return _cached(spec, task, stamp(spec))


@lru_cache(maxsize=1)
def _cached(spec: DataSpec, task: str, stamp: tuple[Any, ...]) -> tuple[Rows, float]:
    started_s = time.perf_counter()
    rows = read_rows(spec, task)
    return rows, time.perf_counter() - started_s


def read_rows(spec: DataSpec, task: str) -> Rows:
    """``load_rows`` without keeping the result."""
    return data_rules(task).read_rows(spec)


def rows_of_kind(spec: DataSpec, kind: RowKind) -> Rows:
    """The rows of a source, of a kind that this package knows; cleaned, split, ordered and capped.

    Raises:
        DataError: the data cannot be found, read, or used so.
    """
    if kind in _LABELS:
        return _read_labelled(spec, kind)
    if kind in LABEL_KINDS:
        return _read_tagged(spec, kind)
    train = unlabelled_rows(spec, kind)
    held = None if spec.eval_source is None else unlabelled_rows(spec, kind, spec.eval_source)
    read = train.row_format
    notes = [f"read as {read.title}: {len(train.rows):,} {read.unit}, {read.trained}", *train.notes]
    notes += [note for note in (held.notes if held is not None else ()) if note not in notes]
    return _finish(
        spec,
        kind,
        train.rows,
        None if held is None else held.rows,
        train.empty_rows + (0 if held is None else held.empty_rows),
        notes=(*notes, *_unused_sources(spec, train.other_splits)),
    )


@dataclass(frozen=True)
class _Labels:
    """How raw labels of a kind are checked, numbered and told of.

    Attributes:
        names: Of the classes by index, of the training labels, the held-out ones and the declared classes; refuses what
            cannot be learned.
        make: A row of its texts and its label, by the index of each name.
        told: What the labels are, for the user.
    """

    names: Callable[[DataSpec, Sequence[Any], Sequence[Any], tuple[str, ...]], tuple[str, ...]]
    make: Callable[[tuple[str, str | None], Any, Mapping[str, int]], Row]
    told: Callable[[Sequence[Any], tuple[str, ...]], str]


def _class_names(
    spec: DataSpec, train: Sequence[str], held: Sequence[str], declared: tuple[str, ...]
) -> tuple[str, ...]:
    require_classes(spec.source, spec.label_column or "", train)
    _require_known(train, held)
    return label_order(train, held, declared)


def _label_names(
    spec: DataSpec, train: Sequence[tuple[str, ...]], held: Sequence[tuple[str, ...]], declared: tuple[str, ...]
) -> tuple[str, ...]:
    require_label_sets(spec.source, train)
    known, asked = ([label for labels in part for label in labels] for part in (train, held))
    _require_known(known, asked)
    return label_order(known, ())


def _no_names(spec: DataSpec, train: Sequence[float], held: Sequence[float], declared: tuple[str, ...]) -> tuple[()]:
    require_numbers(spec.source, spec.label_column or "", train)
    return ()


def _told_classes(labels: Sequence[str], names: tuple[str, ...]) -> str:
    counts = Counter(labels)
    smallest = min(names, key=lambda name: (counts[name], name))
    return f"in {len(names)} classes, the smallest one {smallest!r} with {counts[smallest]:,} rows"


def _told_sets(labels: Sequence[tuple[str, ...]], names: tuple[str, ...]) -> str:
    counts = Counter(name for row in labels for name in row)
    rarest = min(names, key=lambda name: (counts[name], name))
    without = sum(not row for row in labels)
    return (
        f"with {sum(counts.values()) / len(labels):.2g} of {len(names)} labels each, {without:,} without any; the"
        f" rarest one is {rarest!r} with {counts[rarest]:,} rows; one class a row is --task sequence-classification"
    )


def _told_numbers(labels: Sequence[float], names: tuple[str, ...]) -> str:
    return (
        f"with numbers from {min(labels):g} to {max(labels):g}, on average {sum(labels) / len(labels):.3g}; classes are"
        " --task sequence-classification"
    )


_LABELS: dict[RowKind, _Labels] = {
    "labelled": _Labels(
        _class_names, lambda texts, label, index: LabelledText(*texts, label=index[label]), _told_classes
    ),
    "multi-labelled": _Labels(
        _label_names,
        lambda texts, labels, index: MultiLabelledText(*texts, labels=tuple(sorted(index[name] for name in labels))),
        _told_sets,
    ),
    "scored": _Labels(_no_names, lambda texts, label, index: ScoredText(*texts, value=label), _told_numbers),
}


def _read_labelled(spec: DataSpec, kind: RowKind) -> Rows:
    if spec.text_column is None or spec.label_column is None:
        raise DataError(
            f"classification needs a text and a label column, but {spec.source} was given without",
            fix="name them with --text-column and --label-column",
        )
    rules = _LABELS[kind]
    read = labelled_texts(spec, kind)
    held = None if spec.eval_source is None else labelled_texts(spec, kind, spec.eval_source)
    names = rules.names(spec, read.labels, held.labels if held is not None else (), read.declared)
    index = {name: number for number, name in enumerate(names)}

    def rows_of(part: RawLabels) -> list[Row]:
        return [rules.make(text, label, index) for text, label in zip(part.texts, part.labels, strict=True)]

    columns = filter(None, (spec.text_column, spec.text_pair_column))
    title = next(row_format.title for row_format in FORMATS.all() if row_format.kind == kind)
    notes = [
        f"read as {title}, {' and '.join(map(repr, columns))} with {spec.label_column!r}: {len(read.labels):,} rows"
        f" {rules.told(read.labels, names)}",
        *read.notes,
    ]
    notes += [note for note in (held.notes if held is not None else ()) if note not in notes]
    return _finish(
        spec,
        kind,
        rows_of(read),
        None if held is None else rows_of(held),
        read.empty_rows + (0 if held is None else held.empty_rows),
        names,
        notes=(*notes, *_unused_sources(spec, read.other_splits)),
    )


def _read_tagged(spec: DataSpec, kind: RowKind) -> Rows:
    read = tagged_texts(spec)
    require_tags(spec.source, [row.tags for row in read.rows])
    held = None if spec.eval_source is None else tagged_texts(spec, spec.eval_source)
    known, asked = ([tag for row in part.rows for tag in row.tags] if part else [] for part in (read, held))
    _require_known(known, asked)
    names = label_order(known, ())
    index = {name: number for number, name in enumerate(names)}

    def rows_of(part: RawRows) -> list[Row]:
        return [TaggedText(row.text, row.words, tuple(index[tag] for tag in row.tags)) for row in part.rows]

    types = entity_types(names)
    shown = ", ".join(types[:_SHOWN_TYPES]) + (", ..." if len(types) > _SHOWN_TYPES else "")
    outside = sum(tag == OUTSIDE for tag in known)
    notes = [
        f"read as {read.row_format.title}: {len(read.rows):,} rows of {len(known):,} words, {outside / len(known):.0%}"
        f" of them outside; {len(names)} tags of {len(types)} types ({shown})",
        *read.notes,
    ]
    notes += [note for note in (held.notes if held is not None else ()) if note not in notes]
    empty = read.empty_rows + (0 if held is None else held.empty_rows)
    unused = _unused_sources(spec, read.other_splits)
    return _finish(
        spec, kind, rows_of(read), None if held is None else rows_of(held), empty, names, notes=(*notes, *unused)
    )


_SHOWN_TYPES = 8


def _unused_sources(spec: DataSpec, other_splits: tuple[str, ...]) -> list[str]:
    """Splits of the source, or files beside it, that were made for evaluation or training and are not used."""
    unused = [split for split in other_splits if split != spec.eval_source]
    if unused:
        proposal = next((split for split in unused if _IS_HELD_OUT.fullmatch(split)), None)
        advice = f"; --eval-data {proposal} evaluates on it" if proposal and spec.eval_source is None else ""
        return [f"splits that are not used: {', '.join(unused)}{advice}"]
    path = Path(spec.source)
    if spec.eval_source is not None or spec.kind in ("demo", "datasets") or "train" not in path.name:
        return []
    names = (path.name.replace("train", name) for name in _HELD_OUT_NAMES)
    beside = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    return (
        [f"{beside.name} beside the training data is not used; --eval-data {beside} evaluates on it"] if beside else []
    )


def _require_known(labels: Sequence[str], eval_labels: Sequence[str]) -> None:
    if unseen := sorted(set(eval_labels) - set(labels)):
        raise DataError(
            f"held-out labels must occur in training, but {', '.join(map(repr, unseen[:5]))} do not",
            fix="check that both sets name their labels alike: --label-map renames them, --drop-labels leaves rows out",
        )


def _finish(
    spec: DataSpec,
    kind: RowKind,
    train: list[Row],
    evaluation: list[Row] | None,
    empty_rows: int,
    label_names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Rows:
    """Split, drop what is on both sides, order, cap."""
    if evaluation is None:
        train, evaluation = _split(spec, train)
    shortest = RUNNING_TEXT_CHARACTERS if spec.kind == "text" else 0
    train, shared = drop_shared(train, evaluation, min_characters=shortest)
    if not train:
        raise nothing_left(spec.source)
    if spec.inner_holdout:
        train, evaluation = _split(spec, train)
        train, also_shared = drop_shared(train, evaluation, min_characters=shortest)
        shared += also_shared
    if spec.kind != "text":
        train, evaluation = shuffled(train, spec.split_seed), shuffled(evaluation, spec.split_seed)
    if kind != "text":
        train, evaluation = train[: spec.max_train_rows], evaluation[: spec.max_eval_rows]
    held_counts, train_counts = (
        Counter(label_names[index] for row in part for index in classes_of(row)) for part in (evaluation, train)
    )
    rows = Rows(
        kind=kind,
        train=tuple(train),
        eval=tuple(evaluation),
        label_names=label_names,
        findings=Findings(empty_rows, count_copies(train, min_characters=shortest), shared),
        columns=tuple(filter(None, (spec.text_column, spec.text_pair_column, spec.label_column))),
        notes=(*notes, *class_findings(label_names, train_counts, held_counts)),
    )
    _require_trainable(spec, rows)
    return rows


def _split(spec: DataSpec, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    if spec.kind == "text":
        paragraphs = [row for row in rows if isinstance(row, PlainText)]
        return hold_out_tail(paragraphs, spec.eval_fraction, name=spec.source)
    stratum = _label if spec.stratified and all(isinstance(row, LabelledText) for row in rows) else None
    return hold_out(rows, spec.eval_fraction, spec.split_seed, name=spec.source, stratum=stratum)


def _label(row: Row) -> int:
    return row.label if isinstance(row, LabelledText) else 0


def _require_trainable(spec: DataSpec, rows: Rows) -> None:
    if not rows.train:
        raise nothing_left(spec.source)
    if rows.label_names and sum(count > 0 for count in rows.class_counts.values()) < 2:
        raise DataError(
            f"training needs at least two classes, but the {len(rows.train)} training rows of {spec.source} have one",
            fix="raise the cap on training rows (--max-train-rows), or add rows of the other classes",
        )
