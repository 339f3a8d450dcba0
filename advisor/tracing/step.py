"""Traces one training step and one evaluation pass of what ``run`` executes.

The model is built by the same code as for a run, and stepped as the stock ``transformers.Trainer`` steps it (``loop``).
A contract test compares the memory with the profiler's events of the real, unpatched Trainer step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from advisor.core.errors import AdvisorError, UntraceableError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import HOST, is_host
from advisor.strategies import get_strategy
from advisor.tracing.environment import fake_device
from advisor.tracing.preference_step import PreferenceLoop
from advisor.tracing.recorder import Recording, StepRecorder
from advisor.tracing.training_loop import (
    TracedLoop,
    frozen_tensors,
    in_order_of_creation,
    logical_parameters,
    state_tensors,
)
from advisor.training.build import build_model
from advisor.training.kept_prefix import layers_return_tuples
from advisor.training.linear_probe.pooling import Pooler
from advisor.training.tasks import get_task


@dataclasses.dataclass(frozen=True)
class TraceRequest:
    """What to trace.

    Attributes:
        model, strategy, execution: The configuration; ``execution`` gives batch size and switches.
        seq_length: Tokens per row of the batch.
        semantics: Name of the back end whose operators run.
        compute_capability: Of the CUDA device.
        num_hidden_layers: Another depth than the model's; ``None`` keeps it.
        keep_signatures: Keep what a replay of each operator needs.
        evaluation: Also trace a forward pass in evaluation mode.
    """

    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    semantics: str = HOST
    compute_capability: tuple[int, int] | None = None
    num_hidden_layers: int | None = None
    keep_signatures: bool = False
    evaluation: bool = True


@dataclasses.dataclass(frozen=True)
class StepTrace:
    """What one optimizer step does at one batch shape, in the steady state (optimizer states exist).

    Attributes:
        recording: Operators and storage events by phase (``weights``, ``states``, ``forward``, ``backward``,
            ``optimizer``, ``evaluation``).
        trainable_parameters, total_parameters: Logical counts (4-bit weights at their unpacked size).
    """

    recording: Recording
    trainable_parameters: int
    total_parameters: int

    @property
    def peak_bytes(self) -> int:
        """Largest number of live tensor bytes."""
        sizes = [storage.size_bytes for storage in self.recording.storages]
        changes = (sign * sizes[storage] for sign, storage, _ in self.recording.events)
        return max(itertools.accumulate(changes, initial=0))


RecorderOf = Callable[[torch.nn.Module, str], StepRecorder]
"""Makes the recorder of a built model on a device type."""


def trace_step(request: TraceRequest, recorder_of: RecorderOf | None = None) -> StepTrace:
    """Trace one configuration without weights, memory or the device.

    Args:
        request: What to trace.
        recorder_of: Makes another recorder than the plain one.

    Raises:
        UntraceableError: a library's operator cannot run on fake tensors; the message names it.
    """
    _look_ahead(request)
    with failures_named(request), fake_device(request.semantics, request.compute_capability) as device_type:
        model = build_traced(request, device_type)
        return _trace_on(model, request, device_type, recorder_of)


def _look_ahead(request: TraceRequest) -> None:
    """What building the model asks about the architecture and what cannot be found out on a fake device."""
    if request.execution.keep_features:
        layers_return_tuples(request.model)


@contextlib.contextmanager
def failures_named(request: TraceRequest) -> Iterator[None]:
    """A library's failure on fake tensors as an ``UntraceableError`` that names where."""
    try:
        yield
    except AdvisorError:
        raise
    except Exception as failure:
        where = _innermost_module(failure)
        raise UntraceableError(
            f"{request.model.model_type} with {request.strategy.method} cannot be traced: "
            f"{type(failure).__name__} in {where}: {str(failure).splitlines()[0] if str(failure) else failure!r:.200}",
            fix=_way_out(where, request.execution),
        ) from failure


def _way_out(where: str, execution: ExecutionPlan) -> str:
    """What helps against a failure there; advice that was followed already is not given again."""
    if where.startswith("peft."):
        return "choose another --method"
    if execution.attn_implementation != "eager":
        return "try --attn-implementation eager"
    return "no option changes what the model itself does: predict another model of this size instead"


class TraceSession:
    """One built fake model, traced at several batch shapes.

    Use as a context manager: the fake device stays entered, so that the model is built once.
    """

    def __init__(self, request: TraceRequest) -> None:
        self.request = request
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TraceSession:
        _look_ahead(self.request)
        self._device_type = self._stack.enter_context(
            fake_device(self.request.semantics, self.request.compute_capability)
        )
        try:
            with failures_named(self.request):
                self._model = build_traced(self.request, self._device_type)
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    def parameter_counts(self) -> tuple[int, int]:
        """Trainable and all parameters of the built model (4-bit weights at their unpacked size)."""
        trainable = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        return trainable, logical_parameters(self._model)

    def trace(self, micro_batch_size: int, seq_length: int) -> StepTrace:
        execution = dataclasses.replace(self.request.execution, micro_batch_size=micro_batch_size)
        request = dataclasses.replace(self.request, execution=execution, seq_length=seq_length)
        with failures_named(request):
            return _trace_on(self._model, request, self._device_type)


def build_traced(request: TraceRequest, device_type: str) -> torch.nn.Module:
    """The model of a request on the fake device that was entered."""
    with torch.device(device_type):
        return build_model(
            request.model,
            request.strategy,
            request.execution,
            device=device_type,
            empty=True,
            num_hidden_layers=request.num_hidden_layers,
        )


def _trace_on(
    model: torch.nn.Module,
    request: TraceRequest,
    device_type: str,
    recorder_of: RecorderOf | None = None,
    unreached: frozenset[int] = frozenset(),
) -> StepTrace:
    """Trace one step, and once more where parameters turn out to get no gradient and hence no optimizer states."""
    if recorder_of is not None:
        recorder = recorder_of(model, device_type)
    else:
        recorder = StepRecorder(device_type, masked=request.execution.masked, keep_signatures=request.keep_signatures)
    if get_strategy(request.strategy.method).fits_frozen_features:
        return _trace_forward(model, request, device_type, recorder)
    model.train()
    loop, reference = _loop(model, request, device_type, unreached, recorder)
    with recorder:
        recorder.watch(in_order_of_creation(model), "weight")
        recorder.watch(frozen_tensors(model), "weight")
        if reference is not None:
            recorder.watch(frozen_tensors(reference), "weight")
        recorder.phase = "states"
        recorder.watch(state_tensors(loop.optimizer), "optimizer_state")
        recorder.watch(loop.gradients(), "gradient")
        recorder.phase = "forward"
        loop.step(traced_batches(request, device_type), recorder)
        if request.evaluation:
            loop.evaluate(_batch(request, device_type), recorder)
    recorder.close()
    model.zero_grad(set_to_none=True)
    if loop.unreached != unreached:
        return _trace_on(model, request, device_type, recorder_of, loop.unreached)
    return StepTrace(
        recording=recorder.recording,
        trainable_parameters=sum(p.numel() for p in loop.trainable),
        total_parameters=logical_parameters(model),
    )


def _loop(
    model: torch.nn.Module,
    request: TraceRequest,
    device_type: str,
    unreached: frozenset[int],
    recorder: StepRecorder,
) -> tuple[TracedLoop, torch.nn.Module | None]:
    """What steps the model, and the copy of it that scores beside it, if any."""
    strategy, execution = request.strategy, request.execution
    if request.model.traits.learns_preferences:
        pairs = PreferenceLoop(model, strategy, execution, device_type, unreached, recorder)
        return pairs, pairs.reference
    loss_function = get_task(request.model.task).loss_func_of(request.model, strategy)
    return TracedLoop(model, strategy, execution, device_type, unreached, loss_function), None


def _trace_forward(
    model: torch.nn.Module, request: TraceRequest, device_type: str, recorder: StepRecorder
) -> StepTrace:
    """A pass of training rows and one of held-out rows, in evaluation mode: all that happens to a frozen model."""
    model.eval()
    pooling = get_strategy(request.strategy.method).pooling(request.strategy)
    fitted = [p for p in model.parameters() if p.requires_grad]
    with recorder, Pooler(model, pooling, request.execution, device_type) as pooled:
        recorder.watch(fitted, "weight")
        recorder.watch(frozen_tensors(model), "weight")
        for phase in ("forward", "evaluation") if request.evaluation else ("forward",):
            recorder.phase = phase
            pooled(_batch(request, device_type))
    recorder.close()
    return StepTrace(
        recording=recorder.recording,
        trainable_parameters=sum(p.numel() for p in fitted),
        total_parameters=logical_parameters(model),
    )


def traced_batches(request: TraceRequest, device_type: str) -> list[dict[str, torch.Tensor]]:
    """What the Trainer holds during a step: its micro-batches (two stand for all), and on CPU the prefetched next one.

    accelerate's data loader is one batch ahead; it moves a batch to the device only when it hands it out.
    """
    drawn = min(request.execution.gradient_accumulation_steps, 2) + is_host(device_type)
    return [_batch(request, device_type) for _ in range(drawn)]


def _batch(request: TraceRequest, device_type: str) -> dict[str, torch.Tensor]:
    execution = request.execution
    task = get_task(request.model.task)
    shapes = task.batch_shapes(request.model, execution.micro_batch_size, request.seq_length, padded=execution.padded)
    if execution.separate_documents:
        shapes["position_ids"] = shapes["input_ids"]
    floats = {"labels"} if task.traits.float_labels else set()
    return {
        name: torch.zeros(shape, dtype=torch.float32 if name in floats else torch.long, device=device_type)
        for name, shape in shapes.items()
    }


def _innermost_module(failure: BaseException) -> str:
    """``package.module:function`` of the deepest frame outside torch: the place a user can recognise."""
    place, trace = "the model", failure.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not name.startswith(("torch", "advisor", "contextlib")):
            place = f"{name}:{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return place
