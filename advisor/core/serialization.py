"""Records to JSON and back. Reading validates every field and reports all problems of a file at once.

The records are plain frozen dataclasses. Values of exactly the right types are taken as they are; pydantic, whose
import takes as long as a prediction, converts or refuses all others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

from advisor.core.errors import AdvisorError, InputError
from advisor.core.record_reader import NotPlainError, build
from advisor.core.registry import SavedByName

T = TypeVar("T")

LARGEST_JSON_BYTES = 64 * 2**20
"""Of plans, records, profiles and configurations: a hundred times what the largest of them have."""

_SURROGATE = re.compile("[\ud800-\udfff]")

LATER = {"later": True}
"""Metadata of a field that came after records of its kind were first stored: it is left out where it has its default,
so that digests of stored records stay the same."""

BESIDE = {"beside": True}
"""Metadata of a field whose own fields stand in JSON beside those of the record that it belongs to."""


def to_dict(record: Any) -> Any:
    """A record as JSON-ready values: tuples become lists, registered objects their names, non-finite floats null."""
    if isinstance(record, SavedByName):
        return record.name
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        values: dict[str, Any] = {}
        for f in dataclasses.fields(record):
            if f.metadata.get("later") and getattr(record, f.name) == f.default:
                continue
            value = to_dict(getattr(record, f.name))
            values |= value if f.metadata.get("beside") else {f.name: value}
        return values
    if isinstance(record, dict):
        return {str(key): to_dict(value) for key, value in record.items()}
    if isinstance(record, list | tuple | set | frozenset):
        return [to_dict(value) for value in record]
    if isinstance(record, Path):
        return str(record)
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record


def to_json(record: Any, *, indent: int | None = 2) -> str:
    """A record as JSON text with a trailing newline."""
    text = json.dumps(to_dict(record), indent=indent, ensure_ascii=False, allow_nan=False)
    if _SURROGATE.search(text):  # of a path whose bytes are not UTF-8
        text = json.dumps(to_dict(record), indent=indent, allow_nan=False)
    return text + "\n"


def from_dict(cls: type[T], values: Any, *, what: str, error: type[AdvisorError] = InputError) -> T:
    """Build a record from parsed JSON.

    Args:
        cls: The frozen dataclass to build.
        values: Parsed JSON.
        what: Names the input in the message, for example ``"plan.json"``.
        error: Raised on failure.

    Raises:
        AdvisorError: ``error``, with one problem per wrong, missing or unknown field.
    """
    try:
        plain: T = build(cls, values)
        return plain
    except NotPlainError:
        pass
    import pydantic

    # The configuration of the outermost type reaches every record inside it; a bare dataclass takes none, a tuple does.
    adapter: Any = pydantic.TypeAdapter(tuple[cls], config=pydantic.ConfigDict(extra="forbid"))  # type: ignore[valid-type]
    try:
        record: T = adapter.validate_python((values,))[0]
        return record
    except pydantic.ValidationError as failure:
        problems = [_problem(dict(detail)) for detail in failure.errors(include_url=False)]
        raise error(
            f"{what} does not describe a valid {cls.__name__}",
            problems=problems,
            fix="correct the fields above, restore the file from a copy, or make it again",
        ) from None


def _problem(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"][1:]) or "(top level)"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "unexpected_keyword_argument":
        return f"{where}: unknown field, {detail.get('input')!r:.80}"
    if detail["type"] in ("missing", "value_error"):
        return f"{where}: {message}"
    return f"{where}: {message}, but got {detail.get('input')!r:.80}"


def read_json(path: Path, *, what: str, error: type[AdvisorError] = InputError) -> Any:
    """Parse a JSON file.

    Raises:
        AdvisorError: ``error``, when the file is missing, unreadable, too large, or not JSON.
    """
    try:
        return json.loads(_bounded(path, what, error))
    except FileNotFoundError:
        raise error(f"{what} must exist, but there is no file at {path}", fix="check the path") from None
    except (OSError, UnicodeDecodeError) as failure:
        raise error(
            f"{what} must be readable text, but reading {path} failed: {failure}", fix="check the path and the file"
        ) from None
    except RecursionError:
        raise error(
            f"{what} must be JSON that a person could have written, but {path} nests too deeply",
            fix="check that it is the right file",
        ) from None
    except json.JSONDecodeError as failure:
        raise error(
            f"{what} must be JSON, but {path} breaks off at line {failure.lineno}, "
            f"column {failure.colno}: {failure.msg}",
            fix="restore the file from a copy, or make it again",
        ) from None


def _bounded(path: Path, what: str, error: type[AdvisorError]) -> str:
    """The text of a file of ordinary kind and size.

    Raises:
        AdvisorError: ``error``: it is a folder, a device or a pipe, or has more than ``LARGEST_JSON_BYTES``.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
        raise error(f"{what} must be a file, but {path} is {kind}", fix="check the path")
    with path.open(encoding="utf-8") as stream:
        text = stream.read(LARGEST_JSON_BYTES + 1)
    if len(text) > LARGEST_JSON_BYTES:
        raise error(
            f"{what} must have at most {LARGEST_JSON_BYTES // 2**20} MiB, but {path} has {status.st_size // 2**20} MiB",
            fix="check that it is the right file",
        )
    return text
