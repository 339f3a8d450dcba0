"""What the rounds of a comparison say about speed and quality."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.core.cost import Interval
from advisor.core.plan import Plan
from advisor.core.stats import student_t_quantile
from advisor.experiments.speed.recipes import PLAN, Recipe
from advisor.experiments.store import cell_format

LEVEL = 0.9
ALONE = Interval(-math.inf, math.inf)
"""One round says nothing about the noise of a difference."""


@dataclass(frozen=True)
class BenchmarkRun:
    """What one training of one arm took and learned.

    Attributes:
        arm: ``"plan"`` or the recipe's name.
        seed: Of initialisation, order and dropout; the arms of a round share it.
        rows: Training rows seen.
        training_s: Wall clock of the training loop, without evaluation and checkpoints.
        metrics: Held-out figures after it.
    """

    arm: str
    seed: int
    rows: int
    training_s: float
    metrics: dict[str, float]

    @property
    def samples_per_s(self) -> float:
        return self.rows / self.training_s


FORMAT = cell_format(BenchmarkRun, "advisor bench speed --output")
"""Files of trainings."""


@dataclass(frozen=True)
class Contrast:
    """The plan against one recipe, over the rounds.

    Attributes:
        recipe: The recipe's name.
        ratio: Median over the rounds of the plan's samples/s over the recipe's.
        lowest, highest: Of those ratios.
        differences: Per metric, the plan's mean less the recipe's with its 90 % confidence interval (paired by seed,
            Student's t).
        noise: Per metric, the standard deviation of the recipe over the seeds.
    """

    recipe: str
    ratio: float
    lowest: float
    highest: float
    differences: dict[str, tuple[float, Interval]]
    noise: dict[str, float]

    def equal_quality(self, metric: str) -> bool:
        """Whether the difference is inside its interval around zero, or inside the recipe's own noise."""
        difference, interval = self.differences[metric]
        return interval.contains(0.0) or abs(difference) <= self.noise[metric]


@dataclass(frozen=True)
class SpeedComparison:
    """Everything about one method.

    Attributes:
        method: Strategy that all arms train.
        plan: The recommended plan.
        recipes: The baselines.
        runs: Runs of complete rounds, in order.
        contrasts: One per recipe.
    """

    method: str
    plan: Plan
    recipes: tuple[Recipe, ...]
    runs: tuple[BenchmarkRun, ...]
    contrasts: tuple[Contrast, ...]

    def of(self, arm: str) -> tuple[BenchmarkRun, ...]:
        """The runs of one arm, by round."""
        return tuple(run for run in self.runs if run.arm == arm)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Held-out figures that every run has."""
        return _metrics(self.runs)


def compared(plan: Plan, recipes: Sequence[Recipe], runs: Sequence[BenchmarkRun]) -> SpeedComparison | None:
    """What the rounds say that every arm has finished; ``None`` without one.

    Args:
        plan: That was trained.
        recipes: That were trained with it.
        runs: That completed.
    """
    arms = (PLAN, *(recipe.name for recipe in recipes))
    finished = set.intersection(*({run.seed for run in runs if run.arm == arm} for arm in arms))
    whole = tuple(run for run in runs if run.seed in finished)
    if not whole:
        return None
    contrasts = tuple(contrast(whole, recipe.name) for recipe in recipes)
    return SpeedComparison(plan.strategy.method, plan, tuple(recipes), whole, contrasts)


def contrast(runs: Sequence[BenchmarkRun], recipe: str) -> Contrast:
    """The plan against one recipe, round by round."""
    plans = {run.seed: run for run in runs if run.arm == PLAN}
    pairs = [(plans[run.seed], run) for run in runs if run.arm == recipe]
    ratios = [mine.samples_per_s / theirs.samples_per_s for mine, theirs in pairs]
    differences, noise = {}, {}
    for metric in _metrics(runs):
        theirs = [other.metrics[metric] for _, other in pairs]
        differences[metric] = _mean_difference([mine.metrics[metric] for mine, _ in pairs], theirs)
        noise[metric] = statistics.stdev(theirs) if len(theirs) > 1 else 0.0
    return Contrast(recipe, statistics.median(ratios), min(ratios), max(ratios), differences, noise)


def _metrics(runs: Sequence[BenchmarkRun]) -> tuple[str, ...]:
    return tuple(name for name in runs[0].metrics if all(name in run.metrics for run in runs))


def _mean_difference(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, Interval]:
    """Mean of the paired differences and its interval by Student's t."""
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, ALONE
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = student_t_quantile((1 + LEVEL) / 2, len(differences) - 1) * error
    return mean, Interval(mean - half, mean + half, LEVEL)
