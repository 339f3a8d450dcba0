"""What the cost model says about a case before it is run, and the batch that a case near the capacity gets."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.calibration.record import Calibration
from advisor.costmodel.families import trace_version
from advisor.costmodel.model import CostModel
from advisor.costmodel.time import execution_key, model_key
from advisor.costmodel.validation.baselines import step_work
from advisor.costmodel.validation.case import Case, case_key, config_hash
from advisor.costmodel.validation.models import default_task, grid_model
from advisor.costmodel.validation.record import QUANTITIES, CaseOutcome, Predicted, Record

SAFETY_LEVEL = Budget().safety_level
MOST_ROWS = 1 << 16
ENDLESS_BYTES = 1 << 60
"""A card on which nothing is ever given back."""
LONGEST_STEP_S = 40.0
"""A step that is predicted to take longer says nothing more about memory."""
BITSANDBYTES_METHODS = frozenset({"qlora"})


@dataclass(frozen=True)
class Setting:
    """Where a grid runs.

    Attributes:
        device: Profile of the device at hand.
        calibration: Of this machine, if there is one.
        capacity_bytes: What a process can hold of the device now.
    """

    device: DeviceProfile
    calibration: Calibration | None
    capacity_bytes: int


@dataclass(frozen=True)
class Prepared:
    """A case with its prediction, ready to run.

    Attributes:
        record: ``predicted`` is set; ``outcome`` is provisional unless the case is not ``runnable``.
        runnable: Whether it goes on the device; ``None`` members below otherwise.
    """

    record: Record
    runnable: bool
    spec: ModelSpec | None = None
    strategy: StrategyConfig | None = None
    execution: ExecutionPlan | None = None
    mixed_lengths: int = 0
    allocator_limit_bytes: int | None = None


def prepare_all(cases: Sequence[Case], setting: Setting) -> list[Prepared]:
    """Predict several cases, one after another."""
    return [prepare(case, setting) for case in cases]


def prepare(case: Case, setting: Setting) -> Prepared:
    """Predict one case.

    Returns:
        A case that cannot be built or traced is ``refused``, one that does not suit the machine ``skipped``, each with
        the reason; neither is runnable.
    """
    if (missing := _missing_package(case)) is not None:
        return Prepared(draft(case, setting, "skipped", missing), runnable=False)
    try:
        return _prepare(case, setting)
    except InputError as failure:
        reason = " ".join([failure.message, *failure.problems])
        return Prepared(draft(case, setting, "refused", reason), runnable=False)


@dataclass(frozen=True)
class _Question:
    """A configuration to ask a cost model about."""

    spec: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    same_length: bool

    def asked(self, cost_model: CostModel) -> CostEstimate:
        return cost_model.estimate(
            self.spec, self.strategy, self.execution, None, with_quality=False, same_length=self.same_length
        )

    def with_rows(self, rows: int) -> _Question:
        return dataclasses.replace(self, execution=dataclasses.replace(self.execution, micro_batch_size=rows))

    def with_work(self, predicted: Predicted, cost_model: CostModel) -> Predicted:
        """The prediction with what the errors of its step time are judged by."""
        execution = self.execution
        operators = cost_model.step_operators(self.spec, self.strategy, execution, execution.max_seq_length)
        work = step_work(operators, execution.gradient_accumulation_steps, cost_model.device, self.spec)
        return dataclasses.replace(predicted, work=work, seen=self._seen(cost_model.calibration))

    def _seen(self, calibration: Calibration | None) -> bool:
        execution = self.execution
        shape = (execution.micro_batch_size, execution.max_seq_length)
        own = (model_key(self.spec), self.strategy.method, execution_key(execution), *shape)
        points = calibration.points if calibration is not None else ()
        return any(own == (p.model_key, p.method, p.execution_key, p.micro_batch_size, p.seq_length) for p in points)


def _prepare(case: Case, setting: Setting) -> Prepared:
    question = _question(case)
    if case.fill is not None:
        question = _filled(question, setting, round(case.fill * setting.capacity_bytes))
    capacity_bytes, limit_bytes = setting.capacity_bytes, None
    if case.room is not None:
        alone = question.asked(CostModel(_card(setting.device, ENDLESS_BYTES), setting.calibration))
        capacity_bytes = round(case.room * alone.memory.device_bytes)
        limit_bytes = capacity_bytes - setting.device.context_bytes
    cost_model = CostModel(_card(setting.device, capacity_bytes), setting.calibration)
    predicted = _predicted(cost_model, question.asked(cost_model), capacity_bytes)
    if case.repeats:
        predicted = question.with_work(predicted, cost_model)
    execution = question.execution
    record = dataclasses.replace(
        draft(case, setting, "failed", "not run yet"),
        rows=execution.micro_batch_size,
        total_parameters=question.spec.total_parameters,
        execution={**case.execution, "attn_implementation": execution.attn_implementation},
        capacity_bytes=capacity_bytes,
        predicted=predicted,
    )
    if (reason := _unsuitable(case, predicted, capacity_bytes)) is not None:
        return Prepared(dataclasses.replace(record, outcome="skipped", reason=reason), runnable=False)
    return Prepared(record, True, question.spec, question.strategy, execution, case.mixed_lengths, limit_bytes)


def _question(case: Case) -> _Question:
    """The case as the libraries see it.

    Raises:
        InputError: it cannot be built.
    """
    from advisor.strategies import get_strategy

    spec = grid_model(case.model, case.task)
    method = get_strategy(case.method)
    strategy = method.configured(spec, **case.knobs)
    if problems := [*filter(None, [method.applies_to(spec)]), *method.problems(strategy, spec)]:
        raise InputError(f"{case.method} does not suit {case.model}", problems=problems)
    return _Question(spec, strategy, _execution(case, spec), same_length=not case.mixed_lengths)


def _card(device: DeviceProfile, capacity_bytes: int) -> DeviceProfile:
    """The device with this much memory for the process."""
    return dataclasses.replace(device, memory_bytes=capacity_bytes, available_bytes=capacity_bytes)


def _execution(case: Case, spec: ModelSpec) -> ExecutionPlan:
    from advisor.training.build import attention_implementations

    kernel = "sdpa" if "sdpa" in attention_implementations(spec) else "eager"
    if spec.max_positions is not None and case.length > spec.max_positions:
        raise InputError(f"{case.model} has {spec.max_positions} positions, but the case has {case.length} tokens")
    # One row of evaluation never needs more than the step: what is measured is the step.
    fixed = {"micro_batch_size": case.rows, "max_seq_length": case.length, "eval_batch_size": 1}
    try:
        return ExecutionPlan(**{"attn_implementation": kernel, **case.execution, **fixed})
    except (TypeError, ValueError) as failure:
        raise InputError(f"the case's execution must be a valid plan: {failure}") from None


def _filled(question: _Question, setting: Setting, wanted_bytes: int) -> _Question:
    """The case with the most rows that would hold no more than ``wanted_bytes`` of a card without end.

    Raises:
        InputError: not even one row does.
    """
    endless = CostModel(_card(setting.device, ENDLESS_BYTES), setting.calibration, memory_limit_bytes=wanted_bytes)

    def fits(rows: int) -> bool:
        return question.with_rows(rows).asked(endless).memory.device_bytes <= wanted_bytes

    if not fits(1):
        raise InputError(f"one row already takes more than {wanted_bytes} bytes")
    low, high = 1, 2
    while high < MOST_ROWS and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return question.with_rows(low)


def _predicted(cost_model: CostModel, estimate: CostEstimate, capacity_bytes: int) -> Predicted:
    memory, time = estimate.memory, estimate.time
    upper_bytes = cost_model.memory_quantile_bytes(estimate, SAFETY_LEVEL)
    intervals = {name: memory.intervals[name] for name in QUANTITIES if name in memory.intervals}
    step = time.intervals.get("step_s") if time is not None else None
    return Predicted(
        allocated_bytes=memory.allocated_bytes,
        reserved_bytes=memory.reserved_bytes,
        device_bytes=memory.device_bytes,
        required_bytes=memory.required_bytes,
        intervals={name: (interval.low, interval.high) for name, interval in intervals.items()},
        upper_bytes=upper_bytes,
        safety_level=SAFETY_LEVEL,
        fits=upper_bytes <= capacity_bytes,
        peak_phase=memory.peak_phase,
        step_s=time.step_s if time is not None else 0.0,
        step_interval_s=(step.low, step.high) if step is not None else None,
        trainable_parameters=estimate.trainable_parameters,
        code=trace_version()[:12],
        step_basis=time.basis if time is not None else "",
        step_evidence=time.evidence if time is not None else "",
    )


def draft(case: Case, setting: Setting, outcome: CaseOutcome, reason: str) -> Record:
    """A record of what is known without a prediction."""
    return Record(
        key=case_key(case),
        label=case.label,
        model=case.model,
        config_hash=config_hash(case.model),
        task=case.task or default_task(case.model),
        total_parameters=0,
        method=case.method,
        knobs=case.knobs,
        execution=case.execution,
        rows=case.rows,
        length=case.length,
        capacity_bytes=setting.capacity_bytes,
        outcome=outcome,
        reason=reason,
        mixed_lengths=case.mixed_lengths,
        repeats=case.repeats,
        again=case.again,
    )


def _unsuitable(case: Case, predicted: Predicted, capacity_bytes: int) -> str | None:
    """Why a case is left out here: only cases that are meant to may run out of memory, and none may take minutes."""
    meant_to = case.room is not None or case.fill is not None
    if not predicted.fits and not meant_to:
        return f"it needs {predicted.upper_bytes} bytes with certainty, but the device has {capacity_bytes}"
    if predicted.step_s > LONGEST_STEP_S:
        return f"a step of it would take about {predicted.step_s:.0f} s here"
    return None


def _missing_package(case: Case) -> str | None:
    wants = case.method in BITSANDBYTES_METHODS or case.execution.get("optim") in BITSANDBYTES_OPTIMIZERS
    if wants and importlib.util.find_spec("bitsandbytes") is None:
        return "it needs bitsandbytes, which is not installed"
    return None
