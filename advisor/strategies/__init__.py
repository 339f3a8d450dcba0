"""Fine-tuning methods: one registry. Importing this package imports neither torch nor peft."""

from advisor.strategies.base import CategoricalDimension, Dimension, FloatDimension, IntDimension, Strategy
from advisor.strategies.registry import (
    DEFAULT_METHOD,
    ENTRY_POINT_GROUP,
    REFERENCE_METHOD,
    find_strategy,
    forget,
    get_strategy,
    strategies,
    strategy_names,
    strategy_version,
)

__all__ = [
    "DEFAULT_METHOD",
    "ENTRY_POINT_GROUP",
    "REFERENCE_METHOD",
    "CategoricalDimension",
    "Dimension",
    "FloatDimension",
    "IntDimension",
    "Strategy",
    "find_strategy",
    "forget",
    "get_strategy",
    "strategies",
    "strategy_names",
    "strategy_version",
]
