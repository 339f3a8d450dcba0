"""``recommend_plans``: solve every strategy under the budget, then rank what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from advisor.core.budget import Budget
from advisor.core.code_version import TRAINING_LIBRARIES
from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile, DataSpec
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan, Plan
from advisor.core.recommendation import Recommendation, RejectedMethod
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.quality import QualityEvidence, QualityModel
from advisor.search.planner.candidates import candidates
from advisor.search.planner.evaluator import EvaluatedSetup, Evaluator
from advisor.search.planner.grid import largest_rank, target_variants
from advisor.search.planner.protocol import Predictor
from advisor.search.planner.ranking import expectation, rank
from advisor.search.planner.reasons import known_devices, what_to_change, why_rejected
from advisor.search.planner.solver import Solution, Solver
from advisor.search.planner.speed import SpeedKnobs

Progress = Callable[[Mapping[str, object]], None]
"""Takes ``{"kind": "planning", "method": name, "done": i, "total": n}``."""

_VERSIONED = ("finetune-advisor", *TRAINING_LIBRARIES)


def recommend_plans(
    model: ModelSpec,
    data_spec: DataSpec,
    data_profile: DataProfile,
    cost_model: Predictor,
    budget: Budget,
    *,
    effective_batch_size: int = 32,
    methods: Sequence[str | StrategyConfig] | None = None,
    num_train_epochs: float | None = None,
    seed: int = 42,
    evidence: QualityEvidence | None = None,
    quality: QualityModel | None = None,
    devices: Sequence[DeviceProfile] | None = None,
    speed: SpeedKnobs | None = None,
    on_progress: Progress | None = None,
) -> Recommendation:
    """Ranked plans inside the budget, and why every other method lost.

    Args:
        model: What is to be trained.
        data_spec: How a run reads the data.
        data_profile: What the data looks like.
        cost_model: Predicts for the device that the plans are made for.
        budget: Upper bounds; the device's capacity always counts.
        effective_batch_size: Rows per optimizer step, the same for all methods.
        methods: Names or complete configurations; all registered methods when ``None``.
        num_train_epochs: Instead of each method's default.
        seed: Training seed of the plans.
        evidence: Short runs on this task; sharpens the quality.
        quality: Replaces the quality model (prior and ``evidence``).
        devices: Devices to name when something does not fit; the known profiles when ``None``.
        speed: What is fixed of the knobs that change no operator; by default all of them are chosen here.
        on_progress: Called before every method.

    Returns:
        ``ranked`` is empty when nothing fits; ``advice`` then says what to change.

    Raises:
        InputError: an unknown method, knobs that do not fit the model, or an effective batch size below 1.
    """
    if effective_batch_size < 1:
        raise InputError(
            f"the effective batch size must be at least 1, but got {effective_batch_size}", fix="name another one"
        )
    if speed is not None:
        speed.check(cost_model.device)
    found, unusable = candidates(model, methods, num_train_epochs)
    evaluator = Evaluator(model, data_profile, cost_model, budget, effective_batch_size, speed)
    solutions, considered = _solve_all(Solver(evaluator), found, on_progress)
    quality = quality if quality is not None else QualityModel(evidence=evidence)
    shell = PlanBuilder(model, data_spec, data_profile, cost_model.device.id, seed, budget)
    expectations = {name: expectation(quality, shell.plan(item, None)) for name, item in solutions.items()}
    plans = {name: shell.plan(item, item.best) for name, item in solutions.items() if item.best is not None}
    largest = {name: item.largest_ranks for name, item in solutions.items()}
    ranked = rank(plans, expectations, quality.tie_margin, largest)
    known = tuple(devices) if devices is not None else known_devices()
    rejected = tuple(
        shell.rejected(item, evaluator.limit_bytes, cost_model.device, known)
        for item in solutions.values()
        if item.best is None
    )
    advice = _notes(plans, budget) if ranked else what_to_change(list(solutions.values()), budget)
    return Recommendation(
        cost_model.device.id,
        budget,
        ranked,
        (*rejected, *unusable),
        considered,
        advice,
        evaluator.evaluated,
        evaluator.priced,
    )


def rerank(recommendation: Recommendation, quality: QualityModel) -> Recommendation:
    """The same plans ordered by another quality model, for example one with evidence; nothing is solved again."""
    plans = {str(index): item.plan for index, item in enumerate(recommendation.ranked)}
    others = {
        f"rejected {item.method}": item.smallest_plan
        for item in recommendation.rejected
        if item.smallest_plan is not None
    }
    expectations = {name: expectation(quality, plan) for name, plan in (plans | others).items()}
    largest = {str(index): item.largest_ranks for index, item in enumerate(recommendation.ranked)}
    return replace(recommendation, ranked=rank(plans, expectations, quality.tie_margin, largest))


def solve_execution(
    model: ModelSpec,
    data_spec: DataSpec,
    data_profile: DataProfile,
    strategy: StrategyConfig,
    cost_model: Predictor,
    budget: Budget,
    *,
    effective_batch_size: int = 32,
    seed: int = 42,
) -> Plan | RejectedMethod:
    """The fastest plan of one configuration inside the budget, or why there is none."""
    device = cost_model.device
    evaluator = Evaluator(model, data_profile, cost_model, budget, effective_batch_size)
    solution = Solver(evaluator).solve(strategy)
    shell = PlanBuilder(model, data_spec, data_profile, device.id, seed, budget)
    if solution.best is not None:
        return shell.plan(solution, solution.best)
    return shell.rejected(solution, evaluator.limit_bytes, device, ())


class PlanBuilder:
    """All of a plan but its strategy and set-up."""

    def __init__(
        self, model: ModelSpec, data: DataSpec, profile: DataProfile, device: str, seed: int, budget: Budget
    ) -> None:
        self._parts = (model, data, profile, device, seed, budget)
        self._versions = _versions()

    def plan(self, solution: Solution, point: EvaluatedSetup | None) -> Plan:
        """The plan of ``point``; without one the closest that was found stands in (only its strategy is looked at)."""
        model, data, profile, device, seed, budget = self._parts
        execution = point.execution if point is not None else ExecutionPlan(1, max_seq_length=profile.max_seq_length)
        predicted = _with_notes(point, profile) if point is not None else None
        return Plan(
            model, data, profile, solution.strategy, execution, device, seed, budget, predicted, dict(self._versions)
        )

    def rejected(
        self, solution: Solution, limit_bytes: int, device: DeviceProfile, devices: Sequence[DeviceProfile]
    ) -> RejectedMethod:
        """The method as a loser, with its reason."""
        closest = solution.fastest or solution.smallest
        reason = why_rejected(solution, self._parts[5], limit_bytes, device, devices)
        plan = self.plan(solution, closest) if closest is not None else None
        return RejectedMethod(solution.strategy.method, reason, plan)


def _with_notes(point: EvaluatedSetup, data: DataProfile) -> CostEstimate:
    """The promise with what the set-up brings along: another order of rows, rounding, a package that must be there."""
    execution = point.execution
    notes = []
    if execution.optim in BITSANDBYTES_OPTIMIZERS:
        notes.append(f"the optimizer {execution.optim} needs the package bitsandbytes where the plan runs")
    return replace(point.estimate, notes=(*point.estimate.notes, *notes)) if notes else point.estimate


def _solve_all(
    solver: Solver, found: Sequence[StrategyConfig], on_progress: Progress | None
) -> tuple[dict[str, Solution], int]:
    """Solutions by a key that keeps two configurations of one method apart, and how many set-ups they decide."""
    solutions: dict[str, Solution] = {}
    considered = 0
    for index, candidate in enumerate(found):
        if on_progress is not None:
            on_progress({"kind": "planning", "method": candidate.method, "done": index, "total": len(found)})
        name = candidate.method
        key = name if name not in solutions else f"{name} ({index})"
        solutions[key], decided = solve_candidate(solver, candidate)
        considered += decided
    return solutions, considered


def solve_candidate(solver: Solver, strategy: StrategyConfig) -> tuple[Solution, int]:
    """A candidate's best plan with the ranks there is room for, and how many set-ups that decides."""
    solution = solver.solve(strategy)
    variants = target_variants(strategy, solver.evaluator.model)
    # Adapters on all linear layers take more than on some: where the latter do not fit, they need not be asked.
    others = [solver.solve_variant(variant, solution.best) for variant in variants if solution.best is not None]
    ranks = _largest_ranks(solver, (solution, *others))
    return replace(solution, largest_ranks=ranks), solver.grid_size((strategy, *variants))


def _largest_ranks(solver: Solver, solutions: Sequence[Solution]) -> dict[str, int]:
    """By target set; what does not fit at its default rank is left out."""
    found = {}
    for solution in solutions:
        if solution.best is None:
            continue
        rank_limit = largest_rank(solution.strategy, solution.best, solver.evaluator)
        targets = solution.strategy.knob("target_modules")
        if rank_limit is not None:
            found[targets if isinstance(targets, str) else ",".join(targets or ("default",))] = rank_limit
    return found


def _notes(plans: Mapping[str, Plan], budget: Budget) -> tuple[str, ...]:
    notes = []
    if budget.time_s is not None and any(plan.predicted and plan.predicted.time is None for plan in plans.values()):
        notes.append(
            "times are unknown on this device, so the time budget was not checked; run `advisor calibrate run` on it"
        )
    if budget.min_quality is not None:
        notes.append(f"the desired minimum of {budget.min_quality:g} is reported as a probability; it excludes no plan")
    return tuple(notes)


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
