"""``fit_methods``: climb along batch, length and rank until the memory is full, and find the smallest card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from advisor.core.budget import Budget, ConstraintCheck
from advisor.core.data import PAD_MULTIPLE
from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware.backends import backend_of
from advisor.search.fitting.largest import SizeAxis
from advisor.search.fitting.records import Bound, CardFit, FitAnswer, FitRequest, Largest, MethodFit, SetupFit, Switches
from advisor.search.planner.candidates import Candidates
from advisor.search.planner.precision import (
    PrecisionPolicy,
    attention_kernels,
    cpu_precisions,
    describe,
    is_frozen_base,
    precision_policies,
)
from advisor.strategies import get_strategy
from advisor.tracing.trace_store import strategy_key


def rungs(device: DeviceProfile, model: ModelSpec, strategy: StrategyConfig) -> tuple[PrecisionPolicy, ...]:
    """Data types and optimizers in the order to prefer them: the precision_policies that ``recommend`` climbs down."""
    return cpu_precisions(device) if backend_of(device).setups.compared else precision_policies(device, model, strategy)


def switches(
    device: DeviceProfile, model: ModelSpec, rung: PrecisionPolicy, *, checkpointing: bool
) -> Iterator[Switches]:
    """The rung with each attention kernel that is open to it, preferred first; the first that can be traced counts."""
    for kernel in attention_kernels(device, model, rung):
        yield Switches(checkpointing, rung.dtype, rung.amp, rung.optim, kernel)


def on_card(setup: Switches, device: DeviceProfile, strategy: StrategyConfig) -> Switches | None:
    """The same set-up with what ``device`` has: float16 for bfloat16 where only adapters or float32 weights train.

    ``None`` when the device has no data type for it: the gradient scaler refuses trainable float16 weights
    (torch.amp.GradScaler).
    """
    if (setup.dtype != "bfloat16" and setup.amp != "bf16") or "bfloat16" in device.dtypes:
        return setup
    if "float16" not in device.dtypes or (setup.dtype == "bfloat16" and not is_frozen_base(strategy)):
        return None
    return dataclasses.replace(
        setup,
        dtype="float16" if setup.dtype == "bfloat16" else setup.dtype,
        amp="fp16",
    )


class FitPoint(NamedTuple):
    """One configuration."""

    strategy: StrategyConfig
    setup: Switches
    rows: int
    length: int

    def with_rank(self, rank: int) -> FitPoint:
        return self._replace(strategy=self.strategy.replaced(rank=rank))

    def execution(self, question: FitRequest) -> ExecutionPlan:
        return self.setup.execution(self.rows, self.length, padded=question.padded)


class Points:
    """Evaluates points of one question, none twice; methods that build the same model share theirs.

    All batches are as long as asked, as in ``predict`` without data.

    Args:
        model: What is to be trained.
        cost_model: Of the device that the question is about.
        question: Limit, safety level, padding.
    """

    def __init__(self, model: ModelSpec, cost_model: CostModel, question: FitRequest) -> None:
        self.model, self.device, self.question = model, cost_model.device, question
        self._cost_model = cost_model
        self._exact_bytes: dict[tuple[object, ...], int] = {}
        self._live_bytes: dict[tuple[object, ...], int] = {}

    @property
    def considered(self) -> int:
        """How many points were evaluated."""
        return len(self._exact_bytes.keys() | self._live_bytes.keys())

    def memory_bytes(self, point: FitPoint) -> int:
        """Upper quantile of the peak at the safety level.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        key = _key(point)
        if key not in self._exact_bytes:
            execution, budget = point.execution(self.question), self.question.budget
            memory = self._cost_model.memory(self.model, point.strategy, execution, budget, same_length=True)
            self._exact_bytes[key] = memory.quantile_bytes(self.question.safety_level)
        return self._exact_bytes[key]

    def beyond_memory(self, point: FitPoint) -> tuple[ConstraintCheck, ...]:
        """The limits besides memory that the point exceeds.

        Raises:
            UntraceableError: the configuration cannot be traced.
        """
        if not self.question.bounds_the_model:
            return ()
        budget = self.question.budget
        cost = self._cost_model.model_figures(self.model, point.strategy, point.execution(self.question), budget)
        checks = budget.check(cost, self.device).checks
        return tuple(check for check in checks if check.constraint.figure.capacity is None and not check.ok)

    def live_bytes(self, point: FitPoint) -> int:
        """What tensors take at the peak: grows with batch, length and rank."""
        key = _key(point)
        if key not in self._live_bytes:
            execution = point.execution(self.question)
            bounds = self._cost_model.bound_memory(self.model, point.strategy, execution, same_length=True)
            self._live_bytes[key] = bounds.typical.allocated_bytes
        return self._live_bytes[key]


def _key(point: FitPoint) -> tuple[object, ...]:
    """What memory depends on: neither learning rate nor epochs, and not which of two like methods asks."""
    return json.dumps(strategy_key(point.strategy), sort_keys=True), point.strategy.rank, *point[1:]


HOPELESS_SHARE = 0.85
"""A card smaller than this share of what the same point needs on another card is passed over without a trace:
context, workspaces and allocator differ by less than that, and data types of the same width are used."""


class Cards:
    """Looks for the smallest card.

    Args:
        cost_model: Whose traces serve for every card with the same operators.
        profiles: Known devices; only cards are looked at.
    """

    def __init__(self, cost_model: CostModel, profiles: Sequence[DeviceProfile]) -> None:
        cards = [profile for profile in profiles if not backend_of(profile).is_host]
        self._cards = sorted(cards, key=lambda profile: (profile.memory_bytes, profile.id))
        self._cost_model = cost_model
        self._models: dict[str, CostModel] = {}

    def smallest(
        self, model: ModelSpec, strategy: StrategyConfig, setup: Switches, question: FitRequest, need_bytes: int | None
    ) -> CardFit | None:
        """The smallest card by capacity whose upper quantile at the asked point stays inside it.

        Args:
            model: What is to be trained.
            strategy: How.
            setup: Switches; a card without bfloat16 gets float16 where that can train.
            question: The point; its limit plays no part.
            need_bytes: What it needs on another card; ``None`` when that is not known.
        """
        need = need_bytes or 0
        for card in self._cards:
            there = on_card(setup, card, strategy)
            if there is None or card.memory_bytes < HOPELESS_SHARE * need:
                continue
            execution = there.execution(question.micro_batch_size, question.seq_length, padded=question.padded)
            try:
                memory = self._model(card).memory(model, strategy, execution, same_length=True)
            except AdvisorError:
                continue  # its kernels cannot be traced; a larger card may use others
            need = memory.quantile_bytes(question.safety_level)
            if Budget(safety_level=question.safety_level).check_figures({"memory_bytes": need}, card).ok:
                return CardFit(card.id, card.memory_bytes, need, there.dtype, there.amp)
        return None

    def _model(self, card: DeviceProfile) -> CostModel:
        if card.id not in self._models:
            self._models[card.id] = self._cost_model.on(card)
        return self._models[card.id]


Progress = Callable[[Mapping[str, object]], None]
"""Takes ``{"kind": "fitting", "method": name, "done": i, "total": n}``."""

MOST_ROWS = 1 << 14
"""Largest micro-batch that is looked at."""
MOST_TOKENS = 1 << 20
"""Longest sequence that is looked at where the model's positions are unbounded."""


def fit_methods(
    model: ModelSpec,
    cost_model: CostModel,
    question: FitRequest,
    found: Candidates,
    *,
    cards: Sequence[DeviceProfile] | None = None,
    all_setups: bool = False,
    on_progress: Progress | None = None,
) -> FitAnswer:
    """Per method and set-up: the largest micro-batch, length and rank inside the limit, and the smallest card.

    Set-ups are the data types and optimizers that ``recommend`` would try, preferred first, each with and without
    checkpointing, down to the first that holds the asked point. A set-up whose weights, gradients and optimizer states
    alone exceed the limit is not traced, except the leanest one of the method, so that what the method needs is known.

    Args:
        model: What is to be trained; its weights are not needed.
        cost_model: Of the device that the limit is for.
        question: Limit, and the point at which each axis is searched.
        found: Which strategies to look at, and why the others are not.
        cards: Devices among which to find the smallest that fits; none is looked for when empty or ``None``.
        all_setups: Go on to the leaner set-ups behind the first that fits.
        on_progress: Called before every method.

    Raises:
        InputError: an unknown method, or knobs that do not fit the model.
    """
    points = Points(model, cost_model, question)
    search = _Search(points, Cards(cost_model, cards) if cards else None, all_setups)
    answers = []
    for index, strategy in enumerate(found.usable):
        if on_progress is not None:
            on_progress({"kind": "fitting", "method": strategy.method, "done": index, "total": len(found.usable)})
        answers.append(search.method(strategy))
    answers += [MethodFit(item.method, None, reason=item.reason) for item in found.rejected]
    return FitAnswer(cost_model.device.id, question, tuple(answers), points.considered, bool(cards))


class _Search:
    """One question over methods and set-ups."""

    def __init__(self, points: Points, cards: Cards | None, all_setups: bool) -> None:
        self.points, self.cards, self.all_setups = points, cards, all_setups
        self.model, self.device, self.question = points.model, points.device, points.question

    def method(self, strategy: StrategyConfig) -> MethodFit:
        """All set-ups of one method."""
        ladder = rungs(self.device, self.model, strategy)
        setups: list[SetupFit] = []
        problems: list[str] = []
        for rung in ladder:
            floor_bytes = rung.least_bytes(self.model, get_strategy(strategy.method))
            for checkpointing in (False, True):
                hopeless = floor_bytes > self.question.limit_bytes
                if hopeless and not (rung is ladder[-1] and checkpointing):
                    setups.append(self._untraced(rung, checkpointing, floor_bytes))
                    continue
                answer = self._first_traceable(strategy, rung, checkpointing)
                if isinstance(answer, SetupFit):
                    setups.append(answer)
                else:
                    problems.append(answer)
            if not self.all_setups and any(setup.fits for setup in setups):
                break
        told = tuple(dict.fromkeys(problems))
        reason = None if any(setup.traced for setup in setups) else "; ".join(told) or None
        return MethodFit(strategy.method, strategy, tuple(setups), told, reason)

    def _untraced(self, rung: PrecisionPolicy, checkpointing: bool, floor_bytes: int) -> SetupFit:
        first = next(switches(self.device, self.model, rung, checkpointing=checkpointing))
        return SetupFit(first, floor_bytes, traced=False, fits=False)

    def _first_traceable(self, strategy: StrategyConfig, rung: PrecisionPolicy, checkpointing: bool) -> SetupFit | str:
        """The rung with the first attention kernel that can be traced, or why there is none."""
        problem = ""
        for setup in switches(self.device, self.model, rung, checkpointing=checkpointing):
            try:
                return self._setup(strategy, setup)
            except InputError as failure:
                where = describe(setup.execution(1, 1, padded=True)).removeprefix("micro-batch 1").lstrip(" ,")
                problem = f"{where}: {failure.message}" if where else failure.message
        return problem

    def _setup(self, strategy: StrategyConfig, setup: Switches) -> SetupFit:
        asked = FitPoint(strategy, setup, self.question.micro_batch_size, self.question.seq_length)
        need_bytes = self.points.memory_bytes(asked)
        ranked = strategy.rank is not None
        positions = self.model.max_positions
        end: Bound = "search limit" if positions is None else "positions"
        tokens = positions or MOST_TOKENS
        beyond = self.points.beyond_memory(asked)
        return SetupFit(
            switches=setup,
            memory_bytes=need_bytes,
            traced=True,
            fits=not beyond and self.question.budget.check_figures({"memory_bytes": need_bytes}, self.device).ok,
            micro_batch=self._largest(asked, lambda rows: asked._replace(rows=rows), MOST_ROWS, "search limit"),
            seq_length=self._largest(
                asked, lambda length: asked._replace(length=length), tokens, end, step=PAD_MULTIPLE
            ),
            rank=self._largest(asked, asked.with_rank, widest_rank(self.model, strategy), "layer width")
            if ranked
            else None,
            card=self._card(asked, need_bytes),
            beyond=tuple(map(_beyond, beyond)),
        )

    def _largest(
        self, asked: FitPoint, point_of: Callable[[int], FitPoint], high: int, end: Bound, *, step: int = 1
    ) -> Largest | None:
        """The last multiple of ``step`` up to ``high`` that fits, with the memory there."""
        context_bytes = self.device.context_bytes
        factor = (self.points.memory_bytes(asked) - context_bytes) / max(1, self.points.live_bytes(asked))
        axis = SizeAxis(
            memory_of=lambda number: self.points.memory_bytes(point_of(number)),
            guide_of=lambda number: self.points.live_bytes(point_of(number)),
            limit_bytes=self.question.limit_bytes,
            low=step,
            high=high // step * step,
            step=step,
            constant_bytes=context_bytes,
            factor=max(factor, 0.1),
        )
        value = axis.largest_fitting()
        if value is None:
            return None
        bound: Bound = end if value + step > axis.high else "memory"
        if broken := self.points.beyond_memory(point_of(value)):
            fits, fails = 0, value // step
            while fails - fits > 1:
                middle = (fits + fails) // 2
                exceeded = self.points.beyond_memory(point_of(middle * step))
                fits, fails, broken = (fits, middle, exceeded) if exceeded else (middle, fails, broken)
            if fits == 0:
                return None
            value, bound = fits * step, cast(Bound, broken[0].constraint.figure.title)
        return Largest(value, step, self.points.memory_bytes(point_of(value)), bound)

    def _card(self, asked: FitPoint, need_bytes: int) -> CardFit | None:
        if self.cards is None:
            return None
        known = None if backend_of(self.device).is_host else need_bytes
        return self.cards.smallest(self.model, asked.strategy, asked.setup, self.question, known)


def _beyond(check: ConstraintCheck) -> str:
    figure = check.constraint.figure
    needed, limit = figure.show(check.needed or 0.0), figure.show(check.constraint.limit)
    return f"{figure.verb} up to {needed}; the {figure.title} budget is {limit} ({figure.option})"


def widest_rank(model: ModelSpec, strategy: StrategyConfig) -> int:
    """The largest rank that the method's own check accepts on this model: the narrowest adapted layer."""
    method = get_strategy(strategy.method)
    low, high = 1, max(1, model.hidden_size)
    while low < high:
        middle = (low + high + 1) // 2
        if method.problems(strategy.replaced(rank=middle), model):
            high = middle - 1
        else:
            low = middle
    return low
