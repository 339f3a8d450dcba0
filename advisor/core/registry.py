"""Objects by name: the built-in ones, and those that other packages add with entry points.

A package adds one with a line in its ``pyproject.toml``, for example a metric::

    [project.entry-points."advisor.metrics"]
    kappa = "my_package.metrics:KAPPA"

The entry point names an object of the registry's kind, or a class that makes one without arguments.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from advisor.core.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str:
        """The name that it is found under."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Objects of one kind by name. Entry points are looked for only when a name is not built in.

    Args:
        group: Of the entry points.
        what: What messages call such an object.
        kind: The class that every object is an instance of.
        built_in: Makes our own objects, when one is asked for; their names cannot be taken over.
        error: What is raised for a name that there is not.
    """

    def __init__(
        self,
        group: str,
        what: str,
        kind: type[T],
        built_in: Callable[[], Iterable[T]],
        error: type[InputError] = InputError,
    ) -> None:
        self.group, self.what, self.kind, self.error = group, what, kind, error
        self._make_built_in = built_in
        self.forget()

    def forget(self) -> None:
        """Look for entry points anew: after a distribution was installed or removed in this process."""
        self._built_in: dict[str, T] = {}
        self._points: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """All names, the built-in ones first."""
        return (*self._own(), *self._entry_points())

    def __contains__(self, name: object) -> bool:
        return name in self._own() or name in self._entry_points()

    def get(self, name: str) -> T:
        """The object of that name.

        Raises:
            InputError: there is none (with near matches), or another package's entry point is broken.
        """
        found = self._own().get(name) or self._loaded.get(name)
        if found is None:
            found = self._loaded[name] = self._load(name)
        return found

    def all(self) -> tuple[T, ...]:
        """Every object.

        Raises:
            InputError: another package's entry point is broken.
        """
        return tuple(self.get(name) for name in self.names())

    def code_version(self, name: str) -> str:
        """Changes with the code of another package's object, for keys of what is stored; empty for our own."""
        if name in self._own():
            return ""
        point = self._entry_points().get(name)
        return plugin_version(point) if point is not None else ""

    def _own(self) -> dict[str, T]:
        if not self._built_in:
            self._built_in = {item.name: item for item in self._make_built_in()}
        return self._built_in

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._points is None:
            from importlib.metadata import entry_points

            own = self._own()
            self._points = {p.name: p for p in entry_points(group=self.group) if p.name not in own}
        return self._points

    def _load(self, name: str) -> T:
        point = self._entry_points().get(name)
        if point is None:
            near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(self.names())}"
            raise self.error(f"there is no {self.what} {name!r}", fix=hint)
        try:
            found = point.load()
            found = found() if isinstance(found, type) else found
        except Exception as failure:  # code of another package, which fails as it likes
            raise self.error(
                f"the {self.what} {name!r} could not be loaded from {point.value}: {failure}",
                fix=f"update or remove the package that has the entry point {name} in the group {self.group}",
            ) from failure
        if not isinstance(found, self.kind) or found.name != name:
            raise self.error(
                f"the {self.what} {name!r} must be a {self.kind.__module__}.{self.kind.__qualname__} of that name, "
                f"but {point.value} is not",
                fix="correct the entry point",
            )
        return found


def plugin_version(point: EntryPoint) -> str:
    """Version of the code behind an entry point: of its top-level package and of its distribution."""
    from advisor.core.code_version import code_version

    package = point.module.split(".")[0]
    return code_version((package,), (point.dist.name,) if point.dist is not None else ())


class SavedByName(ABC):
    """A registered object inside a record: JSON and processes exchange its name, and reading looks it up again."""

    name: str

    @classmethod
    @abstractmethod
    def by_name(cls, name: str) -> SavedByName:
        """The object of that name.

        Raises:
            InputError: there is none.
        """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).by_name, (self.name,)

    @classmethod
    def read(cls, value: Any) -> SavedByName:
        """The object that JSON names.

        Raises:
            ValueError: there is none of that name.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.by_name(str(value))
        except InputError as failure:
            raise ValueError(failure.message) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls.read)
