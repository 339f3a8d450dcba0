"""Which trials come: the recommended default, the learning-rate race, the other methods' defaults, then samples.

Costs are predicted when a method's turn comes, not before: a first prediction traces the model, which takes seconds to
a minute, and what a short call could not look at is looked at by the next one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan
from advisor.search.planner.candidates import ineligible
from advisor.search.planner.ranking import Expectation, expectation, noise_groups, rank
from advisor.search.study.context import OnEvent, StudyContext
from advisor.search.study.durations import StudyClock
from advisor.search.study.records import ExceededLimit, Origin, ParamValue, TrialSummary
from advisor.search.study.space import BATCH, EPOCHS, LR_REL, METHOD, RACE, MethodSpace, SearchAxis, Space
from advisor.search.study.storage import STARTUP_TRIALS, StudyStorage
from advisor.strategies.packing_rules import SAME_KNOBS

PLANNING_SHARE = 0.1
"""Share of the budget for predicting methods before the first trial; at least one is predicted."""

FIRST_PREDICTION_SHARE = 0.25
"""Share of the budget that the predictions before the first trial may take when none of them comes to an end."""

BASELINE_SHARE = 0.1
"""Share of the budget up to which a classifier on frozen features is fitted before anything is trained. Where the task
was probed it always is: its features are kept."""

LOCAL_SHARE = 0.6
"""Share of the samples that change the best trial so far a little instead of asking TPE, and all but a few of those
before TPE has seen enough: with 5 to 30 trials a model has nothing to learn from (the rule is PriorBand's)."""

CHANGED_AXES = 0.35
"""Probability with which a local sample changes each axis; one at least."""


@dataclass
class Agenda:
    """What is tried next.

    Attributes:
        order: Methods, the recommended one first; those that were not predicted last.
        skipped: Methods that cannot be tried, and why.
        exceeded: The limits that these break, where that is why.
        baselines: Methods that fit frozen features in a small share of the budget, or in none because the task was
            probed: they run before all others.
    """

    setting: StudyContext
    space: Space
    storage: StudyStorage
    clock: StudyClock
    on_event: OnEvent | None = None
    order: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    exceeded: dict[str, tuple[ExceededLimit, ...]] = field(default_factory=dict)
    baselines: list[str] = field(default_factory=list)
    _starts: dict[str, dict[str, ParamValue]] = field(default_factory=dict)
    _late: set[str] = field(default_factory=set)

    # --- the order of the methods ---------------------------------------------------------------------------------

    def rank_methods(self, recommended: str | None = None) -> None:
        """Order the methods as ``recommend`` does, as far as costs can be predicted in a small share of the budget.

        Args:
            recommended: Stays the first: an earlier call had settled it.
        """
        setting, planner_began = self.setting, self.clock.now()
        defaults = {space.method: space.default for space in self.space.methods}
        expectations = {
            name: expectation(
                setting.cost_model.quality,
                setting.model,
                config,
                setting.data_profile,
                setting.budget,
                setting.effective_batch_size,
            )
            for name, config in defaults.items()
        }
        groups = noise_groups(expectations, setting.cost_model.quality.tie_margin)
        # A classifier on frozen features is predicted in a moment, and shows whether training pays at all.
        queue = sorted(defaults, key=lambda name: (not self._is_baseline(name), name != recommended, groups[name]))
        plans: dict[str, Plan] = {}
        for index, name in enumerate(queue):
            spent_s = self.clock.now() - planner_began
            share = FIRST_PREDICTION_SHARE if all(map(self._is_baseline, plans)) else PLANNING_SHARE
            allowed_s = min(share * self.clock.budget_s - spent_s, self.clock.remaining_s)
            if allowed_s <= 0:
                break
            if self.on_event is not None:
                text = f"predicting what {name} needs"
                self.on_event({"kind": "progress", "text": text, "share": index / len(queue)})
            found = self.start(name, allowed_s)
            if isinstance(found, Plan):
                plans[name] = found
        ranked = [item.plan.strategy.method for item in self._ranked(plans, expectations)]
        rest = [name for name in queue if name not in plans and name not in self.skipped]
        # What fits frozen features has no learning rate to race, and cannot tell how long trainings take.
        self.order = sorted([*ranked, *rest], key=lambda name: (self._is_baseline(name), name != recommended))
        probed = setting.cost_model.quality.probe is not None
        self.baselines = [
            name
            for name, plan in plans.items()
            if self._is_baseline(name) and (probed or _total_s(plan) <= BASELINE_SHARE * self.clock.budget_s)
        ]

    def _ranked(self, plans: dict[str, Plan], expectations: dict[str, Expectation]) -> tuple[RankedPlan, ...]:
        return rank(plans, expectations, self.tie_margin, objective=self.setting.objective)

    def _is_baseline(self, method: str) -> bool:
        return self.setting.strategies[method].fits_frozen_features

    @property
    def tie_margin(self) -> float:
        """Differences of quality below this are noise between seeds."""
        return self.setting.cost_model.quality.tie_margin

    def start(self, method: str, time_limit_s: float) -> Plan | None:
        """The plan of a method's first point: its default, or where that does not fit its smallest variant.

        ``None`` when that was not known in time, or when nothing of the method fits (it is then ``skipped``).
        """
        space = self.space.method(method)
        if reason := ineligible(self.setting.strategies[method], self.setting.model, self.setting.knobs):
            self.skipped[method] = reason
            return None
        until = self.clock.now() + time_limit_s
        default = self.space.default_params(method)
        reason = ""
        for params in [default, *(default | values for values in _smallest(space))]:
            found = self.setting.plan(self.space.config(params), time_limit_s=max(0.1, until - self.clock.now()))
            if found is None:
                self._late.add(method)
                return None
            if isinstance(found, Plan):
                self._starts[method] = params
                return found
            reason = reason or found.reason
            self.exceeded.setdefault(method, found.exceeded)
        self.skipped[method] = reason
        return None

    def start_params(self, method: str) -> dict[str, ParamValue]:
        """The first point of a method: its default, unless only a smaller variant is known to fit."""
        return self._starts.get(method) or self.space.default_params(method)

    # --- openings -------------------------------------------------------------------------------------------------

    def opening(self, trials: dict[int, TrialSummary], needed_s: float) -> tuple[dict[str, ParamValue], Origin] | None:
        """The next point that is tried before any sample; ``None`` when all were, or there is no time to predict it.

        Args:
            trials: All trials so far.
            needed_s: What a prediction must leave for the run itself.
        """
        tried = self.storage.points()
        opened = {point[METHOD] for origin, point in tried if origin in ("recommended", "default")}
        if not self.order:
            return None
        first = self.order[0]
        for method in self.baselines:
            if method not in opened:
                return self.start_params(method), "default"
        if first not in opened:
            params = self._start_of(first, needed_s)
            return (params, "recommended") if params is not None else None
        factor = self._next_rate(trials)
        if factor is not None:
            start = self._start_of(first, needed_s)
            return ({**start, LR_REL: factor}, "race") if start is not None else None
        for method in list(self.order[1:]):
            if method in opened or method in self.skipped:
                continue
            params = self._start_of(method, needed_s)
            if params is not None:
                return params, "default"
            if method not in self.skipped:
                return None
        return None

    def race_goes_on(self, trials: dict[int, TrialSummary]) -> bool:
        """Whether the next opening is another learning rate of the recommended method."""
        return bool(self.order) and self._next_rate(trials) is not None

    def _next_rate(self, trials: dict[int, TrialSummary]) -> float | None:
        """The next multiple of the learning rate that the recommended method is raced at."""
        first = self.order[0]
        if self._is_baseline(first):
            return None
        if any(t.strategy.method == first and t.verdict in ("failed", "out_of_memory") for t in trials.values()):
            return None
        raced = [float(point[LR_REL]) for _, point in self.storage.points() if point[METHOD] == first]
        return next((f for f in RACE if not any(math.isclose(rate, f, rel_tol=1e-6) for rate in raced)), None)

    def unopened(self) -> list[str]:
        """Methods that no point was tried of."""
        tried = {point.get(METHOD) for _, point in self.storage.points()}
        return [name for name in self.order if name not in tried and name not in self.skipped]

    def gave_up_on(self, method: str) -> bool:
        """Whether a prediction of the method took too long in this call, where that is no reason not to try it."""
        return method in self._late and not self.setting.is_bounded

    def _start_of(self, method: str, needed_s: float) -> dict[str, ParamValue] | None:
        if method == self.order[0] and self.gave_up_on(method):
            return self.space.default_params(method)
        if method not in self._starts and (limit_s := self.clock.remaining_s - needed_s) > 0:
            self.start(method, limit_s)
        return self._starts.get(method)

    # --- samples --------------------------------------------------------------------------------------------------

    def sample(self, best: TrialSummary | None, seed: int) -> dict[str, ParamValue]:
        """A new point: near the best one so far, or TPE's choice. The same history gives the same point."""
        tried = self.storage.points()
        draw = random.Random(f"{seed} {len(tried)}")
        sampled = sum(origin == "sampled" for origin, _ in tried)
        local = LOCAL_SHARE if sampled >= STARTUP_TRIALS else (1 + LOCAL_SHARE) / 2
        if best is not None and draw.random() < local:
            for _ in range(20):
                point = _changed(best.params, self.space.axes(best.strategy.method), draw)
                if all(point != known for _, known in tried):
                    return point
        return self.storage.sample(self.space)

    def neighbour(self, params: dict[str, ParamValue], seed: int) -> dict[str, ParamValue]:
        """A new point near another one that may be trained in one pass with it: what a pack shares is kept."""
        tried = self.storage.points()
        draw = random.Random(f"{seed} {len(tried)}")
        shared = {EPOCHS.field, *SAME_KNOBS}
        axes = self.space.axes(str(params[METHOD]))
        free = {name: axis for name, axis in axes.items() if axis.field not in shared and name != BATCH}
        kept = {name: value for name, value in params.items() if name not in free}
        point = _changed(params, free, draw)
        for _ in range(20):
            if all(kept | point != known for _, known in tried):
                break
            point = _changed(params, free, draw)
        return kept | point


def _changed(params: dict[str, ParamValue], axes: dict[str, SearchAxis], draw: random.Random) -> dict[str, ParamValue]:
    """A neighbour of a point: some axes moved by about a fifth of their range, the method kept."""
    chosen = [name for name in axes if draw.random() < CHANGED_AXES] or [draw.choice(list(axes))]
    return {METHOD: params[METHOD]} | {
        name: _moved(axis, params[name], draw) if name in chosen and name in params else params.get(name, axis.lowest)
        for name, axis in axes.items()
    }


def _moved(axis: SearchAxis, value: ParamValue, draw: random.Random) -> ParamValue:
    if axis.choices:
        return draw.choice(axis.choices)
    low, high, middle = axis.low, axis.high, float(value)
    if axis.log:
        low, high, middle = math.log(low), math.log(high), math.log(middle)
    step = draw.gauss(0, (high - low) / 5)
    if axis.integer:
        whole = max(1, round(abs(step) / axis.step)) * axis.step
        return int(min(max(middle + math.copysign(whole, step), low), high))
    moved = min(max(middle + step, low), high)
    return min(max(math.exp(moved), axis.low), axis.high) if axis.log else moved


def _smallest(space: MethodSpace) -> Iterator[dict[str, ParamValue]]:
    """Every combination of choices with all numbers at their lowest."""
    options: list[list[tuple[str, Any]]] = [
        [(space.param(axis), value) for value in (axis.choices or (axis.lowest,))] for axis in space.axes
    ]
    if options:
        yield from (dict(combination) for combination in itertools.product(*options))


def _total_s(plan: Plan) -> float:
    """Predicted wall clock of the whole run; unknown is too long."""
    time = plan.predicted.time if plan.predicted is not None else None
    return time.total_s if time is not None else math.inf
