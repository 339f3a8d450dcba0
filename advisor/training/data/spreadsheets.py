"""A sheet of an Excel workbook as rows of values. The library is an extra, imported only for such a file."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.data import ReadOptions
from advisor.core.errors import DataError
from advisor.training.data.delimited import looks_like_a_header, titles_in_front
from advisor.training.data.text_files import check_size, largest_bytes

CELL_CHARACTERS = 32_767
"""Longest text of a cell (Excel's specifications and limits): exports cut longer ones without a word."""


@dataclass(frozen=True)
class Sheet:
    """Rows of a sheet, all as long as ``names``.

    Attributes:
        names: Of the columns, made up where the sheet has none.
        rows: Values by row; ``None`` where a cell is empty.
        notes: What was not read in the usual way.
        has_header: Whether the first row named the columns.
    """

    names: tuple[str, ...]
    rows: list[list[Any]]
    notes: tuple[str, ...]
    has_header: bool


def read_sheet(path: Path, content: bytes, options: ReadOptions, known_names: frozenset[str]) -> Sheet:
    """The first sheet of a workbook, or the one that is named.

    Raises:
        DataError: openpyxl is not installed, this is no workbook, too large a one, or there is no such sheet.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"reading {path} needs openpyxl, which is not installed",
            fix='pip install "finetune-advisor[excel]", or save the sheet as CSV',
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked_bytes = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        unpacked_bytes = 0  # openpyxl says what is wrong
    check_size(path, unpacked_bytes, largest_bytes())
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except Exception as failure:  # the library raises what its XML and ZIP readers raise
        raise DataError(
            f"the data must be an Excel workbook, but {path} cannot be read as such: {failure}",
            fix="save it again as .xlsx or .csv",
        ) from None
    if options.sheet is not None and options.sheet not in book.sheetnames:
        raise DataError(
            f"the sheet must exist, but {path} has none called {options.sheet!r}",
            fix=f"choose from {', '.join(book.sheetnames)}",
        )
    sheet = book[options.sheet or book.sheetnames[0]]
    sheet.reset_dimensions()  # the file may claim a million rows of sixteen thousand cells
    try:
        rows = [row for cells in sheet.iter_rows(values_only=True) if (row := _filled(cells))]
    except Exception as failure:  # as above
        raise DataError(
            f"a sheet must be whole, but reading {sheet.title!r} of {path} failed: {failure}",
            fix="save it again as .xlsx or .csv",
        ) from None
    found = _with_names(path, _trimmed(rows), options, known_names, book.sheetnames, sheet.title)
    others = [name for name in book.sheetnames if name != sheet.title]
    if not found.rows and others:
        raise DataError(
            f"a sheet must have at least one row below its header, but {sheet.title!r} of {path} has none",
            fix="name another one: " + " or ".join(f"--read-option {shlex.quote('sheet=' + name)}" for name in others),
        )
    return found


def _value(cell: Any) -> Any:
    """Errors of formulas are no values."""
    return None if isinstance(cell, str) and cell.startswith("#") and cell.endswith(("!", "?", "/A")) else cell


def _filled(cells: Sequence[Any]) -> list[Any]:
    """A row up to its last cell that holds something."""
    row = [_value(cell) for cell in cells]
    while row and row[-1] is None:
        row.pop()
    return row


def _trimmed(rows: list[list[Any]]) -> list[list[Any]]:
    """Rows of one length."""
    width = max(map(len, rows), default=0)
    return [row + [None] * (width - len(row)) for row in rows]


def _with_names(
    path: Path, rows: list[list[Any]], options: ReadOptions, known: frozenset[str], sheets: Sequence[str], title: str
) -> Sheet:
    notes = []
    if len(sheets) > 1 and options.sheet is None:
        others = ", ".join(name for name in sheets if name != title)
        notes.append(f"{path.name}: the sheet {title!r} is read, not {others}; --read-option sheet=NAME reads another")
    if cut := sum(isinstance(value, str) and len(value) == CELL_CHARACTERS for row in rows for value in row):
        notes.append(f"{path.name}: {cut} cells have {CELL_CHARACTERS} characters, where Excel cuts texts")
    if not rows:
        return Sheet((), [], tuple(notes), True)
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    if options.header is None and (titles := titles_in_front(texts, known)):
        rows, texts = rows[titles:], texts[titles:]
        notes.append(f"{path.name}: {titles} rows before the header are left out")
    has_header = options.header if options.header is not None else looks_like_a_header(texts, known)
    names = [name.strip() for name in texts[0]] if has_header else [f"column{i + 1}" for i in range(len(rows[0]))]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise DataError(
            f"column names must differ, but in {path} {', '.join(map(repr, repeated))} occurs twice",
            fix="rename one of them, or pass --read-option header=no if the first line is a row",
        )
    if not has_header and options.header is None:
        notes.append(
            f"{path.name} has no header line: its columns are called {names[0]} to {names[-1]};"
            " --read-option header=yes takes the first line for one"
        )
    return Sheet(tuple(names), rows[1:] if has_header else rows, tuple(notes), has_header)
