"""From what the user typed to a DataSpec: what kind of source it is, and which of its columns matter."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from advisor.core.data import AS_DETECTED, DataKind, DataSpec, ReadOptions
from advisor.core.errors import DataError
from advisor.training.data.formats import FORMATS, INDEX_COLUMNS, RUNNING_TEXT, Doubt, RowFormat, recognise
from advisor.training.data.hub import HUB_ID, is_saved_dataset
from advisor.training.data.label_values import label_columns
from advisor.training.data.named import DATASETS
from advisor.training.data.records import open_table, stamp
from advisor.training.data.rows import RowKind
from advisor.training.data.rules import data_rules
from advisor.training.data.tables import Table
from advisor.training.data.text_files import file_kind, require_file, require_known_kind


def resolve_data(
    source: str,
    *,
    task: str,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    split: str | None = None,
    eval_source: str | None = None,
    eval_fraction: float = 0.1,
    max_train_rows: int | None = None,
    max_eval_rows: int | None = None,
    split_seed: int = 17,
    format: str | None = None,
    reading: ReadOptions | None = None,
    label_map: tuple[tuple[str, str], ...] = (),
    drop_labels: tuple[str, ...] = (),
    drop_unlabelled: bool = False,
) -> DataSpec:
    """Find a data set and its columns.

    Format and columns that are not named are recognised; the returned spec holds the ones that will be used. For
    language modelling a pair column is the completion.

    Args:
        source: Name of a registered data set, CSV/JSONL/Parquet/text file, ``datasets`` folder, or hub id
            (``owner/name[:configuration]``).
        task: What the model will learn.
        text_column: Column of the text; ``None`` detects it, as for the other two.
        text_pair_column: Column of the second text, or of the completion.
        label_column: Column of the class, the labels or the number; columns of 0 and 1 with commas between.
        split: Training split of a ``datasets`` source.
        eval_source: Held-out file, or split of a ``datasets`` source.
        eval_fraction: Share held out when there is no ``eval_source``.
        max_train_rows: Cap on training rows (blocks, where text is packed).
        max_eval_rows: Cap on held-out rows.
        split_seed: Seed of hold-out and order.
        format: Name of the row format; ``None`` recognises it.
        reading: How to read files; ``None`` detects it.
        label_map: Pairs of a label and the class that it stands for.
        drop_labels: Rows of these classes are left out.
        drop_unlabelled: Leave out rows without a label instead of refusing them.

    Raises:
        DataError: the source, a column or a number is not usable, or the task has no data; the message says which.
    """
    rules = data_rules(task)
    kind = source_kind(source)
    if split is not None and kind != "datasets":
        raise DataError(
            f"only `datasets` sources have splits, but {source} is of kind {kind}", fix="leave the split out"
        )
    try:
        spec = _spec(
            source,
            kind,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            split=split,
            eval_source=_eval_source(kind, eval_source),
            eval_fraction=eval_fraction,
            max_train_rows=max_train_rows,
            max_eval_rows=max_eval_rows,
            split_seed=split_seed,
            format=format,
            reading=reading or AS_DETECTED,
            label_map=label_map,
            drop_labels=drop_labels,
            drop_unlabelled=drop_unlabelled,
        )
    except ValueError as failure:
        raise DataError(str(failure)) from None
    if spec.kind == "text":
        return rules.with_columns(spec, None)
    looked_at = _spec(source, kind, split=split, reading=spec.reading)
    table = _looked_at(looked_at, stamp(looked_at))
    _looked_at.cache_clear()  # the rows are read anew, and their time is measured
    for column in filter(None, (spec.text_column, spec.text_pair_column)):
        table.column(column)
    if spec.label_column is not None:
        label_columns(table, spec.label_column)
    return rules.with_columns(spec, table)


def _spec(source: str, kind: DataKind, **values: Any) -> DataSpec:
    local = kind not in ("demo", "datasets") or Path(source).expanduser().is_dir()
    return DataSpec(str(Path(source).expanduser().resolve()) if local else source, kind, **values)


def source_kind(source: str) -> DataKind:
    """How to read a source.

    Raises:
        DataError: there is no such file, folder, named data set or hub id, or a demo set must be fetched first.
    """
    if source in DATASETS:
        DATASETS.get(source).path()
        return "demo"
    path = Path(source).expanduser()
    if path.is_dir() and is_saved_dataset(path):
        return "datasets"
    if path.exists() or file_kind(path) is not None:
        require_file(path)
        return require_known_kind(path)
    near = difflib.get_close_matches(source, DATASETS.names(), n=1, cutoff=0.6)
    if HUB_ID.fullmatch(source) and not near:
        return "datasets"
    raise DataError(
        f"the data must be a file, a folder, a hub id or a demo set, but {source!r} is none of them",
        fix=f"did you mean {near[0]}?"
        if near
        else f"data sets with a name are {', '.join(DATASETS.names())}; hub ids are owner/name",
    )


def _eval_source(kind: DataKind, eval_source: str | None) -> str | None:
    if eval_source is None or kind == "datasets":
        return eval_source
    path = Path(eval_source).expanduser()
    require_file(path)
    require_known_kind(path, "the evaluation data")
    return str(path.resolve())


def with_eval_source(spec: DataSpec, source: str) -> DataSpec:
    """The same data set with other rows to evaluate on: a file, or a split of a ``datasets`` source.

    Raises:
        DataError: there is no such file.
    """
    return dataclasses.replace(spec, eval_source=_eval_source(spec.kind, source))


@lru_cache(maxsize=1)
def _looked_at(spec: DataSpec, stamp: tuple[Any, ...]) -> Table:
    return open_table(spec)


def first_look(
    source: str,
    named: Mapping[str, str | None],
    *,
    format: str | None = None,
    split: str | None = None,
    reading: ReadOptions | None = None,
    kinds: Sequence[RowKind] = get_args(RowKind),
    most_doubt: Doubt = Doubt.NONE,
) -> tuple[RowFormat, bool] | None:
    """The format that a source is in, and whether all of its columns are read; ``None`` where nothing says so.

    A table that was read for this is kept for ``resolve_data``.

    Args:
        source: As the user named it.
        named: Columns that the user named, by option.
        format: Row format that the user named.
        split: Training split that the user named.
        reading: How the user wants files read.
        kinds: Only these kinds of rows.
        most_doubt: How uncertain the format may be.

    Raises:
        DataError: the source cannot be found or read.
    """
    if format is not None:
        return FORMATS.get(format), True
    if source in DATASETS:
        columns = DATASETS.get(source).columns
        table = Table(source, dict.fromkeys(columns, ()), 0)
    elif file_kind(Path(source)) == "text":
        return RUNNING_TEXT, True
    else:
        spec = _spec(source, source_kind(source), split=split, reading=reading or AS_DETECTED)
        table = _looked_at(spec, stamp(spec))
    found = recognise(table, kinds, named, most_doubt)
    if found is None:
        return None
    used = {name for column in found[1].values() for name in label_columns(table, column)}
    left = [name for name in table.columns if name not in used and name.lower() not in INDEX_COLUMNS]
    return found[0], not left
