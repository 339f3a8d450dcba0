"""Traces one training step and one evaluation pass of what ``run`` executes.

The step is the stock ``transformers.Trainer`` step: forward in accelerate's autocast, loss divided by the accumulation
steps unless the model scales it itself, backward, clipping by norm, optimizer, gradients set to None. A contract test
compares its memory with the profiler's events of the real, unpatched Trainer step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils.operations import convert_to_fp32

from advisor.core.errors import AdvisorError, UntraceableError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.trace.environment import fake_device, patched
from advisor.costmodel.trace.lasting import frozen_tensors, logical_parameters, state_tensors
from advisor.costmodel.trace.recorder import Recording, StepRecorder
from advisor.training.build import build_model
from advisor.training.optimizer import create_optimizer
from advisor.training.synthetic import batch_shapes

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class TraceRequest:
    """What to trace.

    Attributes:
        model, strategy, execution: The configuration; ``execution`` gives batch size and switches.
        seq_length: Tokens per row of the batch.
        semantics: ``"cpu"`` or ``"cuda"``: whose operators run.
        compute_capability: Of the CUDA device.
        num_hidden_layers: Another depth than the model's; ``None`` keeps it.
        keep_signatures: Keep what a replay of each operator needs.
        evaluation: Also trace a forward pass in evaluation mode.
    """

    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    semantics: str = "cpu"
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


def trace_step(request: TraceRequest) -> StepTrace:
    """Trace one configuration without weights, memory or the device.

    Raises:
        UntraceableError: a library's operator cannot run on fake tensors; the message names it.
    """
    with _failures_named(request), fake_device(request.semantics, request.compute_capability) as device_type:
        model = _build(request, device_type)
        return _trace_on(model, request, device_type)


@contextlib.contextmanager
def _failures_named(request: TraceRequest) -> Iterator[None]:
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
            fix="choose another --method, or --attn-implementation eager",
        ) from failure


class TraceSession:
    """One built fake model, traced at several batch shapes.

    Use as a context manager: the fake device stays entered, so that the model is built once.
    """

    def __init__(self, request: TraceRequest) -> None:
        self.request = request
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TraceSession:
        self._device_type = self._stack.enter_context(
            fake_device(self.request.semantics, self.request.compute_capability)
        )
        try:
            with _failures_named(self.request):
                self._model = _build(self.request, self._device_type)
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    def trace(self, micro_batch_size: int, seq_length: int) -> StepTrace:
        execution = dataclasses.replace(self.request.execution, micro_batch_size=micro_batch_size)
        request = dataclasses.replace(self.request, execution=execution, seq_length=seq_length)
        with _failures_named(request):
            return _trace_on(self._model, request, self._device_type)


def _build(request: TraceRequest, device_type: str) -> torch.nn.Module:
    with torch.device(device_type):
        return build_model(
            request.model,
            request.strategy,
            request.execution,
            device=device_type,
            empty=True,
            num_hidden_layers=request.num_hidden_layers,
        )


def _trace_on(model: torch.nn.Module, request: TraceRequest, device_type: str) -> StepTrace:
    execution = request.execution
    recorder = StepRecorder(device_type, padded=execution.padded, keep_signatures=request.keep_signatures)
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.train()
    optimizer = create_optimizer(model, request.strategy, execution)
    _create_states(optimizer, trainable)
    with recorder:
        recorder.watch((p for p in model.parameters() if p.requires_grad), "weight")
        recorder.watch(frozen_tensors(model), "weight")
        recorder.phase = "states"
        recorder.watch(state_tensors(optimizer), "optimizer_state")
        _step(model, optimizer, trainable, request, recorder)
        if request.evaluation:
            _evaluate(model, request, recorder)
    recorder.close()
    return StepTrace(
        recording=recorder.recording,
        trainable_parameters=sum(p.numel() for p in trainable),
        total_parameters=logical_parameters(model),
    )


def _create_states(optimizer: torch.optim.Optimizer, trainable: list[torch.nn.Parameter]) -> None:
    """One unrecorded optimizer step, so that the recorded one sees the steady state."""
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    trainable: list[torch.nn.Parameter],
    request: TraceRequest,
    recorder: StepRecorder,
) -> None:
    strategy, execution = request.strategy, request.execution
    recorder.phase = "forward"
    batches = _drawn_batches(request, recorder.device_type)
    # With accumulation the second micro-batch is the expensive one: gradients are already there.
    micro_batches = 2 if execution.gradient_accumulation_steps > 1 else 1
    total_loss = None
    for index in range(micro_batches):
        recorder.phase = "forward" if index == micro_batches - 1 else "first_forward"
        loss = _forward_loss(model, batches[index], request, recorder.device_type)
        recorder.phase = "backward" if index == micro_batches - 1 else "first_backward"
        loss.backward()
        for parameter in trainable:
            if parameter.grad is not None:
                recorder.label(parameter.grad, "gradient")
        detached = loss.detach()
        del loss
        torch.isnan(detached)
        total_loss = detached if total_loss is None else total_loss + detached
    recorder.phase = "optimizer"
    if strategy.max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_(trainable, strategy.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()
    del batches


def _evaluate(model: torch.nn.Module, request: TraceRequest, recorder: StepRecorder) -> None:
    recorder.phase = "evaluation"
    model.eval()
    with torch.no_grad():
        _forward_loss(model, _batch(request, recorder.device_type), request, recorder.device_type)
    model.train()


def _forward_loss(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], request: TraceRequest, device_type: str
) -> torch.Tensor:
    execution = request.execution
    scaled_by_model = _accepts_loss_kwargs(model)
    extra = {"num_items_in_batch": 1.0} if scaled_by_model else {}
    dtype = AMP_DTYPES.get(execution.amp)
    if dtype is None:
        outputs = model(**batch, **extra)
    else:
        with _autocast(device_type, dtype):
            outputs = model(**batch, **extra)
        outputs = convert_to_fp32(outputs)
    loss = outputs["loss"]
    del outputs, batch
    return loss if scaled_by_model else loss / execution.gradient_accumulation_steps


@contextlib.contextmanager
def _autocast(device_type: str, dtype: torch.dtype) -> Any:
    """Autocast that does not switch itself off because this machine has no CUDA, not even in a recomputed forward."""
    import torch.cuda.amp.common

    with contextlib.ExitStack() as stack:
        if device_type == "cuda" and not torch.cuda.is_available():
            stack.enter_context(patched(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(torch.autocast(device_type, dtype=dtype))
        yield


def _accepts_loss_kwargs(model: torch.nn.Module) -> bool:
    """As ``Trainer.model_accepts_loss_kwargs``: such models divide the loss by the whole batch's items themselves."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters)


def _drawn_batches(request: TraceRequest, device_type: str) -> list[dict[str, torch.Tensor]]:
    """What the Trainer holds during a step: its micro-batches (two stand for all), and on CPU the prefetched next one.

    accelerate's data loader is one batch ahead; it moves a batch to the device only when it hands it out.
    """
    drawn = min(request.execution.gradient_accumulation_steps, 2) + (device_type == "cpu")
    return [_batch(request, device_type) for _ in range(drawn)]


def _batch(request: TraceRequest, device_type: str) -> dict[str, torch.Tensor]:
    execution = request.execution
    shapes = batch_shapes(request.model, execution.micro_batch_size, request.seq_length, padded=execution.padded)
    return {name: torch.zeros(shape, dtype=torch.long, device=device_type) for name, shape in shapes.items()}


def _innermost_module(failure: BaseException) -> str:
    """``package.module:function`` of the deepest frame outside torch: the place a user can recognise."""
    place, trace = "the model", failure.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not name.startswith(("torch", "advisor", "contextlib")):
            place = f"{name}:{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return place
