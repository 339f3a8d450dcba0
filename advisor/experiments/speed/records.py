"""What the suite runs and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advisor.core.cost import Interval
from advisor.core.plan import Plan

Padding = Literal["max_length", "longest"]

PLAN = "plan"
"""Name of the recommended plan among the arms."""


@dataclass(frozen=True)
class Recipe:
    """A run of the plain ``transformers.Trainer``: its own collator, options and threads.

    Attributes:
        name: Of the arm.
        padding: As in the tokenizer: every row to ``max_length``, or each batch to its longest row.
        max_length: Rows are cut (and padded) here.
        batch_size: Rows per optimizer step, in one forward pass.
        description: One line for the reader.
    """

    name: str
    padding: Padding
    max_length: int
    batch_size: int
    description: str


@dataclass(frozen=True)
class BenchmarkRun:
    """One training of one arm.

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


@dataclass(frozen=True)
class Contrast:
    """The plan against one recipe, over the rounds.

    Attributes:
        recipe: The recipe's name.
        ratio: Median over the rounds of the plan's samples/s over the recipe's.
        lowest, highest: Of those ratios.
        differences: Per metric, the plan's mean less the recipe's with its 90 % interval (paired by seed, Student's t).
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
        plan: What was recommended.
        recipes: What it was compared with.
        runs: In the order in which they ran.
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
