"""What the cost model says about a case before it is run, and the batch that a case near the capacity gets."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.core.budget import Budget
from advisor.core.coefficients import Calibration
from advisor.core.cost import CostEstimate
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.experiments.validation.case import Case, case_key, config_hash
from advisor.experiments.validation.case_config import filled, question_of
from advisor.experiments.validation.models import default_task
from advisor.experiments.validation.record import QUANTITIES, CaseOutcome, Predicted, Record
from advisor.tracing.trace_store import trace_version

SAFETY_LEVEL = Budget().safety_level
ENDLESS_BYTES = 1 << 60
"""A card on which nothing is ever given back."""
LONGEST_STEP_S = 40.0
"""A step that is predicted to take longer says nothing more about memory."""
BITSANDBYTES_METHODS = frozenset({"qlora"})


@dataclass(frozen=True)
class GridDevice:
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


def prepare_all(cases: Sequence[Case], setting: GridDevice) -> list[Prepared]:
    """Predict several cases, one after another."""
    return [prepare(case, setting) for case in cases]


def prepare(case: Case, setting: GridDevice) -> Prepared:
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


def _prepare(case: Case, setting: GridDevice) -> Prepared:
    question = question_of(case).with_threads(setting.device.num_threads)
    if case.fill is not None:
        wanted_bytes = round(case.fill * setting.capacity_bytes)
        card = _card(setting.device, ENDLESS_BYTES)
        question = filled(question, CostModel(card, setting.calibration, memory_limit_bytes=wanted_bytes), wanted_bytes)
    capacity_bytes, limit_bytes = setting.capacity_bytes, None
    if case.room is not None:
        alone = question.asked(CostModel(_card(setting.device, ENDLESS_BYTES), setting.calibration))
        capacity_bytes = round(case.room * alone.memory.device_bytes)
        limit_bytes = capacity_bytes - setting.device.context_bytes
    cost_model = CostModel(_card(setting.device, capacity_bytes), setting.calibration)
    predicted = _predicted(question.asked(cost_model), cost_model.device)
    if setting.calibration is not None:
        predicted = dataclasses.replace(predicted, calibration=setting.calibration.created_at)
    if case.repeats:
        seen = question.is_seen(setting.calibration)
        predicted = dataclasses.replace(predicted, work=question.work(cost_model), seen=seen)
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


def _card(device: DeviceProfile, capacity_bytes: int) -> DeviceProfile:
    """The device with this much memory for the process."""
    return dataclasses.replace(device, memory_bytes=capacity_bytes, available_bytes=capacity_bytes)


def _predicted(estimate: CostEstimate, card: DeviceProfile) -> Predicted:
    memory, time = estimate.memory, estimate.time
    intervals = {name: memory.intervals[name] for name in QUANTITIES if name in memory.intervals}
    step = time.intervals.get("step_s") if time is not None else None
    return Predicted(
        allocated_bytes=memory.allocated_bytes,
        reserved_bytes=memory.reserved_bytes,
        device_bytes=memory.device_bytes,
        required_bytes=memory.required_bytes,
        intervals={name: (interval.low, interval.high) for name, interval in intervals.items()},
        upper_bytes=memory.quantile_bytes(SAFETY_LEVEL),
        safety_level=SAFETY_LEVEL,
        fits=Budget(safety_level=SAFETY_LEVEL).check(estimate, card).ok,
        peak_phase=memory.peak_phase,
        step_s=time.step_s if time is not None else 0.0,
        step_interval_s=(step.low, step.high) if step is not None else None,
        trainable_parameters=estimate.trainable_parameters,
        code=trace_version()[:12],
        step_basis=time.basis if time is not None else "",
        step_evidence=time.evidence if time is not None else "",
    )


def draft(case: Case, setting: GridDevice, outcome: CaseOutcome, reason: str) -> Record:
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
