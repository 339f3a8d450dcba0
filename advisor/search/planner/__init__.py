"""The planner: execution knobs solved under a budget, plans ranked by quality and cost."""

from advisor.search.planner.protocol import Predictor
from advisor.search.planner.recommend import recommend_plans, rerank, solve_execution
from advisor.search.planner.solver import Solution

__all__ = ["Predictor", "Solution", "recommend_plans", "rerank", "solve_execution"]
