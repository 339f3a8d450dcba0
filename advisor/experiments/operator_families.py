"""Where the time of an optimizer step goes: families of operators, measured by the profiler and predicted by the trace.

A step is profiled once (``measurement.operator_profile``) and traced once with the module of every operator
(``tracing.attribution``). Both agree in order, so events are laid on traced operators (``calibration.profiled_ops``);
phase and adapter come from the trace, seconds from the profiler.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.calibration.profiled_ops import align_events, outermost
from advisor.core.coefficients import Calibration
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.time.operator_times import OperatorClock, execution_key, model_key
from advisor.costmodel.time.step import StepConditions, step_time
from advisor.hardware.backends import backend_of
from advisor.tracing.attribution import AttributedRecording, attributed_trace
from advisor.tracing.ops import TracedOp, op_class, usual_class
from advisor.tracing.step import TraceRequest

if TYPE_CHECKING:
    from advisor.measurement.operator_profile import OperatorProfile
    from advisor.measurement.steps import StepMeasurement, StepRequest

OPTIMIZER = "optimizer"
ADAPTERS = "adapters"
BETWEEN = "between operators"
"""The host's work that no operator does (Python, autograd, the loader); on an accelerator, time without a kernel."""
MEMBERS = {
    "matrix products": "gemm gemm_skinny conv",
    "attention": "attention attention_backward bmm softmax",
    "4-bit and de-quantisation": "gemm_4bit quantization",
    "normalisation and elementwise": "norm transcendental elementwise reduction rng index embedding",
    "copies": "copy fill allocation",
}
"""Families by classes of operators (``tracing.ops.op_class``). Batched products and the softmax are eager attention; of
SDPA it is one kernel."""
FAMILY_OF = {kind: family for family, kinds in MEMBERS.items() for kind in kinds.split()}
FAMILIES = (*MEMBERS, ADAPTERS, OPTIMIZER, BETWEEN)
PHASES = ("forward", "backward", "optimizer")
STEPS, WARMUP_STEPS = 5, 2


@dataclass(frozen=True)
class FamilySeconds:
    """One family in one phase of a step.

    Attributes:
        family: One of ``FAMILIES``.
        phase: One of ``PHASES``, or ``"step"`` for what lies between operators.
        measured_s: By the profiler, scaled to the median step without it.
        predicted_s: By the cost model.
        calls: Traced operators.
    """

    family: str
    phase: str
    measured_s: float
    predicted_s: float
    calls: int


@dataclass(frozen=True)
class StepFamilies:
    """Where the time of one optimizer step goes.

    Attributes:
        method: Registry name.
        micro_batch_size, seq_length: Of the profiled step: one micro-batch, every row of this length, tokens.
        step_s: Median step without the profiler, wall clock.
        predicted_s: Of the same step.
        families: Only those that occur.
        unseen_share: Of the predicted operator time, that of operators which the profiler did not show: the trace has
            some small ones more than a real step (a mask that is assumed, gradients that the engine adds in place).
        load: What other programs left of the processor meanwhile, in words; empty when they left enough.
    """

    method: str
    micro_batch_size: int
    seq_length: int
    step_s: float
    predicted_s: float
    families: tuple[FamilySeconds, ...]
    unseen_share: float
    load: str = ""

    def measured_share(self, family: str) -> float:
        """Of the step, all phases."""
        return by_family(self.families).get(family, (0.0, 0.0))[0] / self.step_s


def profile_request(
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    device: DeviceProfile,
    seq_length: int,
    chrome_trace: Path | None = None,
) -> StepRequest:
    """The steps that are run for a profile: one micro-batch each, on a synthetic batch of full rows."""
    from advisor.measurement.steps import StepRequest

    return StepRequest(
        model,
        strategy,
        execution,
        seq_length,
        steps=STEPS,
        warmup_steps=WARMUP_STEPS,
        profile_operators=True,
        chrome_trace=str(chrome_trace) if chrome_trace is not None else None,
        device_type=device.type,
    )


def step_families(
    request: StepRequest, found: StepMeasurement, device: DeviceProfile, calibration: Calibration | None
) -> StepFamilies:
    """Group a profiled step's time, and what is predicted of it.

    Args:
        request: What was run (``profile_request``).
        found: What it took.
        device: Where.
        calibration: Of the device, if there is one.

    Raises:
        UntraceableError: the configuration cannot be traced.
        ValueError: the step was not profiled.
    """
    if found.operators is None or not found.step_times_s:
        raise ValueError("a step with profile_operators must have been measured")
    recording = attributed_trace(
        TraceRequest(
            request.model,
            request.strategy,
            request.execution,
            request.seq_length,
            semantics=backend_of(device).traced_as,
            compute_capability=device.compute_capability,
            evaluation=False,
        )
    )
    operators, families = traced_families(recording)
    step_s = statistics.median(found.step_times_s)
    measured, unseen = measured_seconds(operators, families, found.operators, step_s)
    clock = OperatorClock(device, calibration, tf32=request.execution.tf32)
    each_s = [float(seconds) for seconds in clock.seconds_each(operators)]
    conditions = StepConditions(
        model_key(request.model),
        request.strategy.method,
        execution_key(request.execution),
        request.execution.micro_batch_size * request.seq_length,
    )
    predicted_s = step_time(clock.total(operators), device, calibration, conditions).seconds
    predicted: dict[tuple[str, str], float] = defaultdict(float)
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for op, family, seconds in zip(operators, families, each_s, strict=True):
        predicted[family, op.phase] += seconds
        calls[family, op.phase] += 1
    rows = [
        FamilySeconds(family, phase, measured.get((family, phase), 0.0), predicted[family, phase], calls[family, phase])
        for family in FAMILIES
        for phase in PHASES
        if calls[family, phase]
    ]
    between = FamilySeconds(
        BETWEEN,
        "step",
        step_s - sum(row.measured_s for row in rows),
        max(0.0, predicted_s - sum(row.predicted_s for row in rows)),
        0,
    )
    return StepFamilies(
        request.strategy.method,
        request.execution.micro_batch_size,
        request.seq_length,
        step_s,
        predicted_s,
        (*rows, between),
        sum(each_s[position] for position in unseen) / sum(each_s),
        found.load,
    )


def traced_families(recording: AttributedRecording) -> tuple[list[TracedOp], list[str]]:
    """The operators of a traced step in order, and the family of each."""
    placed = [
        (op.traced(), module in recording.adapter_modules)
        for op, module in zip(recording.operators, recording.operator_modules, strict=True)
        if op.phase in PHASES
    ]
    return [op for op, _ in placed], [family_of(op, in_adapter=in_adapter) for op, in_adapter in placed]


def family_of(op: TracedOp, *, in_adapter: bool) -> str:
    """What an operator's time is counted as: the optimizer's and the adapters' whatever they are, others by class."""
    if op.phase == OPTIMIZER:
        return OPTIMIZER
    family = FAMILY_OF.get(op_class(op), OPTIMIZER)
    # De-quantisation is named wherever it happens: some adapters need the base weight itself.
    return ADAPTERS if in_adapter and family != FAMILY_OF["quantization"] else family


def measured_seconds(
    operators: Sequence[TracedOp], families: Sequence[str], profile: OperatorProfile, step_s: float
) -> tuple[dict[tuple[str, str], float], list[int]]:
    """Seconds by family and phase, and the positions of operators that no event was found for.

    Events that no operator was found for count by their name, in the phase of the event before them.
    """
    events = outermost(profile.events, {op.base_name for op in operators})
    owner: dict[int, int] = {}
    unseen: list[int] = []
    for position, index in enumerate(align_events(operators, events)):
        if index is None:
            unseen.append(position)
        else:
            owner[index] = position
    scale = step_s / profile.seconds / 1e9
    found: dict[tuple[str, str], float] = defaultdict(float)
    phase = PHASES[0]
    for index, event in enumerate(events):
        if index in owner:
            phase = operators[owner[index]].phase
            family = families[owner[index]]
        else:
            family = OPTIMIZER if phase == OPTIMIZER else FAMILY_OF.get(usual_class(event.base_name), OPTIMIZER)
        found[family, phase] += event.busy_ns * scale
    return dict(found), unseen


def by_family(rows: Iterable[FamilySeconds]) -> dict[str, tuple[float, float]]:
    """Measured and predicted seconds of every family, all phases together."""
    totals: dict[str, tuple[float, float]] = {}
    for row in rows:
        measured_s, predicted_s = totals.get(row.family, (0.0, 0.0))
        totals[row.family] = (measured_s + row.measured_s, predicted_s + row.predicted_s)
    return totals
