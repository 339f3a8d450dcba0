"""From what the user typed to a DataSpec: what kind of source it is, and which of its columns matter."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from advisor.core.data import DataKind, DataSpec
from advisor.core.errors import DataError
from advisor.training.data.hub import HUB_ID, is_saved_dataset
from advisor.training.data.named import DATASETS
from advisor.training.data.records import open_table
from advisor.training.data.rows import CONVERSATION_COLUMN
from advisor.training.data.rules import data_rules
from advisor.training.data.tables import SUFFIX_KINDS, Table, require_file

TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "article")
LABEL_COLUMNS = ("label", "labels", "class", "category", "sentiment", "target")
TEXT_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"))
COMPLETIONS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"))


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
) -> DataSpec:
    """Find a data set and its columns.

    Columns that are not named are detected; the returned spec holds the ones that will be used. For causal-lm a pair
    column is the completion, and a column ``messages`` holds conversations.

    Args:
        source: Name of a registered data set, CSV/JSONL/Parquet/text file, ``datasets`` folder, or hub id
            (``owner/name[:configuration]``).
        task: What the model will learn.
        text_column: Column of the text; ``None`` detects it, as for the other two.
        text_pair_column: Column of the second text, or of the completion.
        label_column: Column of the class.
        split: Training split of a ``datasets`` source.
        eval_source: Held-out file, or split of a ``datasets`` source.
        eval_fraction: Share held out when there is no ``eval_source``.
        max_train_rows: Cap on training rows (blocks, where text is packed).
        max_eval_rows: Cap on held-out rows.
        split_seed: Seed of hold-out and order.

    Raises:
        DataError: the source, a column or a number is not usable, or the task has no data; the message says which.
    """
    rules = data_rules(task)
    kind = source_kind(source)
    if split is not None and kind != "datasets":
        raise DataError(
            f"only `datasets` sources have splits, but {source} is of kind {kind}", fix="leave the split out"
        )
    local = kind not in ("demo", "datasets")
    try:
        spec = DataSpec(
            source=str(Path(source).expanduser().resolve()) if local or Path(source).is_dir() else source,
            kind=kind,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            split=split,
            eval_source=_eval_source(kind, eval_source),
            eval_fraction=eval_fraction,
            max_train_rows=max_train_rows,
            max_eval_rows=max_eval_rows,
            split_seed=split_seed,
        )
    except ValueError as failure:
        raise DataError(str(failure)) from None
    if spec.kind == "text":
        return rules.with_columns(spec, None)
    table = open_table(spec)
    for column in (spec.text_column, spec.text_pair_column, spec.label_column):
        if column is not None:
            table.column(column)
    return rules.with_columns(spec, table)


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
    suffix = SUFFIX_KINDS.get(path.suffix.lower())
    if path.exists() or suffix:
        require_file(path)
        if suffix is None:
            raise DataError(
                f"the data must be CSV, JSONL, Parquet or text, but {path} ends in {path.suffix or 'no suffix'!r}",
                fix=f"rename it to one of {', '.join(SUFFIX_KINDS)}",
            )
        return suffix
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
    if path.suffix.lower() not in SUFFIX_KINDS:
        raise DataError(
            f"the evaluation data must be CSV, JSONL, Parquet or text, but {path} ends in {path.suffix!r}",
            fix=f"rename it to one of {', '.join(SUFFIX_KINDS)}",
        )
    return str(path.resolve())


def text_columns(spec: DataSpec, table: Table | None) -> DataSpec:
    """The column of a text; plain text has none.

    Raises:
        DataError: it is not clear which.
    """
    if table is None:
        return replace(spec, text_column=None, text_pair_column=None, label_column=None)
    return replace(spec, text_column=spec.text_column or _detect(table, TEXT_COLUMNS, "text"), label_column=None)


def conversation_columns(spec: DataSpec, table: Table | None) -> DataSpec:
    """The column of conversations, those of prompt and completion, or else that of a text.

    Raises:
        DataError: it is not clear which.
    """
    if table is not None and spec.text_column is None:
        if CONVERSATION_COLUMN in table.columns:
            return replace(spec, text_column=CONVERSATION_COLUMN, label_column=None)
        found = next(((p, c) for p, c in COMPLETIONS if {p, c} <= set(table.columns)), None)
        if found is not None:
            return replace(spec, text_column=found[0], text_pair_column=found[1], label_column=None)
    return text_columns(spec, table)


def labelled_columns(spec: DataSpec, table: Table) -> DataSpec:
    """The columns of a text, or of two, and of a label.

    Raises:
        DataError: it is not clear which.
    """
    text, pair = spec.text_column, spec.text_pair_column
    if text is None and pair is None:
        found = next((names for names in TEXT_PAIRS if set(names) <= set(table.columns)), None)
        if found is not None and not set(TEXT_COLUMNS) & set(table.columns):
            text, pair = found
    label = spec.label_column or _named(table, LABEL_COLUMNS, taken=(text, pair))
    text = text or _detect(table, TEXT_COLUMNS, "text", taken=(pair, label))
    label = label or _detect(table, LABEL_COLUMNS, "label", taken=(text, pair))
    return replace(spec, text_column=text, text_pair_column=pair, label_column=label)


def _detect(table: Table, candidates: tuple[str, ...], what: str, taken: tuple[str | None, ...] = ()) -> str:
    """The column with a usual name, or else the only one that is left."""
    free = [name for name in table.columns if name not in taken]
    found = _named(table, candidates, taken) or (free[0] if len(free) == 1 else None)
    if found is None:
        raise DataError(
            f"the {what} column must be known, but no column of {table.name} is called {' or '.join(candidates[:2])}",
            fix=f"name one of {', '.join(map(repr, table.columns))} with --{what}-column",
        )
    return found


def _named(table: Table, candidates: tuple[str, ...], taken: tuple[str | None, ...]) -> str | None:
    lowered = {name.lower(): name for name in table.columns if name not in taken}
    return next((lowered[candidate] for candidate in candidates if candidate in lowered), None)
