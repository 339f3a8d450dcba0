"""Fine-tuning methods: one file each, one registry. Importing this package imports neither torch nor peft."""

from advisor.strategies.base import CategoricalDimension, Dimension, FloatDimension, IntDimension, Strategy
from advisor.strategies.registry import ENTRY_POINT_GROUP, get_strategy, strategy_names

__all__ = [
    "ENTRY_POINT_GROUP",
    "CategoricalDimension",
    "Dimension",
    "FloatDimension",
    "IntDimension",
    "Strategy",
    "get_strategy",
    "strategy_names",
]
