"""Option values that say how data is read: options of files, and what labels stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advisor.core.data import QUOTINGS, ReadOptions
from advisor.core.errors import InputError

_CHOICES: dict[str, dict[str, Any]] = {
    "encoding": {},
    "delimiter": {"tab": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "},
    "quoting": {name: name for name in QUOTINGS},
    "header": {"yes": True, "no": False},
    "sheet": {},
}
"""Fields of a ``ReadOptions``, and the words for their values; none where any text is one."""


def read_option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` as a field of a ``ReadOptions``."""
    name, _, value = text.partition("=")
    name, value = name.strip(), value.strip() or value
    choices = _CHOICES.get(name)
    if choices is None or not value:
        raise InputError(
            f"--read-option must be NAME=VALUE, but got {text!r}",
            fix=f"the names are {', '.join(_CHOICES)}; for example --read-option encoding=cp1252",
        )
    if value in choices:
        return name, choices[value]
    if choices and not (name == "delimiter" and len(value) == 1 and value not in '"\r\n'):
        raise InputError(
            f"--read-option {name} must be one of {', '.join(choices)}, but got {value!r}",
            fix=f"for example --read-option {name}={next(iter(choices))}",
        )
    return name, value


def label_map(text: str) -> tuple[tuple[str, str], ...]:
    """``A=B,C=D``, or a JSON or delimited file, as pairs of a label and its class."""
    path = Path(text).expanduser()
    if path.is_file():
        return _label_map_file(path)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not pairs or not all(old.strip() and equals and new.strip() for old, equals, new in pairs):
        raise InputError(
            f"--label-map must be LABEL=CLASS pairs or a file that is there, but got {text!r}",
            fix="for example --label-map NEG=neg,POS=pos; labels with a comma or = go into a JSON file",
        )
    return tuple((old.strip(), new.strip()) for old, _, new in pairs)


def _label_map_file(path: Path) -> tuple[tuple[str, str], ...]:
    """Pairs of a JSON object, or of the two columns of a delimited file without a header."""
    if path.suffix == ".json":
        from advisor.core.serialization import read_json

        content = read_json(path, what="--label-map")
        if not isinstance(content, dict) or not all(isinstance(name, str) and name for name in content.values()):
            raise InputError(
                f"--label-map must hold one JSON object of texts, but {path} does not",
                fix='for example {"NEG": "neg", "POS": "pos"}',
            )
        return tuple(content.items())
    from advisor.training.data.tables import read_table

    columns = list(read_table(path, "csv", ReadOptions(header=False)).columns.values())
    if len(columns) != 2 or any(not value for column in columns for value in column):
        raise InputError(
            f"--label-map must have two columns, the label and its class, but {path} has {len(columns)}",
            fix="write one pair a line, without a header: NEG,neg",
        )
    return tuple(zip(*columns, strict=True))
