"""The set-ups that a recommendation stands for, and the ranks that there is room for.

Every method is solved with its default knobs; the same is asked for the other target sets of its search space, and for
a grid of ranks. Most of this grid needs no evaluation of its own: memory grows with micro-batch and rank, so
one set-up that fits decides all smaller ones, and one that does not all larger ones.
"""

from __future__ import annotations

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.search.planner.evaluator import EvaluatedSetup, Evaluator, setup_group


def target_variants(strategy: StrategyConfig, model: ModelSpec) -> tuple[StrategyConfig, ...]:
    """The configuration with the other target sets of its method's search space."""
    from advisor.strategies import get_strategy
    from advisor.strategies.base import CategoricalDimension

    method = get_strategy(strategy.method)
    dimension = method.search_space(model).get("target_modules")
    own = strategy.knob("target_modules")
    if not isinstance(dimension, CategoricalDimension) or own not in dimension.choices:
        return ()
    others = (strategy.replaced(target_modules=name) for name in dimension.choices if name != own)
    return tuple(variant for variant in others if not method.problems(variant, model))


def rank_grid(strategy: StrategyConfig, model: ModelSpec) -> tuple[int, ...]:
    """Powers of two and their means inside the method's search space, ascending; empty without a rank."""
    from advisor.strategies import get_strategy
    from advisor.strategies.base import IntDimension

    dimension = get_strategy(strategy.method).search_space(model).get("rank")
    if not isinstance(dimension, IntDimension) or strategy.rank is None:
        return ()
    steps = sorted({2**power for power in range(20)} | {3 * 2**power for power in range(20)})
    return tuple(rank for rank in steps if dimension.low <= rank <= dimension.high)


def largest_rank(strategy: StrategyConfig, best: EvaluatedSetup, evaluator: Evaluator) -> int | None:
    """The largest rank of the grid with which the solved set-up still fits; ``None`` without a rank."""
    if strategy.rank is None:
        return None
    ranks = [rank for rank in rank_grid(strategy, evaluator.request.model) if rank > strategy.rank]
    family, micro_batch = setup_group(best.execution), best.execution.micro_batch_size
    low, high = -1, len(ranks)
    while high - low > 1:
        middle = (low + high) // 2
        point = evaluator.evaluate(strategy.replaced(rank=ranks[middle]), family, micro_batch)
        low, high = (middle, high) if evaluator.fits(point) else (low, middle)
    return ranks[low] if low >= 0 else strategy.rank
