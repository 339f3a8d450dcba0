"""Traces one optimizer step of a pack: one pass through the stacked body, and each member's head and update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.tracing.environment import fake_device
from advisor.tracing.recorder import StepRecorder
from advisor.tracing.step import StepTrace, TraceRequest, build_traced, failures_named, traced_batches
from advisor.tracing.training_loop import Batch, TracedLoop, frozen_tensors, logical_parameters, state_tensors
from advisor.training.packing.stacked_body import PassRequest, StackedBody, body_of
from advisor.training.switches import autocast
from advisor.training.tasks import get_task


class PackedLoop:
    """Steps the members of a pack in one thread, in the order in which a packed run does.

    Args:
        models: As ``build_model`` makes them, real or fake; they share the first one's frozen weights from here on.
        strategies: Of the members.
        execution: All switches; batch sizes lie in the batches.
        device_type: Where the models are.
        loss_function: The task's own, as ``Trainer(compute_loss_func=...)``.

    Attributes:
        loops: Of the members, with optimizer states.
    """

    def __init__(
        self,
        models: Sequence[Any],
        strategies: Sequence[StrategyConfig],
        execution: ExecutionPlan,
        device_type: str,
        loss_function: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        self._body = StackedBody(lambda: autocast(execution, device_type), device_type)
        for model in models:
            self._body.join(model)
            model.train()
        self.loops = [
            TracedLoop(model, strategy, execution, device_type, loss_function=loss_function)
            for model, strategy in zip(models, strategies, strict=True)
        ]

    def step(self, batches: Sequence[Batch], recorder: StepRecorder | None = None) -> None:
        """One optimizer step of all members, each on its own batch."""
        _enter(recorder, "forward")
        requests = [_request(loop, batch) for loop, batch in zip(self.loops, batches, strict=True)]
        outputs = self._body.forward(range(len(requests)), requests)
        del requests
        for number, (loop, batch) in enumerate(zip(self.loops, batches, strict=True)):
            _enter(recorder, "forward")
            body_of(loop.model).forward = _Handing(outputs, number)
            loss, held = loop.forward_loss(batch)
            _enter(recorder, "backward")
            (loss if loop.scaler is None else loop.scaler.scale(loss)).backward()
            del loss, held
        self._body.backward()
        _enter(recorder, "optimizer")
        for loop in self.loops:
            if recorder is not None:
                for gradient in loop.gradients():
                    recorder.label(gradient, "gradient")
            loop.update()


def _enter(recorder: StepRecorder | None, phase: str) -> None:
    if recorder is not None:
        recorder.phase = phase


class _Handing:
    """In the place of a member's body: gives the member's part of the output, once."""

    def __init__(self, outputs: list[Any], number: int) -> None:
        self._outputs, self._number = outputs, number

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        output, self._outputs[self._number] = self._outputs[self._number], None
        return output


class _Asked(Exception):
    """What a head asked the body for."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.inputs = inputs


def _request(loop: TracedLoop, batch: Batch) -> PassRequest:
    def ask(*args: Any, **inputs: Any) -> Any:
        raise _Asked({"input_ids": args[0], **inputs} if args else inputs)

    body_of(loop.model).forward = ask
    try:
        loop.forward_loss(batch)
    except _Asked as asked:
        return PassRequest(asked.inputs, True, True, None)
    raise RuntimeError("the model did not call its body")


def trace_pack(request: TraceRequest, strategies: Sequence[StrategyConfig]) -> StepTrace:
    """Trace one step of a pack at one batch shape, in the steady state; nothing is evaluated.

    Args:
        request: The model and how it is run; batch size and length are those of one member.
        strategies: Of the members.

    Raises:
        InputError: they cannot be packed.
        UntraceableError: a library's operator cannot run on fake tensors.
    """
    requests = [dataclasses.replace(request, strategy=strategy) for strategy in strategies]
    with failures_named(request), fake_device(request.semantics, request.compute_capability) as device_type:
        models = [build_traced(member, device_type) for member in requests]
        task = get_task(request.model.task)
        loop = PackedLoop(
            models,
            strategies,
            request.execution,
            device_type,
            task.loss_func_of(request.model, request.strategy),
        )
        recorder = StepRecorder(device_type, masked=request.execution.masked, keep_signatures=request.keep_signatures)
        with recorder:
            for model, member in zip(models, loop.loops, strict=True):
                recorder.watch(member.trainable, "weight")
                recorder.watch(frozen_tensors(model), "weight")
            recorder.phase = "states"
            for member in loop.loops:
                recorder.watch(state_tensors(member.optimizer), "optimizer_state")
            recorder.phase = "forward"
            drawn = [traced_batches(member, device_type) for member in requests]
            loop.step([batches[0] for batches in drawn], recorder)
        recorder.close()
        return StepTrace(
            recording=recorder.recording,
            trainable_parameters=sum(p.numel() for member in loop.loops for p in member.trainable),
            total_parameters=logical_parameters(models[0]),
        )
