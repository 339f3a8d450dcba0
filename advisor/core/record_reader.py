"""Building records from JSON values that are of exactly the right types: the fast way of reading our own files.

Readers follow from the type hints of a dataclass, or are its own (``read_plain``). What they do not take (a number as
text, an unknown field, a value that breaks a rule) is left to pydantic, which converts what can be converted and names
every problem.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

from advisor.core.registry import SavedByName


class NotPlainError(Exception):
    """The values are not of exactly the types that a record wants."""


Reader = Callable[[Any], Any]


def build(cls: type, values: Any) -> Any:
    """The record of parsed JSON.

    Raises:
        NotPlainError: a value is of another type than its field, or breaks a rule of the record.
    """
    return _reader(cls)(values)


@cache
def _reader(hint: Any) -> Reader:
    if hint is Any:
        return lambda value: value
    if isinstance(hint, type) and issubclass(hint, SavedByName):
        return _registered(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record_reader(hint)
    if hint in (str, int, bool, dict, list):
        return _exact(hint)
    if hint is float:
        return _float
    if hint is type(None):
        return _exact(type(None))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is tuple:
        return _tuple(arguments)
    if origin is list:
        item = _reader(arguments[0])
        return lambda value: [item(entry) for entry in _exact(list)(value)]
    if origin is dict:
        return _mapping(arguments)
    return _unknown


def _unknown(value: Any) -> Any:
    raise NotPlainError


def _registered(kind: type[SavedByName]) -> Reader:
    def read(value: Any) -> Any:
        try:
            return kind.read(value)
        except ValueError:
            raise NotPlainError from None

    return read


def _exact(kind: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise NotPlainError
        return value

    return read


def _float(value: Any) -> float:
    if type(value) not in (float, int):
        raise NotPlainError
    return float(value)


def _literal(allowed: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, str | int) or value not in allowed:
            raise NotPlainError
        return value

    return read


def _union(arguments: tuple[Any, ...]) -> Reader:
    """The first member that takes the value; where a number could be two of them, pydantic chooses."""
    if {int, float} <= set(arguments):
        return _unknown
    members = [_reader(argument) for argument in arguments]

    def read(value: Any) -> Any:
        for member in members:
            try:
                return member(value)
            except NotPlainError:
                continue
        raise NotPlainError

    return read


def _tuple(arguments: tuple[Any, ...]) -> Reader:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        item = _reader(arguments[0])
        return lambda value: tuple(item(entry) for entry in _sequence(value))
    items = [_reader(argument) for argument in arguments]

    def read(value: Any) -> Any:
        entries = _sequence(value)
        if len(entries) != len(items):
            raise NotPlainError
        return tuple(item(entry) for item, entry in zip(items, entries, strict=True))

    return read


def _sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise NotPlainError
    return value


def _mapping(arguments: tuple[Any, ...]) -> Reader:
    key, item = _reader(arguments[0]), _reader(arguments[1])

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise NotPlainError
        return {key(name): item(entry) for name, entry in value.items()}

    return read


def _record_reader(cls: type) -> Reader:
    if (itself := getattr(cls, "read_plain", None)) is not None:
        return _checked(itself)
    if hasattr(cls, "__pydantic_validator__") or hasattr(cls, "__get_pydantic_core_schema__"):
        return _unknown  # it reads itself
    return _checked(lambda values: cls(**read_fields(cls, values)))


def read_fields(cls: type, values: Any) -> dict[str, Any]:
    """Values of some fields of a record.

    Raises:
        NotPlainError: a value is of another type than its field, or of none.
    """
    readers = _field_readers(cls)
    if not isinstance(values, dict) or not values.keys() <= readers.keys():
        raise NotPlainError
    return {name: readers[name](value) for name, value in values.items()}


@cache
def _field_readers(cls: type) -> dict[str, Reader]:
    hints = typing.get_type_hints(cls)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _checked(read: Reader) -> Reader:
    def checked(value: Any) -> Any:
        try:
            return read(value)
        except (TypeError, ValueError):
            raise NotPlainError from None  # a missing field, or a rule of the record

    return checked
