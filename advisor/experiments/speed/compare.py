"""Arms in turn, round after round, and what that says about speed and quality."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from advisor.core.cost import Interval
from advisor.core.plan import Plan
from advisor.core.stats import student_t_quantile
from advisor.experiments.speed.arms import train_plan, train_recipe
from advisor.experiments.speed.records import PLAN, BenchmarkRun, Contrast, Recipe, SpeedComparison
from advisor.measurement import isolated

Progress = Callable[[Mapping[str, object]], None]
"""Takes ``{"method": what runs, "done": i, "total": n}``."""

METRICS = ("accuracy", "eval_loss")
LEVEL = 0.9
ALONE = Interval(-math.inf, math.inf)
"""One round says nothing about the noise of a difference."""


def train_in_turn(
    plan: Plan,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    *,
    isolate: Callable[..., Any] = isolated,
    on_progress: Progress | None = None,
) -> Iterator[BenchmarkRun]:
    """Train the plan and every recipe once per seed, each in a process of its own.

    The arms of a round follow each other, and every round begins with another arm, so that a machine that grows slower
    or faster meanwhile does so for all of them.

    Args:
        plan: A recommended plan; its data, method, learning rate and epochs are everybody's.
        recipes: What to compare it with.
        seeds: One round each.
        isolate: Runs a function in a process of its own and gives back a ``Result``.
        on_progress: Called before every training.

    Yields:
        Every training as soon as it has ended.

    Raises:
        AdvisorError: a training ended in another way than it should.
    """
    done = 0
    arms: list[Recipe | None] = [None, *recipes]
    for number, seed in enumerate(seeds):
        turn = number % len(arms)
        for arm in (*arms[turn:], *arms[:turn]):
            name = PLAN if arm is None else arm.name
            if on_progress is not None:
                told = f"{plan.strategy.method}: {name}, seed {seed}"
                on_progress({"method": told, "done": done, "total": len(seeds) * len(arms)})
            call = (train_plan, plan, seed) if arm is None else (train_recipe, plan, arm, seed)
            done += 1
            yield isolate(*call).unwrap()


def compared(plan: Plan, recipes: Sequence[Recipe], runs: Sequence[BenchmarkRun]) -> SpeedComparison | None:
    """What the rounds say that every arm has finished; ``None`` without one.

    Args:
        plan: That was trained.
        recipes: That were trained with it.
        runs: Of ``train_in_turn``, as far as it came.
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
    pairs = _pairs(runs, recipe)
    ratios = [mine.samples_per_s / theirs.samples_per_s for mine, theirs in pairs]
    differences, noise = {}, {}
    for metric in METRICS:
        theirs = [other.metrics[metric] for _, other in pairs]
        differences[metric] = _mean_difference([mine.metrics[metric] for mine, _ in pairs], theirs)
        noise[metric] = statistics.stdev(theirs) if len(theirs) > 1 else 0.0
    return Contrast(recipe, statistics.median(ratios), min(ratios), max(ratios), differences, noise)


def _pairs(runs: Sequence[BenchmarkRun], recipe: str) -> list[tuple[BenchmarkRun, BenchmarkRun]]:
    mine = {run.seed: run for run in runs if run.arm == PLAN}
    return [(mine[run.seed], run) for run in runs if run.arm == recipe]


def _mean_difference(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, Interval]:
    """Mean of the paired differences and its interval by Student's t."""
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, ALONE
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = student_t_quantile((1 + LEVEL) / 2, len(differences) - 1) * error
    return mean, Interval(mean - half, mean + half, LEVEL)
