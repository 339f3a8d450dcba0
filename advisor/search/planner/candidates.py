"""Which strategies are asked about, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.recommendation import RejectedMethod
from advisor.core.strategy import StrategyConfig

if TYPE_CHECKING:
    from advisor.strategies import Strategy


def candidates(
    model: ModelSpec,
    methods: Sequence[str | StrategyConfig] | None,
    num_train_epochs: float | None = None,
) -> tuple[tuple[StrategyConfig, ...], tuple[RejectedMethod, ...]]:
    """Candidates with their defaults, and the methods that cannot be used on this model.

    Args:
        model: What is to be trained.
        methods: Names (their defaults are used) or complete configurations; all registered methods when ``None``.
        num_train_epochs: Instead of each method's default; complete configurations keep theirs.

    Raises:
        InputError: an unknown name, or knobs that do not fit the model.
    """
    from advisor.strategies import strategy_names

    asked = tuple(methods) if methods is not None else strategy_names()
    found: list[StrategyConfig] = []
    rejected: list[RejectedMethod] = []
    for item in asked:
        result = _candidate(item, model, num_train_epochs)
        if isinstance(result, StrategyConfig):
            found.append(result)
        else:
            rejected.append(result)
    return tuple(found), tuple(rejected)


def _candidate(
    item: str | StrategyConfig, model: ModelSpec, num_train_epochs: float | None
) -> StrategyConfig | RejectedMethod:
    from advisor.strategies import get_strategy

    name = item if isinstance(item, str) else item.method
    method = get_strategy(name)
    if method.user_knob is not None and isinstance(item, str):
        return RejectedMethod(name, f"not considered: it needs {method.user_knob_title} of your own", None)
    if reason := method.applies_to(model):
        return RejectedMethod(name, f"does not apply: {reason}", None)
    strategy = _with_defaults(method, model, num_train_epochs) if isinstance(item, str) else item
    if problems := method.problems(strategy, model):
        if not isinstance(item, str):
            raise InputError(f"{name} cannot be used with these knobs on {model.source}", problems=problems)
        return RejectedMethod(name, f"its defaults do not fit the model: {'; '.join(problems)}", None)
    return strategy


def _with_defaults(method: Strategy, model: ModelSpec, num_train_epochs: float | None) -> StrategyConfig:
    return method.configured(model, **({"num_train_epochs": num_train_epochs} if num_train_epochs is not None else {}))
