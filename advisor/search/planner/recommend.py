"""``recommend_plans``: solve every strategy under the budget, then rank what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from advisor.core.budget import Budget
from advisor.core.cost import QualityEstimate
from advisor.core.device import DeviceProfile
from advisor.core.objective import Objective, get_objective
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, Plan
from advisor.core.recommendation import Recommendation, RejectedMethod
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.costmodel.quality.model import QualityModel
from advisor.hardware.versions import installed_versions
from advisor.search.planner.candidates import Candidates, target_variants
from advisor.search.planner.evaluator import EvaluatedSetup, Evaluator
from advisor.search.planner.ranking import expectation, rank
from advisor.search.planner.reasons import known_devices, what_to_change, why_rejected
from advisor.search.planner.request import PlanRequest
from advisor.search.planner.solver import Solution, Solver, largest_rank

Progress = Callable[[Mapping[str, object]], None]
"""Takes ``{"kind": "planning", "method": name, "done": i, "total": n}``."""


def recommend_plans(
    request: PlanRequest, cost_model: CostModel, found: Candidates, *, on_progress: Progress | None = None
) -> Recommendation:
    """Ranked plans inside the budget, and why every other method lost.

    Args:
        request: What plans are made for.
        cost_model: Predicts for the device that the plans are made for.
        found: Which strategies to consider, and why the others are not.
        on_progress: Called before every method.

    Returns:
        ``ranked`` is empty when nothing fits; ``advice`` then says what to change.

    Raises:
        InputError: a speed knob that the device does not have.
    """
    request.speed.check(cost_model.device)
    evaluator = Evaluator(request, cost_model)
    solutions, considered = _solve_all(Solver(evaluator), found.usable, on_progress)
    expectations = {
        name: expectation(
            cost_model.quality,
            request.model,
            item.strategy,
            request.data,
            request.budget,
            request.effective_batch_size,
        )
        for name, item in solutions.items()
    }
    builder = PlanBuilder(request, cost_model.device)
    plans = {
        name: builder.plan(item.strategy, item.best, expectations[name].quality)
        for name, item in solutions.items()
        if item.best is not None
    }
    largest = {name: item.largest_ranks for name, item in solutions.items()}
    ranked = rank(plans, expectations, cost_model.quality.tie_margin, largest, request.objective)
    lost = [item for item in solutions.values() if item.best is None]
    known = known_devices() if lost else ()
    advice = _notes(plans, request.budget, request.objective) if ranked else what_to_change(list(solutions.values()))
    return Recommendation(
        cost_model.device.id,
        request.budget,
        ranked,
        (*(builder.rejected(item, known) for item in lost), *found.rejected),
        considered,
        advice,
        evaluator.evaluated,
        evaluator.replays,
        objective=request.objective.name,
    )


def rerank(recommendation: Recommendation, quality: QualityModel) -> Recommendation:
    """The same plans ordered by another quality model, for example one with evidence; nothing is solved again."""
    listed = {str(index): item for index, item in enumerate(recommendation.ranked)}
    others = {
        f"rejected {item.method}": item.smallest_plan
        for item in recommendation.rejected
        if item.smallest_plan is not None
    }
    expectations = {
        name: expectation(
            quality, plan.model, plan.strategy, plan.data_profile, plan.budget, plan.execution.effective_batch_size
        )
        for name, plan in ({name: item.plan for name, item in listed.items()} | others).items()
    }
    plans = {name: _with_quality(item.plan, expectations[name].quality) for name, item in listed.items()}
    largest = {name: item.largest_ranks for name, item in listed.items()}
    objective = get_objective(recommendation.objective)
    return replace(recommendation, ranked=rank(plans, expectations, quality.tie_margin, largest, objective))


def _with_quality(plan: Plan, quality: QualityEstimate) -> Plan:
    return replace(plan, predicted=replace(plan.predicted, quality=quality)) if plan.predicted is not None else plan


def solve_execution(request: PlanRequest, strategy: StrategyConfig, cost_model: CostModel) -> Plan | RejectedMethod:
    """The fastest plan of one configuration inside the budget, or why there is none."""
    solution = Solver(Evaluator(request, cost_model)).solve(strategy)
    builder = PlanBuilder(request, cost_model.device)
    return builder.plan(strategy, solution.best) if solution.best is not None else builder.rejected(solution)


class PlanBuilder:
    """Makes the plans of a request, each once and whole: set-up, cost, quality, notes, versions."""

    def __init__(self, request: PlanRequest, device: DeviceProfile) -> None:
        self._request, self._device = request, device
        self._versions = installed_versions()

    def plan(self, strategy: StrategyConfig, point: EvaluatedSetup, quality: QualityEstimate | None = None) -> Plan:
        """The plan of an exactly priced set-up."""
        request, optim = self._request, point.execution.optim
        notes = point.estimate.notes
        if optim in BITSANDBYTES_OPTIMIZERS:
            notes += (f"the optimizer {optim} needs the package bitsandbytes where the plan runs",)
        return Plan(
            request.model,
            request.data_spec,
            request.data,
            strategy,
            point.execution,
            self._device.id,
            request.seed,
            request.budget,
            replace(point.estimate, quality=quality, notes=notes),
            dict(self._versions),
        )

    def rejected(self, solution: Solution, known_devices: Sequence[DeviceProfile] = ()) -> RejectedMethod:
        """A method without a plan inside the budget: why, and the plan that came closest.

        Args:
            solution: Of the method.
            known_devices: Among which to name one that is large enough.
        """
        closest = solution.fastest or solution.smallest
        reason = why_rejected(solution, self._request.budget, self._device, known_devices)
        plan = self.plan(solution.strategy, closest) if closest is not None else None
        return RejectedMethod(solution.strategy.method, reason, plan)


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
        solutions[key], decided = _solve(solver, candidate)
        considered += decided
    return solutions, considered


def _solve(solver: Solver, strategy: StrategyConfig) -> tuple[Solution, int]:
    """A candidate's best plan with the ranks there is room for, and how many set-ups that decides."""
    solution = solver.solve(strategy)
    variants = target_variants(strategy, solver.evaluator.request.model)
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


def _notes(plans: Mapping[str, Plan], budget: Budget, objective: Objective) -> tuple[str, ...]:
    notes = []
    if budget.time_s is not None and any(plan.predicted and plan.predicted.time is None for plan in plans.values()):
        notes.append(
            "times are unknown on this device, so the time budget was not checked; run `advisor calibrate run` on it"
        )
    if budget.min_quality is not None and not objective.needs_floor:
        notes.append(f"the desired minimum of {budget.min_quality:g} is reported as a probability; it excludes no plan")
    return tuple(notes)
