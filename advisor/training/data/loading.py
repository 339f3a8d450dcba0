"""From a DataSpec to cleaned, split and ordered rows."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.labels import label_order, require_classes
from advisor.training.data.named import DATASETS
from advisor.training.data.records import labelled_texts, nothing_left, open_table, unlabelled_rows
from advisor.training.data.rows import Findings, LabelledText, PlainText, Row, RowKind, Rows
from advisor.training.data.rules import data_rules
from advisor.training.data.splitting import count_copies, drop_shared, hold_out, hold_out_tail, shuffled

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
    return _cached(spec, task, _stamp(spec))


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
    if kind == "labelled":
        return _read_labelled(spec)
    train, empty = unlabelled_rows(spec, kind)
    evaluation: list[Row] | None = None
    if spec.eval_source is not None:
        evaluation, empty_eval = unlabelled_rows(spec, kind, spec.eval_source)
        empty += empty_eval
    return _finish(spec, kind, train, evaluation, empty)


def _stamp(spec: DataSpec) -> tuple[Any, ...]:
    """Changes whenever a local file changes."""
    names = [DATASETS.get(spec.source).path() if spec.kind == "demo" else Path(spec.source).expanduser()]
    names += [Path(spec.eval_source).expanduser()] if spec.eval_source else []
    return tuple((p.stat().st_mtime_ns, p.stat().st_size) if p is not None and p.is_file() else None for p in names)


def _read_labelled(spec: DataSpec) -> Rows:
    if spec.text_column is None or spec.label_column is None:
        raise DataError(
            f"classification needs a text and a label column, but {spec.source} was given without",
            fix="name them with --text-column and --label-column",
        )
    table = open_table(spec)
    texts, labels, empty = labelled_texts(spec, table)
    require_classes(table.name, spec.label_column, labels)
    eval_texts: list[tuple[str, str | None]] = []
    eval_labels: list[str] = []
    if spec.eval_source is not None:
        eval_texts, eval_labels, empty_eval = labelled_texts(spec, open_table(spec, spec.eval_source))
        empty += empty_eval
        _require_known(labels, eval_labels)
    names = label_order(labels, eval_labels, table.class_names.get(spec.label_column, ()))
    index = {name: number for number, name in enumerate(names)}
    train: list[Row] = [LabelledText(*text, index[label]) for text, label in zip(texts, labels, strict=True)]
    held: list[Row] = [LabelledText(*t, index[label]) for t, label in zip(eval_texts, eval_labels, strict=True)]
    return _finish(spec, "labelled", train, held if spec.eval_source is not None else None, empty, names)


def _require_known(labels: list[str], eval_labels: list[str]) -> None:
    if unseen := sorted(set(eval_labels) - set(labels)):
        raise DataError(
            f"held-out labels must occur in training, but {', '.join(map(repr, unseen[:5]))} do not",
            fix="check that both sets name their labels alike",
        )


def _finish(
    spec: DataSpec,
    kind: RowKind,
    train: list[Row],
    evaluation: list[Row] | None,
    empty_rows: int,
    label_names: tuple[str, ...] = (),
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
    rows = Rows(
        kind=kind,
        train=tuple(train),
        eval=tuple(evaluation),
        label_names=label_names,
        findings=Findings(empty_rows, count_copies(train, min_characters=shortest), shared),
        columns=tuple(filter(None, (spec.text_column, spec.text_pair_column, spec.label_column))),
    )
    _require_trainable(spec, rows)
    return rows


def _split(spec: DataSpec, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    if spec.kind == "text":
        paragraphs = [row for row in rows if isinstance(row, PlainText)]
        return hold_out_tail(paragraphs, spec.eval_fraction, name=spec.source)
    return hold_out(rows, spec.eval_fraction, spec.split_seed, name=spec.source)


def _require_trainable(spec: DataSpec, rows: Rows) -> None:
    if not rows.train:
        raise nothing_left(spec.source)
    if rows.label_names and sum(count > 0 for count in rows.class_counts.values()) < 2:
        raise DataError(
            f"training needs at least two classes, but the {len(rows.train)} training rows of {spec.source} have one",
            fix="raise the cap on training rows, or hold out fewer rows",
        )
