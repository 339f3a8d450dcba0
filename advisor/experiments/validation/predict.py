"""What the cost model predicts for a case before it runs, and the batch of a case near the device's capacity.

Many cases are predicted several at a time, each in a process of its own: on a machine with a GPU tracing makes a CUDA
context; in processes that are gone before the first case runs, it takes nothing away from the device that is measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

from advisor.core.budget import Budget
from advisor.core.coefficients import Calibration
from advisor.core.cost import CostEstimate
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.costmodel.time.operator_times import configuration_key, execution_key, model_key
from advisor.experiments.grid import Cell
from advisor.experiments.validation.baselines import step_work
from advisor.experiments.validation.cases import Case, case_key, config_hash, default_task, grid_model
from advisor.experiments.validation.records import QUANTITIES, CaseOutcome, Header, Predicted, Record
from advisor.measurement.isolation import isolated
from advisor.strategies import get_strategy
from advisor.strategies.skeleton import usual_attention
from advisor.tracing.trace_store import trace_version

SAFETY_LEVEL = Budget().safety_level
ENDLESS_BYTES = 1 << 60
"""Of a device whose allocator never has to return cached memory."""
LONGEST_STEP_S = 40.0
"""A step that is predicted to take longer adds nothing about memory."""
MOST_ROWS = 1 << 16


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

    def cost_model(self, capacity_bytes: int) -> CostModel:
        """Of the device with this much memory for the process."""
        card = dataclasses.replace(self.device, memory_bytes=capacity_bytes, available_bytes=capacity_bytes)
        return CostModel(card, self.calibration)


@dataclass(frozen=True)
class CaseConfig:
    """A case as the cost model takes it: model, strategy and execution plan, checked.

    Attributes:
        same_length: All batches have the full length.
    """

    spec: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    same_length: bool

    def estimate(self, cost_model: CostModel, budget: Budget | None = None) -> CostEstimate:
        """What the cost model predicts."""
        return cost_model.estimate(
            self.spec, self.strategy, self.execution, None, budget, with_quality=False, same_length=self.same_length
        )

    def with_rows(self, rows: int) -> CaseConfig:
        """The same with another micro-batch."""
        return dataclasses.replace(self, execution=dataclasses.replace(self.execution, micro_batch_size=rows))

    def is_seen(self, calibration: Calibration | None) -> bool:
        """Whether a calibration measured this very configuration and shape."""
        execution = self.execution
        shape = (execution.micro_batch_size, execution.max_seq_length)
        own = (model_key(self.spec), self.strategy.method, execution_key(execution), *shape)
        exact = configuration_key(self.spec, self.strategy, execution, execution.max_seq_length)
        return any(
            p.configuration == exact if p.configuration else own == p.same_steps
            for p in (calibration.points if calibration is not None else ())
        )


@dataclass(frozen=True)
class Prepared:
    """A case with its prediction, ready to run.

    Attributes:
        record: ``predicted`` is set; ``outcome`` is provisional unless the case is not ``runnable``.
        config: What runs; ``None`` where the case is not runnable.
        mixed_lengths: As in ``Case``.
        allocator_limit_bytes: The allocator may reserve no more than this.
    """

    record: Record
    config: CaseConfig | None = None
    mixed_lengths: int = 0
    allocator_limit_bytes: int | None = None

    @property
    def runnable(self) -> bool:
        """Whether the case goes on the device."""
        return self.config is not None


def configure_case(case: Case, num_threads: int | None = None) -> CaseConfig:
    """The case as the cost model takes it.

    Args:
        case: Of a grid.
        num_threads: Of plans for the device, where the case does not name its own.

    Raises:
        InputError: it cannot be built.
    """
    spec = grid_model(case.model, case.task)
    method = get_strategy(case.method)
    strategy = method.configured(spec, **case.knobs)
    if problems := [*filter(None, [method.applies_to(spec)]), *method.problems(strategy, spec)]:
        raise InputError(f"{case.method} does not suit {case.model}", problems=problems)
    if spec.max_positions is not None and case.length > spec.max_positions:
        raise InputError(f"{case.model} has {spec.max_positions} positions, but the case has {case.length} tokens")
    usual = {"attn_implementation": usual_attention(spec), "num_threads": num_threads}
    # One row of evaluation never needs more than the step: the step is what is measured.
    fixed = {"micro_batch_size": case.rows, "max_seq_length": case.length, "eval_batch_size": 1}
    try:
        execution = ExecutionPlan(**{**usual, **case.execution, **fixed})
    except (TypeError, ValueError) as failure:
        raise InputError(f"the case's execution must be a valid plan: {failure}") from None
    return CaseConfig(spec, strategy, execution, same_length=not case.mixed_lengths)


def prepare_all(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
    """Predict several cases, one after another."""
    return [prepare(case, where) for case in cases]


def prepare(case: Case, where: GridDevice) -> Prepared:
    """Predict one case.

    Returns:
        A case that cannot be built or traced is ``refused``, one that does not suit the machine ``skipped``, each with
        the reason; neither is runnable.
    """
    try:
        if (missing := _missing_package(case)) is not None:
            return Prepared(unpredicted(case, where, "skipped", missing))
        return _prepare(case, where)
    except InputError as failure:
        return Prepared(unpredicted(case, where, "refused", " ".join([failure.message, *failure.problems])))


def _prepare(case: Case, where: GridDevice) -> Prepared:
    config = configure_case(case, where.device.num_threads)
    if case.fill is not None:
        config = _filled(config, where, round(case.fill * where.capacity_bytes))
    capacity_bytes, limit_bytes = where.capacity_bytes, None
    if case.room is not None:
        alone = config.estimate(where.cost_model(ENDLESS_BYTES))
        capacity_bytes = round(case.room * alone.memory.device_bytes)
        limit_bytes = capacity_bytes - where.device.context_bytes
    predicted = _predicted(config, where, capacity_bytes, timed=bool(case.repeats))
    execution = config.execution
    record = dataclasses.replace(
        unpredicted(case, where, "failed", "not run yet"),
        rows=execution.micro_batch_size,
        total_parameters=config.spec.total_parameters,
        execution={**case.execution, "attn_implementation": execution.attn_implementation},
        capacity_bytes=capacity_bytes,
        predicted=predicted,
    )
    if (reason := _unsuitable(case, predicted, capacity_bytes)) is not None:
        return Prepared(dataclasses.replace(record, outcome="skipped", reason=reason))
    return Prepared(record, config, case.mixed_lengths, limit_bytes)


def _filled(config: CaseConfig, where: GridDevice, wanted_bytes: int) -> CaseConfig:
    """The case with the most rows that would hold no more than ``wanted_bytes`` of a device without end.

    Raises:
        InputError: not even one row does.
    """
    endless, budget = where.cost_model(ENDLESS_BYTES), Budget(memory_bytes=wanted_bytes)

    def fits(rows: int) -> bool:
        return config.with_rows(rows).estimate(endless, budget).memory.device_bytes <= wanted_bytes

    if not fits(1):
        raise InputError(f"one row already takes more than {wanted_bytes} bytes")
    low, high = 1, 2
    while high < MOST_ROWS and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return config.with_rows(low)


def _predicted(config: CaseConfig, where: GridDevice, capacity_bytes: int, *, timed: bool) -> Predicted:
    """What is predicted for a process that may hold ``capacity_bytes``; a timed case gets what baselines need."""
    cost_model = where.cost_model(capacity_bytes)
    estimate = config.estimate(cost_model, Budget(safety_level=SAFETY_LEVEL))
    memory, time = estimate.memory, estimate.time
    intervals = {name: memory.intervals[name] for name in QUANTITIES if name in memory.intervals}
    step = time.intervals.get("step_s") if time is not None else None
    execution, work = config.execution, None
    if timed:
        operators = cost_model.step_operators(config.spec, config.strategy, execution, execution.max_seq_length)
        work = step_work(operators, execution.gradient_accumulation_steps, cost_model.device, config.spec)
    return Predicted(
        allocated_bytes=memory.allocated_bytes,
        reserved_bytes=memory.reserved_bytes,
        device_bytes=memory.device_bytes,
        required_bytes=memory.required_bytes,
        intervals={name: (interval.low, interval.high) for name, interval in intervals.items()},
        upper_bytes=memory.quantile_bytes(SAFETY_LEVEL),
        safety_level=SAFETY_LEVEL,
        fits=bool(estimate.fits),
        peak_phase=memory.peak_phase,
        step_s=time.step_s if time is not None else 0.0,
        step_interval_s=(step.low, step.high) if step is not None else None,
        trainable_parameters=estimate.trainable_parameters,
        code=trace_version()[:12],
        calibration=where.calibration.created_at if where.calibration is not None else "",
        step_basis=time.basis if time is not None else "",
        step_evidence=time.evidence if time is not None else "",
        seen=timed and config.is_seen(where.calibration),
        work=work,
    )


def unpredicted(case: Case, where: GridDevice, outcome: CaseOutcome, reason: str) -> Record:
    """The record of a case without a prediction."""
    return Record(
        key=case_key(case),
        label=case.label,
        config_hash=config_hash(case.model),
        task=case.task or default_task(case.model),
        total_parameters=0,
        capacity_bytes=where.capacity_bytes,
        outcome=outcome,
        reason=reason,
        **{name: getattr(case, name) for name in _IN_BOTH},
    )


def case_as_run(record: Record) -> Case:
    """The case of a record, with the rows that it was run with however they were chosen."""
    return Case(task=record.task, **{name: getattr(record, name) for name in _IN_BOTH})


_IN_BOTH = ("model", "method", "rows", "length", "knobs", "execution", "mixed_lengths", "repeats", "again")
"""What a record has of its case."""


def _unsuitable(case: Case, predicted: Predicted, capacity_bytes: int) -> str | None:
    """Why a case is left out here: only cases that are meant to may run out of memory, and none may take minutes."""
    meant_to = case.room is not None or case.fill is not None
    if not predicted.fits and not meant_to:
        return f"it needs up to {predicted.upper_bytes} bytes, but the device has {capacity_bytes}"
    if predicted.step_s > LONGEST_STEP_S:
        return f"one step of it would take about {predicted.step_s:.0f} s here"
    return None


def _missing_package(case: Case) -> str | None:
    wants = get_strategy(case.method).stores_4bit_weights or case.execution.get("optim") in BITSANDBYTES_OPTIMIZERS
    if wants and importlib.util.find_spec("bitsandbytes") is None:
        return "it needs bitsandbytes, which is not installed"
    return None


MOST_WORKERS = 8
"""Tracing processes at a time: each holds about half a gigabyte."""
PREDICTION_LIMIT_S = 300.0

Predict = Callable[[Sequence[Case], GridDevice], list[Prepared]]
"""Prepares some cases."""


def predict_in_own_process(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
    """Prepare some cases in a process of their own; a process that fails leaves ``failed`` records."""
    try:
        result = isolated(prepare_all, cases, where, timeout_s=PREDICTION_LIMIT_S * len(cases))
    except OSError as failure:
        reason = f"the predicting process could not start: {failure}"
    else:
        if result.value is not None:
            return result.value
        reason = f"the prediction ended with {result.reason}"
    return [Prepared(unpredicted(case, where, "failed", reason)) for case in cases]


def predict_cases(
    batches: Sequence[Sequence[Case]],
    where: GridDevice,
    *,
    workers: int,
    deadline_s: float | None = None,
    predict: Predict = predict_in_own_process,
) -> Iterator[tuple[Case, Prepared]]:
    """Prepare cases, in the order in which they get ready.

    Args:
        batches: Cases that share a call of ``predict``, the first needed first.
        where: Where they will run.
        workers: Calls at a time.
        deadline_s: No call begins after this moment of ``time.monotonic``; the remaining cases are left out.
        predict: Prepares the cases of a batch.
    """

    def work(batch: Sequence[Case]) -> list[tuple[Case, Prepared]]:
        if deadline_s is not None and time.monotonic() >= deadline_s:
            return []
        return list(zip(batch, predict(batch, where), strict=True))

    # Threads of such a pool are daemons: after Ctrl-C nobody waits for them, and their processes end with this one.
    with ThreadPool(max(1, min(workers, MOST_WORKERS, len(batches)))) as pool:
        for answers in pool.imap_unordered(work, batches):
            yield from answers


def predicted_cells(
    cells: Sequence[Cell[Case]],
    where: GridDevice,
    expected_s: Callable[[Record], float],
    *,
    workers: int,
    deadline_s: float | None = None,
    on_case: Callable[[str, float], None] = lambda label, share: None,
    predict: Predict = predict_in_own_process,
) -> list[Cell[Prepared]]:
    """The cells of a grid with their predictions, as many as the time allows, in the order of the grid.

    Args:
        cells: Of the grid.
        where: Where they will run.
        expected_s: Duration of a case with a prediction.
        workers: Predictions at a time.
        deadline_s: No prediction begins after this moment of ``time.monotonic``.
        on_case: Called with a case's label and the share that is done.
        predict: As in :func:`predict_cases`.
    """
    found: dict[str, Prepared] = {}
    batches = [[cell.payload] for cell in cells]
    for case, prepared in predict_cases(batches, where, workers=workers, deadline_s=deadline_s, predict=predict):
        found[prepared.record.key] = prepared
        on_case(case.label, len(found) / len(cells))
    return [
        Cell(cell.key, cell.label, ready, expected_s(ready.record) if ready.runnable else 0.0)
        for cell in cells
        if (ready := found.get(cell.key)) is not None
    ]


def repredict(
    header: Header,
    records: Sequence[Record],
    *,
    workers: int,
    calibration: Calibration | None = None,
    on_case: Callable[[str, float], None] = lambda label, share: None,
    predict: Predict = predict_in_own_process,
) -> tuple[Record, ...]:
    """The records with this version's predictions, made on any machine; the measurements stay.

    A case that can no longer be predicted keeps no prediction and becomes ``refused``.

    Args:
        header: Its device is predicted for.
        records: Cases that never ran are returned as they are.
        workers: Processes at a time.
        calibration: Of the device.
        on_case: Called with a case's label and the share that is done.
        predict: As in :func:`predict_cases`.

    Raises:
        InputError: the records do not hold the profile of their device.
    """
    if header.device is None:
        raise InputError(
            f"the records of {header.device_name} must hold its profile to be predicted again, but they do not",
            fix="measure them again with this version",
        )
    ran = [record for record in records if record.ran]
    renewed: dict[str, Record] = {}
    for capacity_bytes in dict.fromkeys(record.capacity_bytes for record in ran):
        of_case: dict[int, Record] = {}
        # Cases of one model and method share traces, so they share a process.
        batches: dict[tuple[str, str], list[Case]] = {}
        for record in ran:
            if record.capacity_bytes == capacity_bytes:
                case = case_as_run(record)
                of_case[id(case)] = record
                batches.setdefault((case.model, case.method), []).append(case)
        where = GridDevice(header.device, calibration, capacity_bytes)
        for case, prepared in predict_cases(list(batches.values()), where, workers=workers, predict=predict):
            record, now = of_case[id(case)], prepared.record
            gone = {"outcome": "refused", "reason": now.reason} if now.predicted is None else {}
            renewed[record.key] = dataclasses.replace(record, predicted=now.predicted, **gone)  # type: ignore[arg-type]
            on_case(record.label, len(renewed) / len(ran))
    return tuple(renewed.get(record.key, record) for record in records)
