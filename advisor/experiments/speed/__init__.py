"""Suite ``speed``: a recommended plan against the plain recipes for the same method, in turn, on one machine."""

from advisor.experiments.speed.compare import compared, train_in_turn
from advisor.experiments.speed.recipes import recipes_for, reference_batch_size
from advisor.experiments.speed.records import BenchmarkRun, Contrast, Recipe, SpeedComparison

__all__ = [
    "BenchmarkRun",
    "Contrast",
    "Recipe",
    "SpeedComparison",
    "compared",
    "recipes_for",
    "reference_batch_size",
    "train_in_turn",
]
