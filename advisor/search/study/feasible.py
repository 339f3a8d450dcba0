"""Before any trial: drop the methods that cannot fit the budget, and cut every range to what fits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from advisor.core.plan import Plan
from advisor.search.planner.candidates import ineligible
from advisor.search.study.context import Infeasible, OnEvent, StudyContext
from advisor.search.study.durations import StudyClock
from advisor.search.study.records import NeverStarted, ParamValue
from advisor.search.study.space import MethodSpace, SearchAxis, Space

PLANNING_SHARE = 0.5
"""Share of the time budget after which no further method is looked at, once one fits: a study of few methods is better
than none. A method's first prediction traces the model (seconds to a minute); later ones are read from the cache."""


def feasible_space(
    setting: StudyContext, declared: Space, clock: StudyClock, on_event: OnEvent | None = None
) -> tuple[Space, tuple[NeverStarted, ...]]:
    """The part of the space that can fit, and what was cut off.

    Memory and time never fall when a rank or the number of unfrozen layers rises, so each integer axis is cut at the
    largest value that fits with every other axis at its cheapest. That is necessary, not sufficient: combinations are
    still checked one by one before a trial starts.
    """
    kept: list[MethodSpace] = []
    cut: list[NeverStarted] = []
    for index, space in enumerate(declared.methods):
        if kept and clock.elapsed_s > PLANNING_SHARE * clock.budget_s:
            reason = "not evaluated: predicting the other methods took half of the time; a new study will be faster"
            cut.append(NeverStarted(None, space.method, reason))
            continue
        if on_event is not None:
            text = f"predicting what {space.method} needs"
            on_event({"kind": "progress", "text": text, "share": index / len(declared.methods)})
        unusable = ineligible(setting.strategies[space.method], setting.model, setting.knobs)
        outcome = _capped(setting, space, cut) if unusable is None else unusable
        if isinstance(outcome, str):
            cut.append(NeverStarted(None, space.method, outcome))
        else:
            kept.append(outcome)
    ordered = sorted(kept, key=lambda space: _promise(setting, space))
    return Space(tuple(ordered), declared.lr_rel), tuple(cut)


def _capped(setting: StudyContext, space: MethodSpace, cut: list[NeverStarted]) -> MethodSpace | str:
    """``space`` with its integer axes cut to what fits, or why nothing fits.

    The top of every axis is asked first: where it fits, which is the rule, that is the only question.
    """
    tops = {axis.field: axis.decode(_whole(axis.high)) for axis in space.axes if axis.integer}
    if isinstance(_fits_somehow(setting, space, tops), Plan):
        return space
    smallest = _fits_somehow(setting, space, {})
    if isinstance(smallest, Infeasible):
        return smallest.reason
    axes = []
    for axis in space.axes:
        capped = _capped_axis(setting, space, axis) if axis.integer else axis
        if capped != axis:
            limit, declared = axis.decode(_whole(capped.high)), axis.decode(_whole(axis.high))
            reason = f"{axis.field} above {limit} does not fit (declared up to {declared})"
            cut.append(NeverStarted(None, space.method, reason))
        axes.append(capped)
    return dataclasses.replace(space, axes=tuple(axes))


def _capped_axis(setting: StudyContext, space: MethodSpace, axis: SearchAxis) -> SearchAxis:
    """Bisection over the grid of one axis; the lowest value is known to fit."""
    grid = [int(axis.low) + index * axis.step for index in range(int((axis.high - axis.low) // axis.step) + 1)]
    low, high = 0, len(grid) - 1
    while low < high:
        middle = (low + high + 1) // 2
        fits = isinstance(_fits_somehow(setting, space, {axis.field: axis.decode(grid[middle])}), Plan)
        low, high = (middle, high) if fits else (low, middle - 1)
    return dataclasses.replace(axis, high=grid[low])


def _fits_somehow(setting: StudyContext, space: MethodSpace, fixed: dict[str, Any]) -> Plan | Infeasible:
    """The first plan that fits: ``fixed`` as given, other numbers at their lowest, any combination of categories."""
    answer: Plan | Infeasible = Infeasible("the method has no configuration", {"fits": 1.0})
    for values in _cheap_combinations(space):
        answer = setting.plan(space.config({**values, **fixed}, 1.0))
        if isinstance(answer, Plan):
            return answer
    return answer


def _cheap_combinations(space: MethodSpace) -> Iterator[dict[str, Any]]:
    options = [[(axis.field, axis.decode(value)) for value in _cheap_values(axis)] for axis in space.axes]
    for combination in itertools.product(*options):
        yield dict(combination)


def warm_start(setting: StudyContext, space: MethodSpace) -> dict[str, ParamValue]:
    """Parameters of a method's first trial: its default, or where that does not fit its smallest variant."""
    default = space.default_params()
    if isinstance(setting.plan(Space((space,)).config(default)), Plan):
        return default
    for values in _cheap_combinations(space):
        if isinstance(setting.plan(space.config(values, 1.0)), Plan):
            return default | {space.param(axis): axis.encode(values[axis.field]) for axis in space.axes}
    return default


def _cheap_values(axis: SearchAxis) -> list[Any]:
    if axis.choices:
        return list(axis.choices)
    return [_whole(axis.low) if axis.integer else axis.low]


def _whole(value: float) -> int:
    return int(value)


def _promise(setting: StudyContext, space: MethodSpace) -> tuple[float, float]:
    """Sort key: better predicted quality first; without a prediction (or among equals) the cheaper method first."""
    plan = setting.plan(Space((space,)).config(warm_start(setting, space)))
    if isinstance(plan, Infeasible) or plan.predicted is None:
        return (float("inf"), float("inf"))
    time = plan.predicted.time
    quality = setting.cost_model.estimate(plan.model, plan.strategy, plan.execution, plan.data_profile).quality
    cost = time.total_s if time is not None else float(plan.predicted.memory.device_bytes)
    if quality is None or quality.value is None:
        return (float("inf"), cost)
    return (-quality.metric.score(quality.value), cost)
