"""A few real steps of a model, method and execution plan on synthetic batches: how long they take and what they
hold.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import HOST, backend_on, get_backend
from advisor.hardware.host_process import peak_resident_bytes, resident_bytes
from advisor.hardware.load import LoadMeter
from advisor.measurement.operator_profile import (
    EvaluationPasses,
    OperatorProfile,
    OperatorProfiler,
    measure_evaluation,
)
from advisor.measurement.step_profile import ProfiledStep, StepProfiler
from advisor.strategies import get_strategy
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer, count_parameters
from advisor.training.build import build_model
from advisor.training.callbacks import StepClock
from advisor.training.synthetic import RepeatedBatch, synthetic_batch
from advisor.training.tasks import get_task


@dataclass(frozen=True)
class StepRequest:
    """What to run.

    Attributes:
        model: Weights are loaded when it has them, else drawn at random: time and memory do not depend on their values.
        seq_length: Padded length of every micro-batch in tokens.
        steps: Timed optimizer steps, after ``warmup_steps`` that are thrown away.
        mixed_length_steps: Steps before these, and then one before each timed step, whose micro-batches differ in
            length as real text does: the C allocator's free lists then look like a run's. On MiniLM that adds 5 % to
            the resident set and 7 % to the step time.
        profile_memory: Add one step under the memory profiler (CPU).
        profile_operators: Add one step, and where there are any an evaluation pass, under the operator profiler (CPU).
        chrome_trace: With ``profile_operators``: file for the profiler's events.
        evaluate: Time evaluation passes of the same batch after training.
        device_type: Name of the back end.
        num_hidden_layers: Builds a shallower or deeper model than the config says.
    """

    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    steps: int = 5
    warmup_steps: int = 2
    mixed_length_steps: int = 0
    profile_memory: bool = False
    profile_operators: bool = False
    chrome_trace: str | None = None
    evaluate: bool = False
    device_type: str = HOST
    num_hidden_layers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} >= {low} must hold, but got {getattr(self, name)}"
            for name, low in (("steps", 0), ("warmup_steps", 1), ("seq_length", 1))
            if getattr(self, name) < low
        ]
        if self.steps == 0 and not self.profile_memory:
            problems.append("steps >= 1 or profile_memory must hold, but got neither")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class StepMeasurement:
    """What the steps took.

    Attributes:
        step_times_s: The timed steps in order, wall clock, synchronised; the warm-up is not among them.
        allocated_peak_bytes: CUDA: ``max_memory_allocated``; CPU: from the profiled step, ``None`` without one.
        reserved_peak_bytes: CUDA only.
        resident_peak_bytes: Largest resident set of the process up to the last timed step.
        baseline_resident_bytes: Resident set before the model was built.
        profiled: The memory-profiled step in detail.
        operators: The operator-profiled step.
        evaluation: Forward passes of the same batch in evaluation mode.
        load: What other programs left of the processor meanwhile, in words; empty when they left enough.
    """

    step_times_s: tuple[float, ...]
    allocated_peak_bytes: int | None
    reserved_peak_bytes: int | None
    resident_peak_bytes: int
    baseline_resident_bytes: int
    trainable_parameters: int
    total_parameters: int
    profiled: ProfiledStep | None = None
    operators: OperatorProfile | None = None
    evaluation: EvaluationPasses | None = None
    load: str = ""


def measure_steps(request: StepRequest, *, timeout_s: float | None = None) -> StepMeasurement:
    """Run the steps in a process of their own.

    Raises:
        RunFailed: out of memory, out of time, or crashed; the message says which.
        InputError: the model, method and plan do not go together.
    """
    from advisor.measurement.isolation import isolated

    return isolated(run_steps, request, timeout_s=timeout_s).unwrap()


def run_steps(request: StepRequest, *, callbacks: Sequence[TrainerCallback] = ()) -> StepMeasurement:
    """Run the steps in this process, through ``Trainer.train()`` on copies of one synthetic batch.

    Args:
        request: What to run.
        callbacks: Called behind the clock, so that what they do at the end of a step is not in its time.
    """
    execution = request.execution
    get_backend(request.device_type).runtime.prepare_for(execution)
    baseline_bytes = resident_bytes()
    template = synthetic_batch(
        request.model,
        execution.micro_batch_size,
        request.seq_length,
        padded=execution.padded,
        separate_documents=execution.separate_documents,
        seed=request.seed,
    )
    timed = _timed_steps(request)
    timed_steps = max(timed, default=request.mixed_length_steps + request.warmup_steps - 1) + 1
    clock, high_water = StepClock(), _HighWater(timed_steps)
    last = timed_steps + request.profile_operators
    operators = OperatorProfiler(last, get_backend(request.device_type).torch_device, request.chrome_trace)
    profiler = StepProfiler(at_step=last + 1) if request.profile_memory else None
    watching = [clock, *callbacks, high_water, *([operators] if request.profile_operators else [])]
    with closing(operators), closing(profiler) if profiler else nullcontext(), LoadMeter() as others:
        counts, evaluation = _train_on_copies(
            request, template, last + request.profile_memory, [*watching, *([profiler] if profiler else [])]
        )
    profiled = profiler.result if profiler else None
    return StepMeasurement(
        step_times_s=tuple(clock.step_times_s[index] for index in timed),
        allocated_peak_bytes=high_water.allocated_bytes or (profiled.peak_bytes if profiled else None),
        reserved_peak_bytes=high_water.reserved_bytes,
        resident_peak_bytes=high_water.resident_bytes,
        baseline_resident_bytes=baseline_bytes,
        trainable_parameters=counts[0],
        total_parameters=counts[1],
        profiled=profiled,
        operators=operators.result,
        evaluation=evaluation,
        load=others.load(torch.get_num_threads()),
    )


def _train_on_copies(
    request: StepRequest, template: dict[str, torch.Tensor], steps: int, callbacks: list[TrainerCallback]
) -> tuple[tuple[int, int], EvaluationPasses | None]:
    """Build and train; one step's rows more than needed, because a real loader always holds the next batch as well."""
    execution = request.execution
    set_seed(request.seed)
    model = build_model(
        _buildable(request),
        request.strategy,
        execution,
        device=get_backend(request.device_type).torch_device,
        num_hidden_layers=request.num_hidden_layers,
    )
    rows = (steps + 1) * execution.effective_batch_size
    dataset = RepeatedBatch(template, rows, execution.micro_batch_size, mixed_lengths(request))
    with tempfile.TemporaryDirectory(prefix="advisor-steps-") as folder:
        arguments = training_arguments(
            request.strategy,
            execution,
            folder,
            seed=request.seed,
            device_type=request.device_type,
            max_steps=steps,
            logging_steps=steps + 1,
        )
        trainer = assemble_trainer(
            model,
            arguments,
            request.model.task,
            train_dataset=dataset,
            collator=dataset.collate,
            callbacks=[*get_strategy(request.strategy.method).callbacks(request.strategy), *callbacks],
            strategy=request.strategy,
            execution=request.execution,
            compute_loss_func=get_task(request.model.task).loss_func_of(request.model, request.strategy),
        )
        trainer.train()
        evaluation = None
        if request.evaluate:
            evaluation = measure_evaluation(trainer, template, profile_operators=request.profile_operators)
    return count_parameters(model), evaluation


def _timed_steps(request: StepRequest) -> list[int]:
    """Which steps are timed, counted from 0; with mixed lengths a step of another length goes before each."""
    first = request.mixed_length_steps + request.warmup_steps
    stride = 2 if request.mixed_length_steps else 1
    return [first + stride * (index + 1) - 1 for index in range(request.steps)]


def mixed_lengths(request: StepRequest) -> list[int]:
    """Length in tokens of every micro-batch up to the last timed step; empty when all have the full length.

    Lengths are multiples of 8 from a quarter of the full length up, in no order.
    """
    choices = range(max(8, request.seq_length // 32 * 8), request.seq_length + 1, 8)
    if not request.mixed_length_steps or not choices:
        return []
    timed, draw = _timed_steps(request), random.Random(request.seed)
    first = request.mixed_length_steps + request.warmup_steps
    full = {*timed, *range(request.mixed_length_steps, first)}
    micro_batches = request.execution.gradient_accumulation_steps
    return [
        request.seq_length if step in full else draw.choice(choices)
        for step in range(max(timed, default=first - 1) + 1)
        for _ in range(micro_batches)
    ]


def _buildable(request: StepRequest) -> ModelSpec:
    """Without weights, or at another depth, the model is drawn at random from its configuration."""
    if request.model.has_weights and request.num_hidden_layers is None:
        return request.model
    return dataclasses.replace(request.model, kind="config", has_weights=False)


class _HighWater(TrainerCallback):
    """Reads the peaks when the last timed step is over, before anything else (a profiler) adds to them."""

    def __init__(self, at_step: int) -> None:
        self.resident_bytes = 0
        self.allocated_bytes: int | None = None
        self.reserved_bytes: int | None = None
        self._at_step = at_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        backend_on(args.device.type).runtime.reset_peaks()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step != self._at_step:
            return
        self.resident_bytes = peak_resident_bytes()
        self.allocated_bytes, self.reserved_bytes = backend_on(args.device.type).runtime.peaks()
