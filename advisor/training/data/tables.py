"""Files and folders as columns of values. Knows formats, but nothing of tasks or labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.core.data import AS_DETECTED, DataKind, ReadOptions
from advisor.core.errors import DataError
from advisor.training.data.delimited import parse_delimited, with_decimal_points
from advisor.training.data.text_files import check_size, largest_bytes, read_bytes, read_text, require_file

KNOWN_NAMES = frozenset(
    {
        "abstract", "answer", "answers", "article", "body", "category", "chat", "chosen", "class", "comment",
        "completion", "content", "context", "conversation", "conversations", "dialog", "dialogue", "document",
        "entities", "functions", "highlights", "history", "hypothesis", "id", "idx", "index", "input", "inputs",
        "instruction",
        "label", "labels", "message", "messages", "ner", "ner_tags", "output", "pos_tags", "premise", "prompt",
        "query", "question", "question1", "question2", "rating", "rejected", "response", "review", "score",
        "sentence", "sentence1", "sentence2", "sentiment", "source", "spans", "stars", "summary", "system", "tags",
        "target", "targets", "text", "title", "tokens", "tools", "topic", "tweet", "words",
    }
)  # fmt: skip
"""Names, in lower case, that show that the first line of a table is a header."""
_PARQUET = b"PAR1"
_BETWEEN_VALUES = re.compile(r"\s*,?\s*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class LazyColumns(Mapping[str, Sequence[Any]]):
    """Columns that are turned into Python values only when they are asked for (tables may hold much that is not).

    Args:
        names: Of the columns.
        read: Makes the values of one column.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], Sequence[Any]]) -> None:
        self._names = tuple(names)
        self._read = lru_cache(maxsize=None)(read)

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        name: How messages call it.
        columns: Values by column; ``None`` stands for a missing one.
        num_rows: Length of every column.
        class_names: Declared names of integer labels by column (``datasets`` sources only).
        notes: What was not read in the usual way, each a sentence for the user.
        is_named: Whether the column names are the file's own.
        other_splits: What else the source holds (``datasets`` sources only).
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    num_rows: int
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_named: bool = True
    other_splits: tuple[str, ...] = ()

    def column(self, name: str) -> Sequence[Any]:
        """Values of one column.

        Raises:
            DataError: there is none of that name; the message lists those that are there.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.name} must have the named columns, but there is no column {name!r}",
                fix=f"choose from {', '.join(map(repr, self.columns)) or 'nothing: the file has no columns'}",
            )
        return self.columns[name]


def read_table(path: Path, kind: DataKind, options: ReadOptions | None = None) -> Table:
    """Read a CSV, JSONL, Parquet, Excel or CoNLL file.

    Args:
        path: Of the file.
        kind: How to read it.
        options: What the user says of it.

    Raises:
        DataError: missing, unreadable, not of that format, or without a single row.
    """
    readers = {
        "csv": _read_csv, "jsonl": _read_json, "parquet": _read_parquet, "excel": _read_excel, "conll": _read_conll
    }  # fmt: skip
    table = readers[kind](path, options or AS_DETECTED)
    if table.num_rows == 0:
        raise DataError(f"a data set must have at least one row, but {path} has none", fix="name a file with rows")
    return table


def table_from_records(name: str, records: Sequence[Mapping[str, Any]], notes: tuple[str, ...] = ()) -> Table:
    """Columns of records; every key that occurs becomes a column."""
    keys = dict.fromkeys(key for record in records for key in record)
    columns = {key: [record.get(key) for record in records] for key in keys}
    return Table(name, columns, len(records), notes=notes)


def _read_csv(path: Path, options: ReadOptions) -> Table:
    file = read_text(path, options.encoding)
    parsed = parse_delimited(file.text, options, KNOWN_NAMES, name=str(path))
    columns = _named_columns(
        parsed.names,
        [[fields[i] if i < len(fields) else None for fields in parsed.rows] for i in range(len(parsed.names))],
    )
    notes = [*file.notes, *parsed.notes]
    if parsed.delimiter != ",":
        commas = {name: with_decimal_points(values) for name, values in columns.items()}
        changed = {name: values for name, values in commas.items() if values is not None}
        columns |= changed
        if changed:
            names = ", ".join(map(repr, changed))
            notes.append(f"{path.name}: commas in the numbers of {names} are read as decimal points")
    return Table(str(path), columns, len(parsed.rows), notes=tuple(notes), is_named=parsed.has_header)


def _named_columns(names: Sequence[str], values: Sequence[list[Any]]) -> dict[str, Sequence[Any]]:
    """Columns by name. Of those without one, numbers of rows in front stay nameless, empty ones (a delimiter too many
    at the end of each line) are left out, and others are called by their place.
    """
    columns: dict[str, Sequence[Any]] = {}
    for place, (name, column) in enumerate(zip(names, values, strict=True), start=1):
        if name or (place == 1 and all(str(value).strip().isdecimal() for value in column)):
            columns[name] = column
        elif any(value is not None and str(value).strip() for value in column):
            columns[f"column{place}"] = column
    return columns


def _read_excel(path: Path, options: ReadOptions) -> Table:
    from advisor.training.data.spreadsheets import read_sheet

    sheet = read_sheet(path, read_bytes(path), options, KNOWN_NAMES)
    columns = _named_columns(sheet.names, [[cells[i] for cells in sheet.rows] for i in range(len(sheet.names))])
    return Table(str(path), columns, len(sheet.rows), notes=sheet.notes, is_named=sheet.has_header)


def _read_conll(path: Path, options: ReadOptions) -> Table:
    from advisor.training.data.tagged import read_conll

    columns, notes = read_conll(path, options)
    return Table(str(path), columns, max(map(len, columns.values())), notes=notes)


def _read_json(path: Path, options: ReadOptions) -> Table:
    """One object a line; or one list of objects, one object of columns, or object after object, over as many lines as
    they like.
    """
    file = read_text(path, options.encoding)
    text = file.text.lstrip()
    first, _, more = text.partition("\n")
    line_by_line = not (text.startswith("[") or (text.startswith("{") and more and not _is_json(first)))
    content: Any
    try:
        if line_by_line:
            lines = enumerate(file.text.split("\n"), start=1)
            content = [_parse_json(path, line, line=n) for n, line in lines if line.strip()]
        else:
            content = _parse_json(path, text, line=1)
    except DataError:
        content, line_by_line = _one_after_another(text), True
        if content is None:
            raise
    if line_by_line and len(content) == 1 and isinstance(content[0], dict) and ".json" in path.suffixes:
        content = content[0]
    if isinstance(content, dict):
        return _table_of_object(path, content, file.notes)
    return _table_of_rows(path, content, file.notes)


def _one_after_another(text: str) -> list[Any] | None:
    """JSON values with nothing but blanks, line breaks or a comma between them; ``None`` where it is something else."""
    decoder, values, place = json.JSONDecoder(), [], 0
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return None
        values.append(_without_lone_surrogates(value))
        place = _BETWEEN_VALUES.match(text, place).end()  # type: ignore[union-attr]
    return values


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _table_of_rows(path: Path, records: Sequence[Any], notes: tuple[str, ...]) -> Table:
    if questions := _questions_of_articles(records):
        return table_from_records(
            str(path), questions, (*notes, f"{path.name}: questions are read from its paragraphs")
        )
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(
                f"every row must be a JSON object, but row {number} of {path} is {str(record)[:60]!r}",
                fix='write rows as objects: {"text": "...", "label": "..."}',
            )
    return table_from_records(str(path), records, notes)


def _questions_of_articles(articles: Sequence[Any]) -> list[dict[str, Any]]:
    """The questions in files of SQuAD, which lists them by paragraph, and paragraphs by article; empty where it is
    another file.
    """
    try:
        return [
            {"title": article.get("title"), "context": paragraph["context"]}
            | {key: value for key, value in question.items() if not key.startswith("plausible")}
            | {"answers": [answer["text"] for answer in question.get("answers", ())]}
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError, AttributeError):
        return []


def _table_of_object(path: Path, content: dict[str, Any], notes: tuple[str, ...]) -> Table:
    """One object: columns of values (by row, as pandas writes them, or in lists), the rows under some key, or a row."""
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        rows = list(dict.fromkeys(row for column in values for row in column))
        if all(row.isdecimal() for row in rows):
            columns = {name: [column.get(row) for row in rows] for name, column in content.items()}
            return Table(str(path), columns, len(rows), notes=notes)
    names, body = content.get("columns"), content.get("data")
    if (
        isinstance(names, list)
        and isinstance(body, list)
        and all(isinstance(row, list) and len(row) == len(names) for row in body)
    ):  # as pandas writes them with orient="split"
        split = {str(name): [row[i] for row in body] for i, name in enumerate(names)}
        return Table(str(path), split, len(body), notes=notes)
    lists = [value for value in values if isinstance(value, list)]
    of_one_length = len(values) == len(lists) > 1 and len({len(value) for value in lists}) == 1
    if of_one_length and not all(isinstance(row, dict) for value in lists for row in value):
        return Table(str(path), dict(content), len(lists[0]), notes=notes)
    nested = [
        (key, value)
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    ]
    if len(nested) == 1 and nested[0][0] not in KNOWN_NAMES:
        key, rows_below = nested[0]
        left = [name for name in content if name != key]
        beside = f"; not used beside them: {', '.join(left)}" if left else ""
        return _table_of_rows(path, rows_below, (*notes, f"{path.name}: rows are read from its list {key!r}{beside}"))
    return _table_of_rows(path, [content], notes)


def _parse_json(path: Path, text: str, *, line: int) -> Any:
    try:
        value = json.loads(text)
        return _without_lone_surrogates(value) if _SURROGATE.search(text) else value
    except (json.JSONDecodeError, RecursionError) as failure:
        reason = getattr(failure, "msg", "nested too deeply")
        raise DataError(
            f"every line must be JSON, but line {line} of {path} is not: {reason}", fix="write one object a line"
        ) from None


def _without_lone_surrogates(value: Any) -> Any:
    """Half characters (from texts that were cut inside an emoji) as the replacement character: they are not text."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(part) for part in value]
    if isinstance(value, dict):
        return {_without_lone_surrogates(key): _without_lone_surrogates(part) for key, part in value.items()}
    return value


def _read_parquet(path: Path, options: ReadOptions) -> Table:
    import pyarrow
    import pyarrow.parquet

    require_file(path)
    try:
        with path.open("rb") as stream:
            plain = stream.read(len(_PARQUET)) == _PARQUET
        source = path if plain else pyarrow.BufferReader(read_bytes(path))
        check_size(path, _parquet_bytes(source), largest_bytes())
        table = pyarrow.parquet.read_table(source)
    except (pyarrow.ArrowException, OSError) as failure:
        raise DataError(
            f"the data must be Parquet, but {path} cannot be read as such: {failure}", fix="fetch or write it again"
        ) from None
    columns = LazyColumns(table.column_names, lambda name: present(table.column(name).to_pylist()))
    return Table(str(path), columns, table.num_rows)


def _parquet_bytes(source: Any) -> int:
    """What its values take in memory at least: as the file says, or a reference for each of them."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source) as file:
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        return max(sum(group.total_byte_size for group in groups), file.metadata.num_rows * file.metadata.num_columns)


def present(values: Sequence[Any]) -> list[Any]:
    """Arrow values without the fields that are null: all structs of a column have all fields, whether a row had them or
    not.
    """
    return [_present(value) for value in values]


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _present(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_present(part) for part in value]
    return value
