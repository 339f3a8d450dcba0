"""Set-ups and what they cost: each evaluated once; those near the memory limit, and those that are listed, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

from advisor.core.budget import Fit
from advisor.core.cost import CostEstimate
from advisor.core.device import DeviceProfile
from advisor.core.memo import recall_structure
from advisor.core.plan import AttentionImplementation, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.search.planner.precision import BYTES_PER_LOGIT, PrecisionPolicy, attention_kernels
from advisor.search.planner.request import PlanRequest
from advisor.strategies import get_strategy
from advisor.tracing.trace_store import strategy_key

MAX_EVAL_BATCH = 64
"""Evaluation keeps no activations, so it takes a larger batch than training; beyond this nothing is gained on small
models."""

EVAL_BATCHES = (8, 16, 32, MAX_EVAL_BATCH)
"""What evaluation is tried with where training has to take less."""


@dataclass(frozen=True)
class EvaluatedSetup:
    """One evaluated set-up: what it costs, and whether that stays within the budget.

    Attributes:
        exact: Whether the estimate is exact, or typical of what bounds leave.
    """

    execution: ExecutionPlan
    estimate: CostEstimate
    fit: Fit
    exact: bool

    @property
    def memory_bytes(self) -> int:
        """Upper quantile of the device's peak memory at the budget's safety level."""
        return int(self.fit.needed("memory_bytes") or 0)

    @property
    def objective_s(self) -> float:
        """What is minimised: time of the run, or of a step; without times, larger micro-batches are taken to be
        faster.
        """
        time = self.estimate.time
        return time.total_s if time is not None else 1.0 / self.execution.micro_batch_size


@dataclass(frozen=True)
class SetupGroup:
    """Set-ups that one trace covers: all micro-batches of a data type, kernel, optimizer and checkpointing choice."""

    rung: PrecisionPolicy
    attention: AttentionImplementation
    checkpointing: bool


def setup_group(execution: ExecutionPlan) -> SetupGroup:
    """The set-ups that differ from ``execution`` in the micro-batch alone."""
    rung = PrecisionPolicy(execution.dtype, execution.amp, execution.optim, loss=execution.loss)
    return SetupGroup(rung, execution.attn_implementation, execution.gradient_checkpointing)


class Evaluator:
    """Evaluates the set-ups of one request on one device."""

    def __init__(self, request: PlanRequest, cost_model: CostModel) -> None:
        self.request, self.cost_model = request, cost_model
        self.micro_batches = micro_batches(request)
        self._points: dict[tuple[str, ExecutionPlan], EvaluatedSetup] = {}

    @property
    def evaluated(self) -> int:
        """How many set-ups were evaluated."""
        return len(self._points)

    @property
    def replays(self) -> int:
        """How many of them were evaluated exactly: each took a replay of the allocator."""
        return sum(point.exact for point in self._points.values())

    def chunked_loss_can_help(self, strategy: StrategyConfig, rung: PrecisionPolicy) -> bool:
        """Whether the smallest set-up that was seen on a rung would fit without any of its logits."""
        name = repr(strategy)
        seen = [
            point
            for (asked, execution), point in self._points.items()
            if asked == name and (execution.dtype, execution.amp, execution.optim) == (rung.dtype, rung.amp, rung.optim)
        ]
        smallest = min(seen, key=lambda point: point.memory_bytes, default=None)
        if smallest is None:
            return True
        tokens = smallest.execution.micro_batch_size * smallest.execution.max_seq_length
        return smallest.memory_bytes - BYTES_PER_LOGIT * tokens * self.request.model.vocab_size <= self.limit_bytes

    @property
    def limit_bytes(self) -> int:
        """What the plan may use: the budget, and never more than the device has."""
        return self.request.budget.memory_limit_bytes(self.cost_model.device)

    def evaluate(self, strategy: StrategyConfig, family: SetupGroup, micro_batch: int) -> EvaluatedSetup:
        """Cost of one set-up; evaluation's batch is made small enough not to be the peak.

        Raises:
            InputError: it cannot be traced or built.
        """
        point = self._point(strategy, self._execution(strategy, family, micro_batch, self._eval_batch(micro_batch)))
        if (
            point.estimate.memory.peak_phase == "evaluation"
            and point.memory_bytes > self.limit_bytes
            and micro_batch > 1
        ):
            smaller = self._point(strategy, self._execution(strategy, family, micro_batch, micro_batch))
            point = min(point, smaller, key=lambda item: item.memory_bytes)
        return point

    def with_faster_evaluation(self, strategy: StrategyConfig, point: EvaluatedSetup) -> EvaluatedSetup:
        """The same training with the evaluation batch that the run is predicted to end soonest with, among those that
        need no more memory than training does.

        A set-up with small micro-batches would otherwise be evaluated in small ones as well, although evaluation keeps
        no activations.
        """
        if self.request.model.traits.keeps_token_logits or point.estimate.time is None:
            return point
        best = point
        for rows in EVAL_BATCHES:
            if rows <= point.execution.evaluation_batch_size or rows > max(self.request.data.eval_rows, 1):
                continue
            other = self._point(strategy, replace(point.execution, eval_batch_size=rows))
            if self.fits(other) and other.memory_bytes <= point.memory_bytes and other.objective_s < best.objective_s:
                best = other
        return best

    def with_kept_features(self, strategy: StrategyConfig, point: EvaluatedSetup) -> EvaluatedSetup:
        """The same training with its frozen first layers computed once, where that is predicted to end sooner, fits,
        and changes nothing, because the model has no dropout.
        """
        if not may_keep_features(self.request, strategy):
            return point
        other = self._point(strategy, replace(point.execution, keep_features=True))
        return other if self.fits(other) and other.objective_s < point.objective_s else point

    def price(self, strategy: StrategyConfig, point: EvaluatedSetup) -> EvaluatedSetup:
        """The same set-up with its exact cost."""
        if not point.exact:
            self._points[repr(strategy), point.execution] = self._priced(strategy, point.execution)
        return self._points[repr(strategy), point.execution]

    def seen(self, strategy: StrategyConfig, family: SetupGroup, micro_batch: int) -> bool:
        """Whether this set-up was evaluated already."""
        return (
            repr(strategy),
            self._execution(strategy, family, micro_batch, self._eval_batch(micro_batch)),
        ) in self._points

    def fits(self, point: EvaluatedSetup) -> bool:
        """Whether the memory stays inside the limit at the budget's safety level."""
        return point.fit["memory_bytes"].ok

    def may_be_faster(
        self, strategy: StrategyConfig, family: SetupGroup, micro_batch: int, than: EvaluatedSetup, factor: float
    ) -> bool:
        """Whether a smaller micro-batch may take less than ``factor`` of the time of a set-up that does not accumulate:
        decided without the trace of its own that accumulation takes.
        """
        if than.estimate.time is None:
            return True
        execution = self._execution(strategy, family, micro_batch, self._eval_batch(micro_batch))
        model, data = self.request.model, self.request.data
        least_s = self.cost_model.least_total_s(model, strategy, execution, data, traced_as=than.execution)
        return least_s < factor * than.objective_s

    def _eval_batch(self, micro_batch: int) -> int:
        """Where logits of every token are held, evaluation gets no larger batch than training."""
        if self.request.model.traits.keeps_token_logits:
            return micro_batch
        return max(micro_batch, min(2 * micro_batch, MAX_EVAL_BATCH))

    def _execution(
        self, strategy: StrategyConfig, family: SetupGroup, micro_batch: int, eval_batch: int
    ) -> ExecutionPlan:
        return execution_of(self.request, self.cost_model.device, strategy, family, micro_batch, eval_batch)

    def _point(self, strategy: StrategyConfig, execution: ExecutionPlan) -> EvaluatedSetup:
        """The cost of a set-up, exact where its bounds leave open whether it fits."""
        key = (repr(strategy), execution)
        if key not in self._points:
            request = self.request
            bounds = self.cost_model.bounds(request.model, strategy, execution, request.data, request.budget)
            if bounds.memory.leave_open(self.limit_bytes):
                self._points[key] = self._priced(strategy, execution)
            else:
                fit = request.budget.check(bounds.typical, self.cost_model.device)
                self._points[key] = EvaluatedSetup(execution, bounds.typical, fit, exact=False)
        return self._points[key]

    def _priced(self, strategy: StrategyConfig, execution: ExecutionPlan) -> EvaluatedSetup:
        request = self.request
        cost = self.cost_model.estimate(
            request.model, strategy, execution, request.data, request.budget, with_quality=False
        )
        return EvaluatedSetup(execution, cost, self.request.budget.check(cost, self.cost_model.device), exact=True)


def execution_of(
    request: PlanRequest,
    device: DeviceProfile,
    strategy: StrategyConfig,
    family: SetupGroup,
    micro_batch: int,
    eval_batch: int,
) -> ExecutionPlan:
    """The execution plan of one set-up."""
    data, rung = request.data, family.rung
    execution = ExecutionPlan(
        micro_batch_size=micro_batch,
        gradient_accumulation_steps=request.effective_batch_size // micro_batch,
        max_seq_length=data.max_seq_length,
        padded=data.padded,
        separate_documents=data.separate_documents,
        gradient_checkpointing=family.checkpointing,
        attn_implementation=family.attention,
        dtype=rung.dtype,
        amp=rung.amp,
        optim=rung.optim,
        loss=rung.loss,
        eval_batch_size=eval_batch,
    )
    quantized = get_strategy(strategy.method).stores_4bit_weights
    kept = bool(request.speed.keep_features) and can_keep_features(request, strategy)
    return replace(request.speed.settled(execution, device, data, quantized=quantized), keep_features=kept)


def kernels_of(
    request: PlanRequest, device: DeviceProfile, rung: PrecisionPolicy
) -> tuple[AttentionImplementation, ...]:
    """Attention kernels to try for the request's batches."""
    return attention_kernels(device, request.model, rung, separate_documents=request.data.separate_documents)


def can_keep_features(request: PlanRequest, strategy: StrategyConfig) -> bool:
    """Whether the method has frozen first layers on this model, and rows stay as they are."""
    model = request.model

    def possible() -> bool:
        from advisor.strategies.skeleton import build_skeleton
        from advisor.training.kept_prefix import kept_features_problem

        return kept_features_problem(model, build_skeleton(model), strategy) is None

    return bool(recall_structure("kept features", model, strategy_key(strategy), possible))


def may_keep_features(request: PlanRequest, strategy: StrategyConfig) -> bool:
    """Whether planning compares a set-up with one that keeps features: where it changes nothing but time."""
    if request.speed.keep_features is not None or strategy.num_train_epochs <= 1 or request.model.has_dropout:
        return False
    return can_keep_features(request, strategy)


def micro_batches(request: PlanRequest) -> tuple[int, ...]:
    """Divisors of the effective batch size, largest first; none larger than the data set."""
    most = max(request.data.train_rows, 1)
    sizes = range(request.effective_batch_size, 0, -1)
    return tuple(size for size in sizes if request.effective_batch_size % size == 0 and size <= most)
