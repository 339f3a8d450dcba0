"""The execution knobs of one strategy: the fastest set-up whose memory and time stay inside the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import AttentionImplementation, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.search.planner.families import Rung, attention_kernels, cpu_precisions, is_padded, ladder
from advisor.search.planner.protocol import Predictor

RECOMPUTATION_FLOOR = 1.15
"""Checkpointing repeats the forward pass of the layers: 1/3 of the work of full fine-tuning (forward : backward = 1 :
2; Chen et al. 2016, arXiv 1604.06174), more with frozen weights. Head and embeddings are not repeated, hence a floor
well below 4/3."""

CLEARLY_FASTER = 0.95
"""A less usual kernel or data type on CPU must promise at least this to be preferred: predictions differ by more than
that."""

MAX_EVAL_BATCH = 64
"""Evaluation keeps no activations, so it takes a larger batch than training; beyond this nothing is gained on small
models."""


@dataclass(frozen=True)
class Point:
    """One evaluated set-up.

    Attributes:
        memory_bytes: Upper quantile of the device's peak memory at the budget's safety level.
        time_s: Upper bound of the whole run; ``None`` when the device's speed is unknown.
    """

    execution: ExecutionPlan
    estimate: CostEstimate
    memory_bytes: int
    time_s: float | None

    @property
    def pace(self) -> float:
        """What is minimised: time of the run, or of a step; without times, larger micro-batches are taken to be
        faster.
        """
        time = self.estimate.time
        return time.total_s if time is not None else 1.0 / self.execution.micro_batch_size


@dataclass(frozen=True)
class Solution:
    """What came out for one strategy.

    Attributes:
        best: Fastest set-up inside the budget; ``None`` when there is none.
        smallest: Least memory that was seen, when nothing fits.
        fastest: Least time among those that fit the memory, when only the time bound is broken.
        failure: Why nothing could be evaluated at all.
    """

    strategy: StrategyConfig
    best: Point | None = None
    smallest: Point | None = None
    fastest: Point | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Family:
    """Set-ups that one trace covers: all micro-batches of a data type, kernel, optimizer and checkpointing choice."""

    rung: Rung
    attention: AttentionImplementation
    checkpointing: bool


class Solver:
    """Solves the execution knobs for one model, data set, device and budget; keeps what it learnt from strategy to
    strategy.

    Args:
        model, data, cost_model, budget: The question.
        effective_batch_size: Rows per optimizer step; micro-batches are its divisors.
    """

    def __init__(
        self, model: ModelSpec, data: DataProfile, cost_model: Predictor, budget: Budget, *, effective_batch_size: int
    ) -> None:
        self.model, self.data, self.cost_model, self.budget = model, data, cost_model, budget
        self.effective_batch_size = effective_batch_size
        self.micro_batches = _micro_batches(effective_batch_size, data.train_rows)
        self.considered = 0
        self._points: dict[tuple[str, ExecutionPlan], Point] = {}
        self._settled: tuple[Rung, AttentionImplementation] | None = None

    @property
    def limit_bytes(self) -> int:
        """What the plan may use: the budget, and never more than the device has."""
        capacity = self.cost_model.device.memory_bytes
        return min(self.budget.memory_bytes, capacity) if self.budget.memory_bytes is not None else capacity

    def solve(self, strategy: StrategyConfig, *, quantized: bool = False) -> Solution:
        """The fastest set-up inside the budget, or what came closest."""
        rungs = self._rungs(strategy)
        failure, fitting = None, None
        for rung in rungs:
            needs = rung.least_bytes(self.model, trains_everything=strategy.method == "full", quantized=quantized)
            if needs > self.limit_bytes:
                continue
            try:
                fitting = self._best_on(strategy, rung)
            except InputError as error:
                failure = failure or str(error.message)
                continue
            if fitting is not None:
                break
        if fitting is not None and self._in_time(fitting):
            return Solution(strategy, best=fitting)
        if fitting is not None:
            return Solution(strategy, fastest=fitting)
        return self._smallest(strategy, rungs, failure)

    def evaluate(self, strategy: StrategyConfig, family: Family, micro_batch: int) -> Point:
        """Cost of one set-up; evaluation's batch is made small enough not to be the peak.

        Raises:
            InputError: it cannot be traced or built.
        """
        point = self._point(strategy, self._execution(family, micro_batch, self._eval_batch(micro_batch)))
        if (
            point.estimate.memory.peak_phase == "evaluation"
            and point.memory_bytes > self.limit_bytes
            and micro_batch > 1
        ):
            smaller = self._point(strategy, self._execution(family, micro_batch, micro_batch))
            point = min(point, smaller, key=lambda item: item.memory_bytes)
        return point

    # --- one rung -------------------------------------------------------------------------------------------------

    def _best_on(self, strategy: StrategyConfig, rung: Rung) -> Point | None:
        """Fastest fitting set-up with these data types; ``None`` when nothing fits."""
        rung, attention = self._kernel(strategy, rung)
        plain, saved = Family(rung, attention, False), Family(rung, attention, True)
        found = self._fastest_fitting(strategy, plain)
        if found is not None and found.execution.micro_batch_size == self.micro_batches[0]:
            return found
        if found is not None and not self._checkpointing_can_win(strategy, plain, found):
            return found
        with_checkpointing = self._fastest_fitting(strategy, saved)
        candidates = [point for point in (found, with_checkpointing) if point is not None]
        return min(candidates, key=lambda point: (point.pace, point.memory_bytes), default=None)

    def _fastest_fitting(self, strategy: StrategyConfig, family: Family) -> Point | None:
        """Largest micro-batch that fits by bisection (memory grows with it), then the fastest from there on down."""
        sizes = [size for size in self.micro_batches if size > 1] or [1]
        largest = self._largest_fitting(strategy, family, sizes)
        if largest is None:
            return self._single_row(strategy, family, sizes)
        points = [self.evaluate(strategy, family, size) for size in sizes[largest:]]
        return min((point for point in points if self._fits(point)), key=lambda point: (point.pace, point.memory_bytes))

    def _largest_fitting(self, strategy: StrategyConfig, family: Family, sizes: list[int]) -> int | None:
        """Index of the first size (they fall) that fits."""
        if self._fits(self.evaluate(strategy, family, sizes[0])):
            return 0
        if not self._fits(self.evaluate(strategy, family, sizes[-1])):
            return None
        low, high = 0, len(sizes) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(self.evaluate(strategy, family, sizes[middle])) else (middle, high)
        return high

    def _single_row(self, strategy: StrategyConfig, family: Family, sizes: list[int]) -> Point | None:
        """Micro-batch 1 is a trace of its own: only asked for when the line through the two smallest sizes comes near
        the limit.
        """
        if sizes == [1] or 1 not in self.micro_batches:
            return None
        smallest = self.evaluate(strategy, family, sizes[-1])
        next_size = sizes[-2] if len(sizes) > 1 else None
        if next_size is not None:
            bigger = self.evaluate(strategy, family, next_size)
            slope = (bigger.memory_bytes - smallest.memory_bytes) / (next_size - sizes[-1])
            if smallest.memory_bytes - 1.5 * slope * (sizes[-1] - 1) > self.limit_bytes:
                return None
        point = self.evaluate(strategy, family, 1)
        return point if self._fits(point) else None

    def _checkpointing_can_win(self, strategy: StrategyConfig, plain: Family, found: Point) -> bool:
        largest = self.evaluate(strategy, plain, self.micro_batches[0])
        return found.pace > RECOMPUTATION_FLOOR * largest.pace

    def _smallest(self, strategy: StrategyConfig, rungs: tuple[Rung, ...], failure: str | None) -> Solution:
        """What the method needs at the least: last rung that can be traced, one row at a time, checkpointing."""
        for rung in reversed(rungs):
            try:
                rung, attention = self._kernel(strategy, rung)
                point = self._smallest_on(strategy, rung, attention)
            except InputError as error:
                failure = failure or str(error.message)
                continue
            if self._fits(point):  # the scan from the top passed it over
                return Solution(strategy, best=point) if self._in_time(point) else Solution(strategy, fastest=point)
            return Solution(strategy, smallest=point)
        return Solution(strategy, failure=failure or "no set-up of it can be built")

    def _smallest_on(self, strategy: StrategyConfig, rung: Rung, attention: AttentionImplementation) -> Point:
        size = self.micro_batches[-1]
        plain = (
            self.evaluate(strategy, Family(rung, attention, False), size)
            if self._seen(strategy, rung, attention, size)
            else None
        )
        try:
            saved = self.evaluate(strategy, Family(rung, attention, True), size)
        except InputError:
            if plain is None:
                return self.evaluate(strategy, Family(rung, attention, False), size)
            return plain
        return saved if plain is None else min(plain, saved, key=lambda point: point.memory_bytes)

    def _seen(self, strategy: StrategyConfig, rung: Rung, attention: AttentionImplementation, size: int) -> bool:
        family = Family(rung, attention, False)
        return (repr(strategy), self._execution(family, size, self._eval_batch(size))) in self._points

    # --- choices shared by all strategies -------------------------------------------------------------------------

    def _rungs(self, strategy: StrategyConfig) -> tuple[Rung, ...]:
        return ladder(self.cost_model.device, self.model, strategy)

    def _kernel(self, strategy: StrategyConfig, rung: Rung) -> tuple[Rung, AttentionImplementation]:
        """Data type and attention kernel; on CPU they are compared once, on the first strategy, and kept for the
        others.
        """
        device = self.cost_model.device
        if device.type != "cpu":
            return rung, self._first_traceable(strategy, rung)
        if self._settled is None:
            options = [
                (option, kernel)
                for option in cpu_precisions(device)
                for kernel in attention_kernels(device, self.model, option)
            ]
            self._settled = self._compare(strategy, options)
        return self._settled

    def _first_traceable(self, strategy: StrategyConfig, rung: Rung) -> AttentionImplementation:
        kernels = attention_kernels(self.cost_model.device, self.model, rung)
        for kernel in kernels[:-1]:
            try:
                self.evaluate(
                    strategy, Family(rung, kernel, True), max(self.micro_batches[-1], min(2, self.micro_batches[0]))
                )
                return kernel
            except InputError:
                continue
        return kernels[-1]

    def _compare(
        self, strategy: StrategyConfig, options: list[tuple[Rung, AttentionImplementation]]
    ) -> tuple[Rung, AttentionImplementation]:
        """The first option unless another one is clearly faster at the same micro-batch and takes no more memory."""
        best, chosen = None, options[0]
        for rung, kernel in options:
            try:
                point = self.evaluate(strategy, Family(rung, kernel, False), self.micro_batches[0])
            except InputError:
                continue
            if point.estimate.time is None and best is not None:
                continue
            if best is None or (point.pace < CLEARLY_FASTER * best.pace and point.memory_bytes <= best.memory_bytes):
                best, chosen = point, (rung, kernel)
        return chosen

    # --- points ---------------------------------------------------------------------------------------------------

    def _fits(self, point: Point) -> bool:
        return point.memory_bytes <= self.limit_bytes

    def _in_time(self, point: Point) -> bool:
        return self.budget.time_s is None or point.time_s is None or point.time_s <= self.budget.time_s

    def _eval_batch(self, micro_batch: int) -> int:
        """Language models hold logits of every token, so their evaluation gets no larger batch than training."""
        if self.model.task != "sequence-classification":
            return micro_batch
        return max(micro_batch, min(2 * micro_batch, MAX_EVAL_BATCH))

    def _execution(self, family: Family, micro_batch: int, eval_batch: int) -> ExecutionPlan:
        return ExecutionPlan(
            micro_batch_size=micro_batch,
            gradient_accumulation_steps=self.effective_batch_size // micro_batch,
            max_seq_length=self.data.max_seq_length,
            padded=is_padded(self.data.token_length_quantiles),
            gradient_checkpointing=family.checkpointing,
            attn_implementation=family.attention,
            dtype=family.rung.dtype,
            amp=family.rung.amp,
            optim=family.rung.optim,
            eval_batch_size=eval_batch,
        )

    def _point(self, strategy: StrategyConfig, execution: ExecutionPlan) -> Point:
        key = (repr(strategy), execution)
        if key not in self._points:
            estimate = self.cost_model.estimate(self.model, strategy, execution, self.data, with_quality=False)
            memory = self.cost_model.memory_quantile_bytes(estimate, self.budget.safety_level)
            time = estimate.time
            bound = (
                None
                if time is None
                else time.intervals["total_s"].high
                if "total_s" in time.intervals
                else time.total_s
            )
            self._points[key] = Point(execution, replace(estimate, fits=memory <= self.limit_bytes), memory, bound)
            self.considered += 1
        return self._points[key]


def _micro_batches(effective_batch_size: int, train_rows: int) -> tuple[int, ...]:
    """Divisors of the effective batch size, largest first; none larger than the data set."""
    return tuple(_divisors(effective_batch_size, max(train_rows, 1)))


def _divisors(number: int, limit: int) -> Iterator[int]:
    for size in range(number, 0, -1):
        if number % size == 0 and size <= limit:
            yield size
