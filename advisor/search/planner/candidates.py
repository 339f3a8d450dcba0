"""Which strategies are asked about, and why the others are not: the one place that decides what is eligible."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.recommendation import RejectedMethod
from advisor.core.strategy import SHARED_KNOBS, StrategyConfig
from advisor.strategies import CategoricalDimension, IntDimension, Strategy, get_strategy, strategy_names


@dataclass(frozen=True)
class Candidates:
    """Strategies with their knobs set, and the methods that cannot be used."""

    usable: tuple[StrategyConfig, ...]
    rejected: tuple[RejectedMethod, ...] = ()


def candidates(
    model: ModelSpec,
    methods: Sequence[str | StrategyConfig] | None = None,
    knobs: Mapping[str, Any] | None = None,
) -> Candidates:
    """Sort methods into usable ones and others.

    Args:
        model: What is to be trained.
        methods: Names, or complete configurations, which are taken as they are; all that are ``considered`` when
            ``None``.
        knobs: Values instead of the defaults of every method that has these knobs.

    Raises:
        InputError: an unknown name, a knob that none of the methods has, a configuration that does not fit the model,
            or a value that a method cannot take.
    """
    asked: Sequence[str | StrategyConfig] = methods if methods is not None else considered(model)
    names = [item if isinstance(item, str) else item.method for item in asked]
    check_knobs(knobs or {}, names)
    usable: list[StrategyConfig] = []
    rejected: list[RejectedMethod] = []
    for item in asked:
        method = get_strategy(item if isinstance(item, str) else item.method)
        if isinstance(item, StrategyConfig):
            found = _checked(method, model, item)
        else:
            found = _configured(method, model, knobs or {})
        if isinstance(found, StrategyConfig):
            usable.append(found)
        else:
            rejected.append(RejectedMethod(method.name, found, None))
    return Candidates(tuple(usable), tuple(rejected))


def considered(model: ModelSpec) -> tuple[str, ...]:
    """Methods that are looked at where the user names none: all, but those that live on pretrained weights only where
    there are some.
    """
    return tuple(name for name in strategy_names() if model.has_weights or not get_strategy(name).fits_frozen_features)


def ineligible(method: Strategy, model: ModelSpec, given: Collection[str] = ()) -> str | None:
    """Why a method cannot be used on a model, whatever its values; ``None`` when it can.

    Args:
        method: Any strategy.
        model: What is to be trained.
        given: Knobs that the user has set.
    """
    if method.user_knob is not None and method.user_knob not in given:
        return f"not considered: it needs {method.user_knob_title} of your own"
    reason = method.applies_to(model)
    return f"does not apply: {reason}" if reason else None


def check_knobs(knobs: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Refuse knobs that no method has.

    Raises:
        InputError: naming those that there are.
    """
    own = [{knob.name for knob in dataclasses.fields(get_strategy(name).knobs)} for name in methods]
    known = SHARED_KNOBS.union(*own)
    if unknown := sorted(knobs.keys() - known):
        raise InputError(
            f"a knob must be one that a considered method has, but none has {', '.join(unknown)}",
            fix=f"leave it out, or use one of {', '.join(sorted(known))}",
        )


def given_knobs(method: Strategy, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the knobs that a method has."""
    own = {knob.name for knob in dataclasses.fields(method.knobs)}
    return {name: value for name, value in knobs.items() if name in own | SHARED_KNOBS}


def _configured(method: Strategy, model: ModelSpec, knobs: Mapping[str, Any]) -> StrategyConfig | str:
    """The method with ``knobs``, as far as it has them, instead of defaults; or why it cannot be used.

    Raises:
        InputError: a value that the method cannot take on this model.
    """
    given = given_knobs(method, knobs)
    if reason := ineligible(method, model, given):
        return reason
    config = method.configured(model, **given)
    if given.keys() - SHARED_KNOBS:
        return _checked(method, model, config)
    config.check_task(model.traits)
    problems = method.problems(config, model)
    return f"its defaults do not fit the model: {'; '.join(problems)}" if problems else config


def _checked(method: Strategy, model: ModelSpec, config: StrategyConfig) -> StrategyConfig | str:
    """A configuration of the user's, or why the method does not apply at all.

    Raises:
        InputError: its knobs do not fit the model.
    """
    config.check_task(model.traits)
    if reason := ineligible(method, model, [method.user_knob or ""]):
        return reason
    if problems := method.problems(config, model):
        raise InputError(f"{method.name} cannot be used with these knobs on {model.source}", problems=problems)
    return config


def target_variants(strategy: StrategyConfig, model: ModelSpec) -> tuple[StrategyConfig, ...]:
    """The configuration with the other target sets of its method's search space."""
    method = get_strategy(strategy.method)
    dimension = method.search_space(model).get("target_modules")
    own = strategy.knob("target_modules")
    if not isinstance(dimension, CategoricalDimension) or own not in dimension.choices:
        return ()
    others = (strategy.replaced(target_modules=name) for name in dimension.choices if name != own)
    return tuple(variant for variant in others if not method.problems(variant, model))


def rank_grid(strategy: StrategyConfig, model: ModelSpec) -> tuple[int, ...]:
    """Powers of two and their means inside the method's search space, ascending; empty without a rank."""
    dimension = get_strategy(strategy.method).search_space(model).get("rank")
    if not isinstance(dimension, IntDimension) or strategy.rank is None:
        return ()
    steps = sorted({2**power for power in range(20)} | {3 * 2**power for power in range(20)})
    return tuple(rank for rank in steps if dimension.low <= rank <= dimension.high)
