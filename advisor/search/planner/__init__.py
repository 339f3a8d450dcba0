"""The planner: execution knobs solved under a budget, plans ranked by quality and cost."""

from advisor.search.planner.protocol import Predictor
from advisor.search.planner.recommend import recommend_plans, rerank, solve_execution
from advisor.search.planner.solver import Solution
from advisor.search.planner.speed import SpeedKnobs

__all__ = ["Predictor", "Solution", "SpeedKnobs", "recommend_plans", "rerank", "solve_execution"]
