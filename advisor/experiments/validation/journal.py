"""Records on disk: JSON lines that survive a kill, a full disk and a torn last line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

from advisor.core.append_log import AppendLog
from advisor.core.errors import OutputError
from advisor.core.serialization import from_dict, to_json
from advisor.core.store import output_errors
from advisor.experiments.validation.record import SCHEMA_VERSION, Header, Record


class Journal:
    """One file of records: a header line, then a line per case, each on disk before the next case begins.

    Use as a context manager; while it is open no other process can write the same file.

    Args:
        path: The file; its folder is created.
        header: Written when the file is new; an existing file's own header is kept.
        resume: Keep what is there; otherwise it is moved aside, to ``….jsonl.old``.

    Attributes:
        header: Of the file.
        records: What the file holds, by key; a case that occurs twice counts with its last line.
    """

    def __init__(self, path: Path, header: Header, *, resume: bool = True) -> None:
        self.path = path
        self.header = header
        self.records: dict[str, Record] = {}
        self._resume = resume
        busy = OutputError(
            f"one validation at a time may write {path}, but another one has it open",
            fix="wait until it is done, or name another --output",
        )
        self._log = AppendLog(path, busy=busy)

    def __enter__(self) -> Journal:
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._resume and self.path.exists():
                os.replace(self.path, self.path.with_name(self.path.name + ".old"))
        text = self._log.open()
        try:
            header, self.records = parse_journal(text, str(self.path))
            if header is None:
                self._append(to_json(self.header, indent=None))
            else:
                self.header = header
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def append(self, record: Record) -> None:
        """Write one record and wait until it is on disk.

        Raises:
            OutputError: the disk is full or gone; what was there before is as it was.
        """
        self._append(to_json(record, indent=None))
        self.records[record.key] = record

    def _append(self, line: str) -> None:
        with output_errors(self.path):
            self._log.append(line)


def parse_journal(
    text: str, what: str, *, fix: str = "name another --output, or start over with --no-resume"
) -> tuple[Header | None, dict[str, Record]]:
    """The header and the records of a file's text; both are empty for an empty file.

    Args:
        text: Of the file.
        what: What messages call it.
        fix: What to do about a damaged file.

    Raises:
        OutputError: a line is damaged or of a newer version.
    """
    header: Header | None = None
    records: dict[str, Record] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            raise OutputError(f"every line must be JSON, but line {number} of {what} is not", fix=fix) from None
        if number == 1:
            header = _header(values, what, fix)
        else:
            record = from_dict(Record, values, what=f"line {number} of {what}", error=OutputError)
            records[record.key] = record
    return header, records


def _header(values: object, what: str, fix: str) -> Header:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise OutputError(f"schema_version must be at most {SCHEMA_VERSION}, but {what} has {version}", fix=fix)
    return from_dict(Header, values, what=f"line 1 of {what}", error=OutputError)
