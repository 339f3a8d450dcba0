"""Name -> strategy. Built-ins and the entry points of other packages go the same way.

A package adds a method with one line in its ``pyproject.toml``::

    [project.entry-points."advisor.strategies"]
    my_method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import dataclasses
import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from advisor.core.code_version import code_version
from advisor.core.errors import InputError
from advisor.core.strategy import SHARED_KNOBS, Knobs
from advisor.strategies.base import Strategy

ENTRY_POINT_GROUP = "advisor.strategies"

DEFAULT_METHOD = "lora"
"""What a command predicts when no method is named."""

REFERENCE_METHOD = "full"
"""What published comparisons count gaps from: the only method that every other one tries to equal."""
_BUILT_IN = {
    "full": "full:FullFineTuning",
    "partial": "partial:PartialFineTuning",
    "head": "head:HeadOnly",
    "lora": "lora:Lora",
    "high_rank_lora": "high_rank_lora:HighRankLora",
    "hira": "hira:Hira",
    "sparse_lora": "sparse_lora:SparseLora",
    "qlora": "qlora:QLora",
    "ia3": "ia3:IA3",
    "peft": "peft:AnyPeft",
}


_OUR_PACKAGES = frozenset({"advisor", "abc", "builtins"})


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Entry points by name; a built-in name cannot be taken over by another package."""
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    built_in = {
        name: EntryPoint(name, f"advisor.strategies.{value}", ENTRY_POINT_GROUP) for name, value in _BUILT_IN.items()
    }
    return built_in | {name: point for name, point in found.items() if name not in built_in}


def strategy_names() -> tuple[str, ...]:
    """All registered methods, built-ins first."""
    return tuple(_entry_points())


@cache
def get_strategy(name: str) -> Strategy:
    """The method of that name.

    Raises:
        InputError: no such method (with near matches), or another package's entry point is broken.
    """
    point = _entry_points().get(name)
    if point is None:
        near = difflib.get_close_matches(name, strategy_names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(strategy_names())}"
        raise InputError(f"there is no strategy {name!r}", fix=hint)
    try:
        strategy = point.load()()
    except (ImportError, AttributeError, TypeError) as failure:
        raise InputError(f"the strategy {name!r} could not be loaded from {point.value}: {failure}") from failure
    if not isinstance(strategy, Strategy):
        raise InputError(
            f"the strategy {name!r} must be a subclass of advisor.strategies.Strategy, but {point.value} is not"
        )
    if wrong := _wrong_knobs(strategy.knobs):
        raise InputError(f"the knobs of the strategy {name!r} cannot be used", problems=wrong)
    return strategy


def _wrong_knobs(knobs: type[Knobs]) -> list[str]:
    """Why configurations cannot carry knobs of this class, one sentence each; empty when they can."""
    if not issubclass(knobs, Knobs) or "__dataclass_fields__" not in vars(knobs):
        return [
            f"they must be a frozen dataclass derived from advisor.core.strategy.Knobs, but {knobs.__name__} is not"
        ]
    own = dataclasses.fields(knobs)
    without = [knob.name for knob in own if knob.default is knob.default_factory is dataclasses.MISSING]
    taken = [knob.name for knob in own if knob.name in SHARED_KNOBS or knob.name == "method"]
    return [
        *(f"every knob must have a default, but {name} has none" for name in without),
        *(f"no knob may be called {name}: every strategy has one of that name" for name in taken),
    ]


def find_strategy(name: str) -> Strategy | None:
    """The method of that name, or ``None``: recorded data may name one that is not installed here, or is broken."""
    try:
        return get_strategy(name)
    except InputError:
        return None


def strategies() -> tuple[Strategy, ...]:
    """All registered methods that can be loaded."""
    return tuple(found for found in map(find_strategy, strategy_names()) if found is not None)


def strategy_version(name: str) -> str:
    """Version of the code of another distribution's method, empty for a built-in one.

    It covers the packages in which the method's classes are written, without docstrings and comments, and the
    distribution's own version.
    """
    packages = {base.__module__.rpartition(".")[0] or base.__module__ for base in type(get_strategy(name)).__mro__}
    foreign = sorted(package for package in packages if package.split(".")[0] not in _OUR_PACKAGES)
    distribution = _entry_points()[name].dist
    return code_version(tuple(foreign), (distribution.name,) if distribution is not None else ()) if foreign else ""


def forget() -> None:
    """Look for entry points and versions anew: after a distribution was installed or removed in this process."""
    _entry_points.cache_clear()
    get_strategy.cache_clear()
    code_version.cache_clear()
