"""The planner: execution knobs solved under a budget, plans ranked by quality and cost."""

from advisor.search.planner.candidates import Candidates, candidates, check_knobs
from advisor.search.planner.epochs import with_epochs
from advisor.search.planner.reasons import known_devices
from advisor.search.planner.recommend import recommend_plans, rerank, solve_execution
from advisor.search.planner.request import PlanRequest, SpeedKnobs
from advisor.search.planner.solver import Solution

__all__ = [
    "Candidates",
    "PlanRequest",
    "Solution",
    "SpeedKnobs",
    "candidates",
    "check_knobs",
    "known_devices",
    "recommend_plans",
    "rerank",
    "solve_execution",
    "with_epochs",
]
