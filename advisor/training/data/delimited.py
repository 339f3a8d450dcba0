"""Delimited text (CSV, TSV) as columns: which delimiter, which way of quoting, and whether there is a header.

What a file leaves open is tried: the reading in which every line is a row of as many fields as the first one wins. A
reading that is not certain is refused with the line, or said in a note that names the option for another one.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advisor.core.data import QUOTINGS, ReadOptions
from advisor.core.errors import DataError

DELIMITERS = ",\t;|"
DELIMITER_NAMES = {"tab": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "}
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_SAMPLE_ROWS = 200
_SAMPLE_CHARACTERS = 2_000_000
_MOST_CLASSES = 1000
_MOST_PROBLEMS = 5
_MOST_TITLES = 5
_UNIT_SEPARATOR = "\x1f"
_BACKSLASH = re.compile(r"\\(.?)")
_LINES = "lines"
_MEANINGS = {
    "double": "lets a quoted field run over lines",
    "backslash": "reads a backslash and a quotation mark as the mark",
    "none": "reads quotation marks as part of the text",
}
_SAID = {
    "backslash": "quotation marks after a backslash are read as text; --read-option quoting=double reads it otherwise",
    "none": "quotation marks are read as part of the text, since they do not enclose fields; --read-option"
    " quoting=double reads it otherwise",
    _LINES: "every line is read as one text, since the first one names one column; --read-option delimiter=CHARACTER"
    " reads it otherwise",
}


@dataclass(frozen=True)
class Delimited:
    """A delimited file.

    Attributes:
        names: Of the columns, made up where the file has none.
        rows: Fields by row; short rows lack the last ones.
        notes: How it was read where that was not certain.
        has_header: Whether the first line named the columns.
        delimiter: Between fields.
    """

    names: tuple[str, ...]
    rows: list[list[str]]
    notes: tuple[str, ...]
    has_header: bool
    delimiter: str


@dataclass(frozen=True)
class _Reading:
    """One way to read the lines.

    Attributes:
        records: Fields, and the line that each record begins in.
        problems: What speaks against it.
        is_certain: Whether it is the way that is meant all the same: quoted fields end as they should, and every row
            has as many fields as the first, but some fields hold what look like rows.
    """

    quoting: str
    records: list[tuple[int, list[str]]]
    problems: list[str]
    is_certain: bool = False


def parse_delimited(text: str, options: ReadOptions, known_names: frozenset[str], *, name: str) -> Delimited:
    """The rows of a delimited text.

    Args:
        text: Of the file.
        options: What the user says of it.
        known_names: Column names in lower case that show that a line is a header.
        name: How messages call the file.

    Raises:
        DataError: lines that are no rows, a quotation mark that swallows rows, or column names that occur twice.
    """
    short = Path(name).name
    delimiter, text = _first_line_delimiter(text)
    notes: list[str] = []
    if comments := _comments_in_front(text):
        text = "\n" * comments + "\n".join(text.split("\n")[comments:])
        notes.append(f"{short}: {comments} lines in front that begin with # are left out")
    delimiter = options.delimiter or delimiter or _best_delimiter(text, options.quoting)
    reading = _best_reading(text, delimiter, options.quoting)
    if reading.problems:
        raise DataError(
            f"every line must be a row with as many fields as the first, but in {name} some are not",
            problems=reading.problems[:_MOST_PROBLEMS],
            fix=_fix(text, delimiter, options),
        )
    if reading.quoting in _SAID and options.quoting is None:
        notes.append(f"{short}: {_SAID[reading.quoting]}")
    records = [fields for _, fields in reading.records]
    if not records:
        return Delimited((), [], tuple(notes), True, delimiter)
    if options.header is None and (titles := titles_in_front(records, known_names)):
        records = records[titles:]
        notes.append(f"{short}: {titles} lines before the header are left out")
    has_header = options.header if options.header is not None else looks_like_a_header(records, known_names)
    if has_header:
        names = [field.strip() for field in records[0]]
        if _lacks_one_name(records):
            names.insert(0, "")
        if repeated := [field for field, count in Counter(filter(None, names)).items() if count > 1]:
            raise DataError(
                f"column names must differ, but in {name} "
                + ", ".join(f"{field!r} occurs twice" for field in repeated[:_MOST_PROBLEMS]),
                fix="rename one of them, or pass --read-option header=no if the first line is a row",
            )
        return Delimited(tuple(names), records[1:], tuple(notes), True, delimiter)
    width = max(len(fields) for fields in records)
    names = [f"column{number}" for number in range(1, width + 1)]
    if options.header is None:
        notes.append(
            f"{short} has no header line: its columns are called {names[0]} to {names[-1]};"
            " --read-option header=yes takes the first line for one"
        )
    return Delimited(tuple(names), records, tuple(notes), False, delimiter)


def _first_line_delimiter(text: str) -> tuple[str | None, str]:
    """Spreadsheets may write a first line ``sep=;``."""
    found = re.match(r"sep=(.)\r?\n", text)
    return (found[1], text[found.end() :]) if found else (None, text)


def _comments_in_front(text: str) -> int:
    """How many lines before the table begin with #; none where the first of them may be its header, which has as many
    fields as the line behind.
    """
    lines = text[:_SAMPLE_CHARACTERS].split("\n")
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), 0)
    if not count or not lines[count].strip():
        return 0
    delimiter = _best_delimiter("\n".join(lines[count:]), None)
    fields = lines[count].count(delimiter)
    return count if fields and all(line.count(delimiter) != fields for line in lines[:count]) else 0


_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+([eE][-+]?\d+)?\s*")
_THOUSANDS = re.compile(r"\s*[-+]?\d{1,3}(,\d{3})+\s*")


def with_decimal_points(values: Sequence[str | None]) -> list[str | None] | None:
    """A column of numbers with decimal commas, as spreadsheets write them in many countries, with points instead.

    Returns:
        ``None`` where it is another column, or the commas may as well stand between thousands.
    """
    there = [value for value in values if value is not None and value.strip()]
    commas = [value for value in there if _DECIMAL_COMMA.fullmatch(value)]
    if all(map(_THOUSANDS.fullmatch, commas)):
        return None
    if not all(_DECIMAL_COMMA.fullmatch(value) or NUMBER.fullmatch(value) for value in there):
        return None
    return [None if value is None else value.replace(",", ".") for value in values]


# --- delimiter --------------------------------------------------------------------------------------------------------


def _best_delimiter(text: str, quoting: str | None) -> str:
    """The one that gives the first lines the most fields, the same number in most of them."""
    sample = text[:_SAMPLE_CHARACTERS]

    def score(delimiter: str) -> tuple[float, int]:
        widths = []
        for _, fields in _records(sample, delimiter, quoting or "double", strict=False):
            if fields:
                widths.append(len(fields))
            if len(widths) == _SAMPLE_ROWS:
                break
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    scores = {delimiter: score(delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: scores[delimiter])
    return best if scores[best][1] else ","


# --- quoting ----------------------------------------------------------------------------------------------------------


def _best_reading(text: str, delimiter: str, quoting: str | None) -> _Reading:
    if quoting is not None:
        return _reading(text, delimiter, quoting, chosen=True)
    readings = []
    for way in QUOTINGS:
        reading = _reading(text, delimiter, way)
        if not reading.problems:
            return reading
        if reading.is_certain:  # quotation marks open and close as they should: only the user can know better
            return reading
        readings.append(reading)
    if readings[0].records and len(readings[0].records[0][1]) == 1:  # one name: the lines are its only column
        whole_lines = _reading(text, _UNIT_SEPARATOR, "none", chosen=True)
        if not whole_lines.problems:
            return replace(whole_lines, quoting=_LINES)
    return readings[0]


def _reading(text: str, delimiter: str, quoting: str, *, chosen: bool = False) -> _Reading:
    """Read it one way; a way that the user did not choose must fit better."""
    records: list[tuple[int, list[str]]] = []
    problems: list[str] = []
    try:
        for record in _records(text, delimiter, quoting, strict=True):
            if record[1]:
                records.append(record)
    except csv.Error as failure:
        problems.append(str(failure))
    if not records:
        return _Reading(quoting, records, problems)
    width = len(records[0][1]) + _lacks_one_name([fields for _, fields in records])
    exact = quoting == "none" and not chosen
    if exact and width < 2:
        problems.append("it has one column")
    problems += [
        f"line {line} has {len(fields)} fields, the first one has {width}"
        for line, fields in records[1:]
        if len(fields) > width or (exact and len(fields) < width)
    ]
    swallowed = _swallowed(records, delimiter, width) if quoting != "none" and not chosen and width > 1 else []
    return _Reading(quoting, records, problems + swallowed, is_certain=bool(swallowed) and not problems)


def _lacks_one_name(records: Sequence[Sequence[str]]) -> bool:
    """Whether every row has one field more than the first line, its number: R names the column of row names not."""
    width, body = len(records[0]), records[1:]
    if width < 2 or not body or any(len(fields) != width + 1 for fields in body):
        return False
    return [fields[0] for fields in body] == [str(number) for number in range(1, len(body) + 1)]


def _records(text: str, delimiter: str, quoting: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    """Fields of every record, and the line (from 1) that it begins in."""
    csv.field_size_limit(max(len(text), csv.field_size_limit()))
    if quoting == "none":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    elif quoting == "backslash":
        kept = _BACKSLASH.sub(lambda found: found[0] if found[1] in ("\\", '"', delimiter) else "\\" + found[0], text)
        reader = csv.reader(io.StringIO(kept, newline=""), delimiter=delimiter, escapechar="\\", strict=strict)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    begin = 1
    try:
        for fields in reader:
            yield begin, fields
            begin = reader.line_num + 1
    except csv.Error as failure:
        open_ended, followed = "end of data" in str(failure), "expected after" in str(failure)
        reason = "a closing quotation mark is followed by other text" if followed else str(failure)
        reason = "a quoted field is not closed" if open_ended else reason
        raise csv.Error(f"the row that begins in line {begin} cannot be read: {reason}") from None


def _swallowed(records: Sequence[tuple[int, list[str]]], delimiter: str, width: int) -> list[str]:
    """Quoted fields that hold lines which look like rows: as many fields as the first line, and in a column with few
    different values one of those that rows of one line have there.
    """
    body = records[1:]
    values = [Counter(f[i].strip() for _, f in body if len(f) == width and "\n" not in f[i]) for i in range(width)]
    classes = [
        {value for value, count in found.items() if count > 1 and value}
        if len(found) <= min(_MOST_CLASSES, max(2, len(body) // 2))
        else set()
        for found in values
    ]
    problems = []
    for line, fields in body:
        parts = (part for field in fields if "\n" in field or "\r" in field for part in field.splitlines())
        row = next((part for part in parts if _is_like_a_row(part, delimiter, classes)), None)
        if row is not None:
            problems.append(f"a quotation mark in line {line} swallows lines that look like rows: {row[:60]!r}")
    return problems


def _is_like_a_row(line: str, delimiter: str, classes: Sequence[set[str]]) -> bool:
    fields = [field.strip().strip('"') for field in line.split(delimiter)]
    return len(fields) == len(classes) and any(f in known for f, known in zip(fields, classes, strict=True))


def _fix(text: str, delimiter: str, options: ReadOptions) -> str:
    """What helps; another way of quoting is named only where it is one that can be read."""
    fix = "put fields that hold the delimiter, a quotation mark or a line break between quotation marks, and double the"
    fix += " marks inside"
    for way in QUOTINGS:
        if way == options.quoting or (way == "backslash" and '\\"' not in text):
            continue
        if not _reading(text, delimiter, way, chosen=True).problems:
            meaning = _MEANINGS[way]
            fix += f"; or pass --read-option quoting={way}, which {meaning}"
    return fix


# --- header -----------------------------------------------------------------------------------------------------------


def titles_in_front(records: Sequence[Sequence[str]], known_names: frozenset[str]) -> int:
    """How many rows before the header hold a title or nothing, as in reports: the header is the first row with a name
    that is known, and all rows before it have one value at most.
    """
    for number, fields in enumerate(records[:_MOST_TITLES]):
        if any(field.strip().lower() in known_names for field in fields):
            return number
        if sum(bool(field.strip()) for field in fields) > 1:
            break
    return 0


def looks_like_a_header(records: Sequence[list[str]], known_names: frozenset[str]) -> bool:
    """Whether the first record names columns: not when it holds numbers, or a value that its column has again."""
    first, body = [field.strip() for field in records[0]], records[1:]
    if any(field.lower() in known_names for field in first) or not body:
        return True
    if first == [str(number) for number in range(len(first))]:  # a table without names, written by pandas
        return True
    if any(NUMBER.fullmatch(field) for field in first):
        return False
    for number, field in enumerate(first):
        values = Counter(fields[number].strip() for fields in body if len(fields) > number)
        few = len(values) <= min(_MOST_CLASSES, max(2, len(body) // 2))
        if few and field and field in values:
            return False
    return True
