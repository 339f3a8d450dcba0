"""Records on disk: one JSON file of lines, a header first, that survives a kill, a full disk and a second writer.

JSON lines rather than SQLite: a grid has hundreds of records that are always read together, and a file that can be
appended to, diffed, committed and sent as it is serves both the running grid and its publication.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from advisor.core.append_log import AppendLog, read_lines
from advisor.core.errors import InputError, OutputError
from advisor.core.serialization import from_dict, to_json
from advisor.core.store import output_errors
from advisor.experiments.grid import Cell, CellOutcome, CellResult, V

SCHEMA_VERSION = 1
START_OVER = "name another --output, or start over with --no-resume"


class KeyedRecord(Protocol):
    """What every record has: the key of its cell."""

    @property
    def key(self) -> str: ...


H = TypeVar("H")
R = TypeVar("R", bound=KeyedRecord)


@dataclass(frozen=True)
class GridHeader:
    """The first line of a file: what all its records have in common.

    Attributes:
        grid: Name of the grid.
        device_id: Profile of the device that the cells ran on.
        versions: Libraries that decide what a cell does.
        started_at: ISO 8601, UTC.
    """

    grid: str
    device_id: str
    versions: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class CellRecord(Generic[V]):
    """One cell that has ended.

    Attributes:
        key, label: As in ``Cell``.
        outcome, reason, seconds, value: As in ``CellResult``.
    """

    key: str
    label: str
    outcome: CellOutcome
    reason: str = ""
    seconds: float = 0.0
    value: V | None = None


@dataclass(frozen=True)
class RecordFormat(Generic[H, R]):
    """What a file of records holds.

    Attributes:
        header: Type of the first line.
        record: Type of every other line.
        record_of: The record of a cell that has ended.
        is_final: Whether a record ends its cell; otherwise the next call runs the cell again.
        command: Writes such files; messages name it.
        newest: Highest ``schema_version`` that can be read.
    """

    header: type[H]
    record: type[R]
    record_of: Callable[[Cell[Any], CellResult[Any]], R]
    is_final: Callable[[R], bool]
    command: str
    newest: int = SCHEMA_VERSION

    def parse(self, text: str, what: str, *, fix: str) -> tuple[H | None, dict[str, R]]:
        """Header and records of a file's text; ``None`` and nothing for an empty one.

        Args:
            text: Whole lines.
            what: Names the file in messages.
            fix: What to do about a damaged file.

        Raises:
            OutputError: a line is damaged or was written by a newer version.
        """
        header: H | None = None
        records: dict[str, R] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            where = f"line {number} of {what}"
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                raise OutputError(f"every line must be JSON, but {where} is not", fix=fix) from None
            if number == 1:
                version = values.get("schema_version") if isinstance(values, dict) else None
                if isinstance(version, int) and version > self.newest:
                    message = f"schema_version must be at most {self.newest}, but {what} has {version}"
                    raise OutputError(message, fix=fix)
                header = from_dict(self.header, values, what=where, error=OutputError)
            else:
                record = from_dict(self.record, values, what=where, error=OutputError)
                records[record.key] = record
        return header, records


def cell_format(value: type[V], command: str) -> RecordFormat[GridHeader, CellRecord[V]]:
    """The format of grids without a format of their own: cells that did not complete run again.

    Args:
        value: What the cells' function returns, a dataclass.
        command: Writes such files; messages name it.
    """

    def record_of(cell: Cell[Any], result: CellResult[Any]) -> CellRecord[V]:
        return CellRecord(cell.key, cell.label, result.outcome, result.reason, round(result.seconds, 3), result.value)

    record: Any = CellRecord[value]  # type: ignore[valid-type]
    return RecordFormat(GridHeader, record, record_of, lambda record: record.outcome == "completed", command)


class RecordStore(Generic[H, R]):
    """The records of a grid, each on disk before the next cell begins.

    Use as a context manager; while it is open no other process can write the same file.

    Args:
        path: The file, whose folder is created; in memory only when ``None``.
        header: Written when the file is new; an existing file keeps its own.
        form: What the file holds.
        resume: Keep the records of the file; otherwise it is moved aside, to ``….jsonl.old``.

    Attributes:
        header: Of the file.
        records: By key; of several records with one key the last counts.
    """

    def __init__(self, path: Path | None, header: H, form: RecordFormat[H, R], *, resume: bool = True) -> None:
        self.path = path
        self.header = header
        self.records: dict[str, R] = {}
        self._form = form
        self._resume = resume
        self._log: AppendLog | None = None

    def __enter__(self) -> RecordStore[H, R]:
        if self.path is None:
            return self
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._resume and self.path.exists():
                os.replace(self.path, self.path.with_name(self.path.name + ".old"))
        busy = OutputError(
            f"one process at a time may write {self.path}, but another one has it open",
            fix="wait until it is done, or name another --output",
        )
        self._log = AppendLog(self.path, busy=busy)
        try:
            found, self.records = self._form.parse(self._log.open(), str(self.path), fix=START_OVER)
            if found is None:
                self._append(self.header)
            else:
                self.header = found
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        if self._log is not None:
            self._log.close()

    def is_done(self, key: str) -> bool:
        """Whether a cell has a record that ends it."""
        return key in self.records and self._form.is_final(self.records[key])

    def save(self, cell: Cell[Any], result: CellResult[Any]) -> R:
        """Record a cell that has ended, and wait until the record is on disk.

        Raises:
            OutputError: the disk is full or gone; the records before are as they were.
        """
        record = self._form.record_of(cell, result)
        self.add(record)
        return record

    def add(self, record: R) -> None:
        """The same for a record made elsewhere."""
        self._append(record)
        self.records[record.key] = record

    def _append(self, record: Any) -> None:
        if self.path is not None and self._log is not None:
            with output_errors(self.path):
                self._log.append(to_json(record, indent=None))


def read_records(path: Path, form: RecordFormat[H, R]) -> tuple[H, dict[str, R]]:
    """Header and records of a file that nobody needs to write; a last line that a kill tore is left out.

    Raises:
        InputError: there is no such file, or it is empty.
        OutputError: a line is damaged or was written by a newer version.
    """
    if not path.is_file():
        raise InputError(f"--records must be a file of records, but there is none at {path}", fix="check the path")
    fix = f"name a .jsonl file that `{form.command}` wrote"
    found, records = form.parse(read_lines(path), str(path), fix=fix)
    if found is None:
        raise InputError(f"--records must be a file of records, but {path} has no complete line", fix=fix)
    return found, records
