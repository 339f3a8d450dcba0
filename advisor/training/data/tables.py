"""Files and folders as columns of values. Knows formats, but nothing of tasks or labels."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.core.data import DataKind
from advisor.core.errors import DataError

SUFFIX_KINDS: dict[str, DataKind] = {
    ".csv": "csv", ".tsv": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
    ".txt": "text", ".text": "text", ".md": "text",
}  # fmt: skip
_DELIMITERS = ",\t;|"
_CSV_FIELD_LIMIT_CHARACTERS = 2**30
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
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    num_rows: int
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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


def read_table(path: Path, kind: DataKind) -> Table:
    """Read a CSV, JSONL or Parquet file.

    Raises:
        DataError: missing, unreadable, not of that format, or without a single row.
    """
    require_file(path)
    readers = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
    table = readers[kind](path)
    if table.num_rows == 0:
        raise DataError(f"a data set must have at least one row, but {path} has none", fix="name a file with rows")
    return table


def require_file(path: Path) -> None:
    """Raise a DataError unless ``path`` is a file."""
    if path.is_dir():
        raise DataError(
            f"the data must be a file or a saved `datasets` folder, but {path} is another folder",
            fix="name the file in it",
        )
    if not path.is_file():
        raise DataError(f"the data file must exist, but there is none at {path}", fix="check the path")


def read_text(path: Path) -> str:
    """A UTF-8 file (with or without byte order mark).

    Raises:
        DataError: missing, unreadable, or in another encoding.
    """
    require_file(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise DataError(
            f"text must be UTF-8, but {path} has the byte 0x{failure.object[failure.start]:02x} at {failure.start}",
            fix=f"convert it: iconv -f latin1 -t utf-8 {path.name}",
        ) from None
    except OSError as failure:
        raise DataError(f"the data file must be readable, but {path} is not: {failure.strerror}") from None


def table_from_records(name: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """Columns of records; every key that occurs becomes a column."""
    keys = dict.fromkeys(key for record in records for key in record)
    return Table(name, {key: [record.get(key) for record in records] for key in keys}, len(records))


def _read_csv(path: Path) -> Table:
    text = read_text(path)
    first, _, _ = text.partition("\n")
    delimiter = max(_DELIMITERS, key=first.count) if any(mark in first for mark in _DELIMITERS) else ","
    csv.field_size_limit(_CSV_FIELD_LIMIT_CHARACTERS)
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if line] or [
            []
        ]
    except csv.Error as failure:
        raise DataError(f"the data must be CSV, but {path} cannot be read as such: {failure}") from None
    names = [name.strip() for name in header]
    problems = [f"the column name {name!r} occurs twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [
        f"row {row} has {len(line)} fields, the header has {len(names)}"
        for row, line in enumerate(lines, start=1)
        if len(line) > len(names)
    ][:5]
    if problems:
        raise DataError(
            f"every row must fit the header, but in {path} some do not",
            problems=problems,
            fix="quote fields that hold the delimiter",
        )
    columns = {name: [line[i] if i < len(line) else None for line in lines] for i, name in enumerate(names)}
    return Table(str(path), columns, len(lines))


def _read_jsonl(path: Path) -> Table:
    text = read_text(path)
    if path.suffix == ".json" and text.lstrip()[:1] == "[":
        records = _parse_json(path, text, line=1)
    else:
        lines = enumerate(text.split("\n"), start=1)
        records = [_parse_json(path, line, line=number) for number, line in lines if line.strip()]
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"every row must be a JSON object, but row {number} of {path} is {str(record)[:60]!r}")
    return table_from_records(str(path), records)


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


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as failure:
        raise DataError(f"the data must be Parquet, but {path} cannot be read as such: {failure}") from None
    columns = LazyColumns(table.column_names, lambda name: list(table.column(name).to_pylist()))
    return Table(str(path), columns, table.num_rows)
