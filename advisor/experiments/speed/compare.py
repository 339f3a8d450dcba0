"""The recipes that a plan is compared with, their trainings as cells of a grid, and what the rounds say."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from advisor.core.cost import Interval
from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.core.stats import student_t_quantile
from advisor.experiments.grid import Cell, content_key
from advisor.experiments.store import cell_format
from advisor.training.tasks import get_task

PUBLISHED_FILE = Path(__file__).with_name("published.json")
"""The published recipe: ``padding="max_length", max_length=128``, and rows per step."""
PLAN = "plan"
"""Name of the recommended plan among the arms."""

Padding = Literal["max_length", "longest"]


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
class Training:
    """One training of one arm.

    Attributes:
        plan: Its data, method, learning rate and epochs are those of every arm.
        recipe: ``None`` for the plan itself.
        seed: Of initialisation, order and dropout; the arms of a round share it.
    """

    plan: Plan
    recipe: Recipe | None
    seed: int

    @property
    def arm(self) -> str:
        """``"plan"`` or the recipe's name."""
        return PLAN if self.recipe is None else self.recipe.name


@cache
def _published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    return content


def published_methods() -> tuple[str, ...]:
    """The methods that the published comparison trains."""
    return tuple(_published()["methods"])


def reference_batch_size(method: str) -> int:
    """Rows per optimizer step of the published recipe for the method."""
    rows: int = _published()["rows_per_step"].get(method, _published()["rows_per_step_of_others"])
    return rows


def recipes_for(plan: Plan) -> tuple[Recipe, ...]:
    """The published recipe, and the Trainer's own defaults with the plan's effective batch.

    Raises:
        InputError: the task is none of theirs.
    """
    if "labelled" not in get_task(plan.model.task).row_kinds:
        raise InputError(
            f"the suite speed compares classification recipes, but the task is {plan.model.task}",
            fix="name a labelled data set",
        )
    longest: int = _published()["max_length"]
    length = min(longest, plan.model.max_positions or longest)
    rows, batch = reference_batch_size(plan.strategy.method), plan.execution.effective_batch_size
    published = f"published recipe: every row padded to {length} tokens, {rows} rows a step"
    plain = f"plain Trainer: its own collator pads to the batch's longest row, {batch} rows a step"
    return (
        Recipe("reference", "max_length", length, rows, published),
        Recipe("plain", "longest", plan.execution.max_seq_length, batch, plain),
    )


def training_cells(plan: Plan, recipes: Sequence[Recipe], seeds: Sequence[int]) -> tuple[Cell[Training], ...]:
    """The plan and every recipe once per seed.

    The arms of a round follow each other, and every round begins with another arm, so that a machine that grows slower
    or faster meanwhile does so for all of them.

    Args:
        plan: A recommended plan.
        recipes: What to compare it with.
        seeds: One round each.
    """
    arms: list[Recipe | None] = [None, *recipes]
    what = {"model": plan.model, "data": plan.data, "strategy": plan.strategy, "execution": plan.execution}
    cells = []
    for number, seed in enumerate(seeds):
        turn = number % len(arms)
        for arm in (*arms[turn:], *arms[:turn]):
            training = Training(plan, arm, seed)
            label = f"{plan.strategy.method}: {training.arm}, seed {seed}"
            cells.append(Cell(content_key({**what, "recipe": arm, "seed": seed}), label, training))
    return tuple(cells)


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
