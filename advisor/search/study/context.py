"""What stays the same over a whole study, and the doors to the planner and the runner."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from advisor.core.budget import FIGURES, Budget
from advisor.core.chance import ChanceLevel, chance_level
from advisor.core.cost import PackEstimate
from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import AdvisorError, RunFailed, UntraceableError
from advisor.core.events import OnEvent, OnMemberEvent
from advisor.core.metrics import Metric
from advisor.core.model import ModelSpec
from advisor.core.objective import DEFAULT_OBJECTIVE, Objective
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.recommendation import RejectedMethod
from advisor.core.run import Measurement
from advisor.core.serialization import to_dict
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware.versions import installed_versions
from advisor.search.planner.request import PlanRequest
from advisor.search.study.records import ExceededLimit
from advisor.search.study.space import Space
from advisor.strategies import Strategy

MAX_EVAL_ROWS = 500
"""Cap on the study's held-out rows, which every trial pays for: the standard error of an accuracy is then at most
sqrt(0.25 / 500) = 2.2 points, and less for differences, because all trials are judged on the same rows."""


class ExecutionSolver(Protocol):
    """The planner's solver for one strategy configuration: the fastest plan inside the budget, or why there is none.

    ``None`` when that was not known within ``time_limit_s``.
    """

    def __call__(
        self, request: PlanRequest, strategy: StrategyConfig, cost_model: CostModel, *, time_limit_s: float | None
    ) -> Plan | RejectedMethod | None: ...


class Runner(Protocol):
    """Trains one plan in a process of its own that dies with its parent, and always comes back with a typed outcome."""

    def __call__(
        self, plan: Plan, output_dir: Path, *, resume: bool, time_limit_s: float | None, on_event: OnEvent | None
    ) -> Measurement: ...


class PackRunner(Protocol):
    """Trains several plans in one pass over one frozen model, in a process of their own: one outcome for each plan.

    A process that dies ends all members; ``on_event`` receives a member's position and its event.
    """

    def __call__(
        self,
        plans: Sequence[Plan],
        output_dirs: Sequence[Path],
        *,
        resume: bool,
        time_limit_s: float | None,
        on_event: OnMemberEvent | None,
    ) -> list[Measurement]: ...


class PackPredictor(Protocol):
    """What a pack costs; ``None`` when that was not known within ``time_limit_s``."""

    def __call__(
        self,
        cost_model: CostModel,
        model: ModelSpec,
        strategies: Sequence[StrategyConfig],
        execution: ExecutionPlan,
        *,
        time_limit_s: float,
    ) -> PackEstimate | None: ...


@dataclass(frozen=True)
class Infeasible:
    """A configuration that the cost model rules out.

    Attributes:
        constraints: By how much it breaks each budget (figure / budget - 1, positive), as far as that is known.
        exceeded: The figures and limits behind them.
    """

    reason: str
    constraints: dict[str, float]
    exceeded: tuple[ExceededLimit, ...] = ()


@dataclass(frozen=True)
class StudyContext:
    """Everything that a study is about; two calls with equal settings may share one study.

    Attributes:
        first_plan: Execution knobs of the plan that is written before any cost was predicted.
        objective: What the answer is; trials are judged alike whatever it is.
    """

    model: ModelSpec
    data_spec: DataSpec
    data_profile: DataProfile
    cost_model: CostModel
    budget: Budget
    seed: int
    effective_batch_size: int
    solve: ExecutionSolver
    strategies: Mapping[str, Strategy]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    first_plan: ExecutionPlan | None = None
    objective: Objective = DEFAULT_OBJECTIVE
    _plans: dict[str, Plan | Infeasible] = field(default_factory=dict, repr=False, compare=False)

    @property
    def metric(self) -> Metric:
        """What the study searches the best of."""
        return self.model.traits.metric

    @property
    def full_rows(self) -> int:
        """Training rows of the study's largest fidelity: what is left once its own held-out rows are set aside."""
        return max(1, self.data_profile.train_rows - self._holdout_rows)

    @property
    def eval_rows(self) -> int:
        return min(self._holdout_rows, MAX_EVAL_ROWS, self.data_spec.max_eval_rows or MAX_EVAL_ROWS)

    @property
    def _holdout_rows(self) -> int:
        return max(1, round(self.data_profile.train_rows * self.data_spec.eval_fraction))

    @property
    def is_bounded(self) -> bool:
        """Whether the user named any bound of the final run: then nothing runs that was not predicted to keep it."""
        return any(getattr(self.budget, figure.name) is not None for figure in FIGURES)

    @cached_property
    def chance(self) -> ChanceLevel | None:
        """What is reached without reading the text; ``None`` where that is not known."""
        known = self.model.traits.one_class_per_row
        return chance_level(self.data_profile, self.eval_rows) if known else None

    def plan(
        self, config: StrategyConfig, batch: int | None = None, *, time_limit_s: float | None = None
    ) -> Plan | Infeasible | None:
        """The final run's plan of a configuration, execution knobs solved; ``None`` when there was no time for it.

        Solutions are remembered, and shared by configurations that differ in nothing but the learning rate.
        """
        key = self._key(config, batch)
        if key not in self._plans:
            solved = self._solve(config, batch or self.effective_batch_size, time_limit_s)
            if solved is None:
                return None
            self._plans[key] = solved
        found = self._plans[key]
        return dataclasses.replace(found, strategy=config) if isinstance(found, Plan) else found

    def is_predicted(self, config: StrategyConfig, batch: int | None = None) -> bool:
        """Whether ``plan`` knows the answer by now."""
        return self._key(config, batch) in self._plans

    def unpredicted_plan(self, config: StrategyConfig, execution: ExecutionPlan | None = None) -> Plan:
        """A plan that nothing was predicted of, by default the usual set-up with small micro-batches."""
        if execution is None:
            usual = self.first_plan or ExecutionPlan(8, max_seq_length=self.data_profile.max_seq_length)
            rows = max(n for n in range(1, usual.micro_batch_size + 1) if self.effective_batch_size % n == 0)
            accumulated = self.effective_batch_size // rows
            execution = dataclasses.replace(usual, micro_batch_size=rows, gradient_accumulation_steps=accumulated)
        return Plan(
            self.model,
            self.data_spec,
            self.data_profile,
            config,
            execution,
            self.cost_model.device.id,
            self.seed,
            self.budget,
            versions=installed_versions(),
        )

    def _key(self, config: StrategyConfig, batch: int | None) -> str:
        same = dataclasses.replace(config, learning_rate=1.0, lr_rel=1.0, weight_decay=0.0)
        return f"{_digest(same)} {batch or self.effective_batch_size}"

    def _solve(self, config: StrategyConfig, batch: int, time_limit_s: float | None) -> Plan | Infeasible | None:
        problems = self.strategies[config.method].problems(config, self.model)
        if problems:
            return Infeasible("; ".join(problems), {"valid": 1.0})
        try:
            answer = self.solve(self._request(batch), config, self.cost_model, time_limit_s=time_limit_s)
        except (UntraceableError, RunFailed) as failure:
            return Infeasible(failure.message, {"traceable": 1.0})
        if answer is None:
            return None
        if isinstance(answer, Plan):
            violated = {name: value for name, value in self.constraints(answer).items() if value > 0}
            return Infeasible("the planner's own plan breaks the budget", violated) if violated else answer
        known = self.constraints(answer.smallest_plan) if answer.smallest_plan is not None else {}
        broken = {name: value for name, value in known.items() if value > 0}
        exceeded = self.exceeded(answer.smallest_plan) if answer.smallest_plan is not None else ()
        return Infeasible(answer.reason, broken or {"fits": 1.0}, exceeded)

    def _request(self, batch: int) -> PlanRequest:
        return PlanRequest(self.model, self.data_spec, self.data_profile, self.budget, batch, self.seed)

    def constraints(self, plan: Plan) -> dict[str, float]:
        """How far the predicted figures are beyond their limits, relative to these, by the figures' labels."""
        return self.budget.check(plan.predicted, self.cost_model.device).excesses() if plan.predicted else {}

    def exceeded(self, plan: Plan) -> tuple[ExceededLimit, ...]:
        """The limits that the predicted figures are beyond."""
        if plan.predicted is None:
            return ()
        checks = self.budget.check(plan.predicted, self.cost_model.device).checks
        return tuple(
            ExceededLimit(check.constraint.figure.name, check.needed, check.constraint.limit)
            for check in checks
            if check.needed is not None and not check.ok
        )

    def trial_plan(self, plan: Plan, train_rows: int) -> Plan:
        """The same plan on a prefix of the training rows, judged on rows of the training split only."""
        data = dataclasses.replace(
            self.data_spec, inner_holdout=True, max_train_rows=train_rows, max_eval_rows=self.eval_rows
        )
        profile = dataclasses.replace(self.data_profile, train_rows=train_rows, eval_rows=self.eval_rows)
        predicted = self.cost_model.estimate(
            plan.model, plan.strategy, plan.execution, profile, self.budget, with_quality=False
        )
        return dataclasses.replace(plan, data=data, data_profile=profile, predicted=predicted)

    def pack_speed_up(self, plan: Plan, members: int) -> float:
        """How many times as fast so many runs like this one are predicted to be in one pass; 1 where it is unknown."""
        try:
            return self.cost_model.pack_speed_up(plan.model, [plan.strategy] * members, plan.execution)
        except AdvisorError:
            return 1.0

    def identity(self, declared: Space) -> dict[str, str]:
        """What must be equal for a study to be resumed, each part as a short hash or value.

        Neither the objective nor the floor of quality is part of it: they choose among trials and change none.
        """
        limits = dataclasses.replace(self.budget, min_quality=None)
        described = {name: value for name, value in to_dict(self.model).items() if name != "fingerprints"}
        return {
            "model": f"{self.model.source} as {self.model.task} ({_digest(described)})",
            "model files": _digest(self.model.fingerprints),
            "data": self.data_profile.fingerprint or _digest(self.data_spec),
            "data reading": _digest(self.data_spec),
            "budget": _digest(limits),
            "limits": limits.in_words(),
            "methods": ", ".join(space.method for space in declared.methods),
            "effective batch size": str(self.effective_batch_size),
            "seed": str(self.seed),
        }


def _digest(record: Any) -> str:
    text = json.dumps(to_dict(record), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity_hash(identity: Mapping[str, str]) -> str:
    """Goes into the study's name."""
    return _digest(dict(identity))
