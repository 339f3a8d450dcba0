"""Suite ``speed``: a recommended plan against the plain recipes for the same method, in turn, on one machine."""

from advisor.benchmarks.speed.compare import compared, train_in_turn
from advisor.benchmarks.speed.recipes import recipes_for, reference_batch_size
from advisor.benchmarks.speed.records import ArmRun, Contrast, Recipe, SpeedComparison

__all__ = [
    "ArmRun",
    "Contrast",
    "Recipe",
    "SpeedComparison",
    "compared",
    "recipes_for",
    "reference_batch_size",
    "train_in_turn",
]
