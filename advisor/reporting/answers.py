"""The JSON document that each command answers with. Keys are stable and documented in the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.run import RunRecord
from advisor.core.serialization import to_dict


def recommendation_answer(recommendation: Recommendation, plan_path: Path | None) -> dict[str, Any]:
    """``recommend --json``: device, budget, ranked plans with their cost, losers with their reason, advice.

    ``plan_path`` is where the best plan was written; null when nothing fits or no file was asked for.
    """
    return {
        "device_id": recommendation.device_id,
        "budget": to_dict(recommendation.budget),
        "considered": recommendation.considered,
        "evaluated": recommendation.evaluated,
        "ranked": [_ranked_answer(rank, ranked) for rank, ranked in enumerate(recommendation.ranked, start=1)],
        "rejected": [
            {
                "method": rejected.method,
                "reason": rejected.reason,
                "smallest_plan": _plan_answer(rejected.smallest_plan) if rejected.smallest_plan is not None else None,
            }
            for rejected in recommendation.rejected
        ],
        "advice": list(recommendation.advice),
        "plan_path": str(plan_path) if plan_path is not None and recommendation.best is not None else None,
    }


def run_answer(record: RunRecord) -> dict[str, Any]:
    """``run --json``: outcome, metrics, verdicts, and where the full record lies."""
    measurement = record.measurement
    return {
        "outcome": measurement.outcome,
        "method": record.plan.strategy.method,
        "metrics": to_dict(measurement.metrics),
        "verifications": to_dict(record.verifications),
        "predicted": to_dict(record.plan.predicted),
        "measured": {
            "allocated_peak_bytes": measurement.allocated_peak_bytes,
            "reserved_peak_bytes": measurement.reserved_peak_bytes,
            "device_peak_bytes": measurement.device_peak_bytes,
            "total_s": measurement.total_s,
            "trainable_parameters": measurement.trainable_parameters,
            "achieved_sparsity": measurement.achieved_sparsity,
        },
        "device_id": record.device_id,
        "output_dir": record.output_dir,
    }


def _ranked_answer(rank: int, ranked: RankedPlan) -> dict[str, Any]:
    return {
        "rank": rank,
        "method": ranked.plan.strategy.method,
        "score": ranked.score,
        "tied": ranked.tied,
        "reason": ranked.reason,
        "largest_ranks": dict(ranked.largest_ranks),
        **_plan_answer(ranked.plan),
    }


def _plan_answer(plan: Plan) -> dict[str, Any]:
    """The knobs of a plan and their cost; model and data are the same for all plans of an answer."""
    return {
        "strategy": to_dict(plan.strategy),
        "execution": to_dict(plan.execution),
        "cost": to_dict(plan.predicted),
    }
