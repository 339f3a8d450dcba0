"""The execution knobs of one strategy: the fastest set-up whose memory and time stay inside the budget."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from advisor.core.errors import InputError
from advisor.core.plan import AttentionImplementation
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.search.planner.candidates import rank_grid
from advisor.search.planner.evaluator import EvaluatedSetup, Evaluator, SetupGroup, kernels_of, setup_group
from advisor.search.planner.precision import (
    PrecisionPolicy,
    cpu_precisions,
    is_frozen_base,
    precision_policies,
)
from advisor.strategies import get_strategy

RECOMPUTATION_FLOOR = 1.15
"""Checkpointing repeats the forward pass of the layers: 1/3 of the work of full fine-tuning (forward : backward = 1 :
2; Chen et al. 2016, arXiv 1604.06174), more with frozen weights. Head and embeddings are not repeated, hence a floor
well below 4/3."""

CLEARLY_FASTER = 0.95
"""A less usual kernel or data type on CPU, or a smaller micro-batch, must promise at least this to be preferred:
predictions are off by more than that, and small products more than others."""


@dataclass(frozen=True)
class Solution:
    """What came out for one strategy.

    Attributes:
        best: Fastest set-up inside the budget; ``None`` when there is none.
        smallest: Least memory that was seen, when nothing fits.
        fastest: Least time among those that fit the memory, when only the time bound is broken.
        failure: Why nothing could be evaluated at all.
        largest_ranks: By target set, the largest rank that fits at the best set-up of that target set.
    """

    strategy: StrategyConfig
    best: EvaluatedSetup | None = None
    smallest: EvaluatedSetup | None = None
    fastest: EvaluatedSetup | None = None
    failure: str | None = None
    largest_ranks: dict[str, int] = field(default_factory=dict)


class Solver:
    """Solves strategy after strategy; keeps what it learnt about data type and attention kernel on a CPU.

    Args:
        evaluator: The question, and what set-ups cost.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._settled: tuple[PrecisionPolicy, AttentionImplementation] | None = None
        self._too_large: set[tuple[bool, bool]] = set()

    def solve(self, strategy: StrategyConfig) -> Solution:
        """The fastest set-up inside the budget, or what came closest."""
        model = self.evaluator.request.model
        rungs = precision_policies(self.evaluator.cost_model.device, model, strategy)
        failure, fitting = None, None
        tried: list[PrecisionPolicy] = []
        for rung in rungs:
            if rung.least_bytes(model, get_strategy(strategy.method)) > self.evaluator.limit_bytes:
                continue
            if rung.loss != "standard" and not self.evaluator.chunked_loss_can_help(strategy, rung):
                continue
            tried.append(rung)
            try:
                fitting = self._best_on(strategy, rung)
            except InputError as error:
                failure = failure or str(error.message)
                continue
            if fitting is not None:
                break
        if fitting is None:
            return self._smallest(strategy, tuple(tried) or rungs, failure)
        faster = self.evaluator.with_faster_evaluation(strategy, fitting)
        found = self.evaluator.price(strategy, self.evaluator.with_kept_features(strategy, faster))
        if not self.evaluator.fits(found):  # its bounds were not wide enough: now the exact cost is known
            return self.solve(strategy)
        return Solution(strategy, best=found) if found.fit.ok else Solution(strategy, fastest=found)

    def solve_variant(self, variant: StrategyConfig, base: EvaluatedSetup) -> Solution:
        """The largest micro-batch of ``variant`` in the set-up that was found for its base; ``variant`` needs more
        memory.
        """
        family = setup_group(base.execution)
        sizes = [size for size in self.evaluator.micro_batches if size <= base.execution.micro_batch_size]
        largest = self._largest_fitting(variant, family, sizes)
        if largest is None:
            return Solution(variant)
        return Solution(variant, best=self.evaluator.evaluate(variant, family, sizes[largest]))

    def grid_size(self, strategies: Sequence[StrategyConfig]) -> int:
        """How many set-ups solving ``strategies`` decides: ranks, data types, optimizers, losses, attention kernels,
        checkpointing and micro-batches.
        """
        model, device = self.evaluator.request.model, self.evaluator.cost_model.device
        total = 0
        for strategy in strategies:
            rungs = precision_policies(device, model, strategy)
            kernels = sum(len(self._kernels(rung)) for rung in rungs)
            ranks = max(1, len(rank_grid(strategy, model)))
            total += ranks * kernels * 2 * len(self.evaluator.micro_batches)
        return total

    def _kernels(self, rung: PrecisionPolicy) -> tuple[AttentionImplementation, ...]:
        return kernels_of(self.evaluator.request, self.evaluator.cost_model.device, rung)

    # --- one rung -------------------------------------------------------------------------------------------------

    def _best_on(self, strategy: StrategyConfig, rung: PrecisionPolicy) -> EvaluatedSetup | None:
        """Fastest fitting set-up with these data types; ``None`` when nothing fits."""
        rung, attention = self._kernel(strategy, rung)
        plain, saved = SetupGroup(rung, attention, False), SetupGroup(rung, attention, True)
        found = self._fastest_fitting(strategy, plain)
        if found is not None and found.execution.micro_batch_size == self.evaluator.micro_batches[0]:
            return found
        if found is not None and not self._checkpointing_can_win(strategy, plain, found):
            return found
        with_checkpointing = None
        # An architecture without checkpointing still has what was found without it.
        with contextlib.suppress(*([InputError] if found is not None else [])):
            with_checkpointing = self._fastest_fitting(strategy, saved)
        candidates = [point for point in (found, with_checkpointing) if point is not None]
        return min(candidates, key=lambda point: (point.objective_s, point.memory_bytes), default=None)

    def _fastest_fitting(self, strategy: StrategyConfig, family: SetupGroup) -> EvaluatedSetup | None:
        """Largest micro-batch that fits by bisection (memory grows with it), then the fastest from there on down; of
        those that are about as fast, the largest.
        """
        sizes = [size for size in self.evaluator.micro_batches if size > 1] or [1]
        largest = self._largest_fitting(strategy, family, sizes)
        if largest is None:
            return self._single_row(strategy, family, sizes)
        whole = self.evaluator.evaluate(strategy, family, sizes[largest])
        if whole.execution.gradient_accumulation_steps == 1 and whole.fit.ok:
            rest = sizes[largest + 1 :]
            if not any(self.evaluator.may_be_faster(strategy, family, size, whole, CLEARLY_FASTER) for size in rest):
                return whole
        points = [self.evaluator.evaluate(strategy, family, size) for size in sizes[largest:]]
        fitting = [point for point in points if self.evaluator.fits(point)]
        fastest = min(fitting, key=lambda point: (point.objective_s, point.memory_bytes))
        about_as_fast = next(point for point in fitting if CLEARLY_FASTER * point.objective_s <= fastest.objective_s)
        return about_as_fast if about_as_fast.fit.ok else fastest

    def _largest_fitting(self, strategy: StrategyConfig, family: SetupGroup, sizes: list[int]) -> int | None:
        """Index of the first size (they fall) that fits.

        The largest one does not accumulate and is a trace of its own. Adapters' gradients are small, so it needs more
        memory than the next one, which accumulates. After an adapter that it was too large for, it is only asked about
        where the next one fits.
        """
        frozen = is_frozen_base(strategy)
        known = (family.checkpointing, frozen)
        doubtful = frozen and len(sizes) > 2 and known in self._too_large
        if not doubtful or self._fits(strategy, family, sizes[1]):
            if self._fits(strategy, family, sizes[0]):
                return 0
            self._too_large.add(known)
        if not self._fits(strategy, family, sizes[-1]):
            return None
        low, high = 0, len(sizes) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(strategy, family, sizes[middle]) else (middle, high)
        return high

    def _fits(self, strategy: StrategyConfig, family: SetupGroup, micro_batch: int) -> bool:
        return self.evaluator.fits(self.evaluator.evaluate(strategy, family, micro_batch))

    def _single_row(self, strategy: StrategyConfig, family: SetupGroup, sizes: list[int]) -> EvaluatedSetup | None:
        """Micro-batch 1 is a trace of its own: only asked for when the line through the two smallest sizes comes near
        the limit.
        """
        if sizes == [1] or 1 not in self.evaluator.micro_batches:
            return None
        smallest = self.evaluator.evaluate(strategy, family, sizes[-1])
        next_size = sizes[-2] if len(sizes) > 1 else None
        if next_size is not None:
            bigger = self.evaluator.evaluate(strategy, family, next_size)
            slope = (bigger.memory_bytes - smallest.memory_bytes) / (next_size - sizes[-1])
            if smallest.memory_bytes - 1.5 * slope * (sizes[-1] - 1) > self.evaluator.limit_bytes:
                return None
        point = self.evaluator.evaluate(strategy, family, 1)
        return point if self.evaluator.fits(point) else None

    def _checkpointing_can_win(self, strategy: StrategyConfig, plain: SetupGroup, found: EvaluatedSetup) -> bool:
        largest = self.evaluator.evaluate(strategy, plain, self.evaluator.micro_batches[0])
        return found.objective_s > RECOMPUTATION_FLOOR * largest.objective_s

    def _smallest(self, strategy: StrategyConfig, rungs: tuple[PrecisionPolicy, ...], failure: str | None) -> Solution:
        """What the method needs at the least: last rung that can be traced, one row at a time, checkpointing."""
        for rung in reversed(rungs):
            try:
                rung, attention = self._kernel(strategy, rung)
                point = self.evaluator.price(strategy, self._smallest_on(strategy, rung, attention))
            except InputError as error:
                failure = failure or str(error.message)
                continue
            if self.evaluator.fits(point):  # the scan from the top passed it over
                return Solution(strategy, best=point) if point.fit.ok else Solution(strategy, fastest=point)
            return Solution(strategy, smallest=point)
        return Solution(strategy, failure=failure or "no set-up of it can be built")

    def _smallest_on(
        self, strategy: StrategyConfig, rung: PrecisionPolicy, attention: AttentionImplementation
    ) -> EvaluatedSetup:
        size = self.evaluator.micro_batches[-1]
        plain = (
            self.evaluator.evaluate(strategy, SetupGroup(rung, attention, False), size)
            if self.evaluator.seen(strategy, SetupGroup(rung, attention, False), size)
            else None
        )
        try:
            saved = self.evaluator.evaluate(strategy, SetupGroup(rung, attention, True), size)
        except InputError:
            if plain is None:
                return self.evaluator.evaluate(strategy, SetupGroup(rung, attention, False), size)
            return plain
        return saved if plain is None else min(plain, saved, key=lambda point: point.memory_bytes)

    # --- choices shared by all strategies -------------------------------------------------------------------------

    def _kernel(
        self, strategy: StrategyConfig, rung: PrecisionPolicy
    ) -> tuple[PrecisionPolicy, AttentionImplementation]:
        """Data type and attention kernel; on CPU they are compared once, on the first strategy, and kept for the
        others.
        """
        device = self.evaluator.cost_model.device
        if not backend_of(device).setups.compared:
            return rung, self._first_traceable(strategy, rung)
        if self._settled is None:
            options = [(option, kernel) for option in cpu_precisions(device) for kernel in self._kernels(option)]
            self._settled = self._compare(strategy, options)
        settled, kernel = self._settled
        return replace(settled, loss=rung.loss), kernel

    def _first_traceable(self, strategy: StrategyConfig, rung: PrecisionPolicy) -> AttentionImplementation:
        kernels = self._kernels(rung)
        for kernel in kernels[:-1]:
            try:
                self.evaluator.evaluate(
                    strategy,
                    SetupGroup(rung, kernel, True),
                    max(self.evaluator.micro_batches[-1], min(2, self.evaluator.micro_batches[0])),
                )
                return kernel
            except InputError:
                continue
        return kernels[-1]

    def _compare(
        self, strategy: StrategyConfig, options: list[tuple[PrecisionPolicy, AttentionImplementation]]
    ) -> tuple[PrecisionPolicy, AttentionImplementation]:
        """The first option unless another one is clearly faster at the same micro-batch and takes no more memory."""
        best, chosen = None, options[0]
        for rung, kernel in options:
            try:
                point = self.evaluator.evaluate(
                    strategy, SetupGroup(rung, kernel, False), self.evaluator.micro_batches[0]
                )
            except InputError:
                continue
            if point.estimate.time is None and best is not None:
                continue
            if best is not None and point.objective_s >= CLEARLY_FASTER * best.objective_s:
                continue
            if best is None or point.memory_bytes <= best.memory_bytes:
                best, chosen = point, (rung, kernel)
        return chosen


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
        low, high = (middle, high) if point.fit.ok else (low, middle)
    return ranks[low] if low >= 0 else strategy.rank
