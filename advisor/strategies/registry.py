"""Name -> strategy. Built-ins and the entry points of other packages go the same way.

A package adds a method with one line in its ``pyproject.toml``::

    [project.entry-points."advisor.strategies"]
    my_method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator
from functools import cache

from advisor.core.code_version import code_version
from advisor.core.errors import InputError
from advisor.core.registry import Registry
from advisor.core.strategy import SHARED_KNOBS, Knobs
from advisor.strategies.base import Strategy

ENTRY_POINT_GROUP = "advisor.strategies"

DEFAULT_METHOD = "lora"
"""What a command predicts when no method is named."""

REFERENCE_METHOD = "full"
"""What published comparisons count gaps from: the only method that every other one tries to equal."""

_BUILT_IN = (
    *("own_weights:FullFineTuning", "own_weights:PartialFineTuning", "own_weights:HeadOnly"),
    *("lora:Lora", "lora:HighRankLora", "lora:Hira", "sparse_lora:SparseLora"),
    *("qlora:QLora", "sparse_lora:SparseQLora"),
    *("ia3:IA3", "linear_probe:LinearProbe", "peft:AnyPeft"),
)


def _built_in() -> Iterator[Strategy]:
    for place in _BUILT_IN:
        yield pkgutil.resolve_name(f"advisor.strategies.{place}")()


STRATEGIES: Registry[Strategy] = Registry(
    ENTRY_POINT_GROUP,
    "strategy",
    Strategy,  # type: ignore[type-abstract]
    _built_in,
)


def strategy_names() -> tuple[str, ...]:
    """All registered methods, built-ins first."""
    return STRATEGIES.names()


@cache
def get_strategy(name: str) -> Strategy:
    """The method of that name.

    Raises:
        InputError: no such method (with near matches), or another package's entry point is broken.
    """
    strategy = STRATEGIES.get(name)
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
    """Version of the code of another distribution's method, and of those it derives from; empty for a built-in one."""
    own = STRATEGIES.code_version(name)
    packages = {base.__module__.split(".")[0] for base in type(get_strategy(name)).__mro__}
    return own and own + code_version(tuple(sorted(packages - {"advisor", "abc", "builtins"})))


def forget() -> None:
    """Look for entry points and versions anew: after a distribution was installed or removed in this process."""
    STRATEGIES.forget()
    get_strategy.cache_clear()
    code_version.cache_clear()
