"""How long every operator of one real, unpatched Trainer step takes, in the step itself.

An operator timed alone finds its operands in the cache and its result's memory already mapped; inside a step it finds
neither. ``torch.profiler`` records each dispatched operator where it really runs, at about a microsecond apiece.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from advisor.hardware.backends import HOST, backend_on, is_host

EVALUATION_PASSES = 3


@dataclass(frozen=True, slots=True)
class OperatorEvent:
    """One call that the profiler saw on the CPU.

    Attributes:
        name: With its namespace, ``"aten::addmm"``.
        start_ns, duration_ns: Of the call with everything that it calls in turn.
        thread: The profiler's number of the calling thread.
        device_ns: Of the kernels that it started on an accelerator; ``None`` where the host itself computes.
    """

    name: str
    start_ns: int
    duration_ns: int
    thread: int = 0
    device_ns: int | None = None

    @property
    def busy_ns(self) -> int:
        """How long whatever computes was busy with it."""
        return self.duration_ns if self.device_ns is None else self.device_ns

    @property
    def base_name(self) -> str:
        """Without the namespace: ``"addmm"``."""
        return self.name.rpartition("::")[2]


@dataclass(frozen=True)
class OperatorProfile:
    """One profiled stretch of work.

    Attributes:
        events: Operators in order of time, with those that they call in turn.
        seconds: Wall clock of the whole stretch.
    """

    events: tuple[OperatorEvent, ...]
    seconds: float


@dataclass(frozen=True)
class EvaluationPasses:
    """Forward passes of one batch in evaluation mode, as the Trainer's evaluation loop makes them.

    Attributes:
        times_s: Wall clock of each, synchronised.
        profile: One more pass under the profiler, where that was asked for.
    """

    times_s: tuple[float, ...]
    profile: OperatorProfile | None = None


class OperatorProfiler(TrainerCallback):
    """Profiles the operators of one optimizer step of a Trainer run.

    Args:
        at_step: Which optimizer step, counted from 1.
        device_type: Of the model; an accelerator's kernels are recorded as well.
        chrome_trace: File for the profiler's own events, for ``chrome://tracing`` and Perfetto.

    Attributes:
        result: Set once the step is over.
    """

    def __init__(self, at_step: int, device_type: str = HOST, chrome_trace: str | None = None) -> None:
        self.result: OperatorProfile | None = None
        self._at_step = at_step
        self._device_type, self._chrome_trace = device_type, chrome_trace
        self._open = ExitStack()
        self._profile: Any = None
        self._began_s = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step + 1 == self._at_step:
            self._profile = self._open.enter_context(profile(activities=_activities(self._device_type)))
            self._began_s = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._profile is None:
            return
        backend_on(self._device_type).runtime.synchronize()
        seconds = time.perf_counter() - self._began_s
        self.close()
        events = _events(self._profile) if is_host(self._device_type) else _device_events(self._profile.events())
        self.result = OperatorProfile(events, seconds)
        if self._chrome_trace is not None:
            self._profile.export_chrome_trace(self._chrome_trace)
        self._profile = None

    def close(self) -> None:
        """Stop profiling; needed where the step may have failed."""
        self._open.close()


def measure_evaluation(
    trainer: Trainer, batch: dict[str, torch.Tensor], *, profile_operators: bool
) -> EvaluationPasses:
    """Time the Trainer's evaluation of one batch; the first pass is thrown away."""
    model, runtime = trainer.model.eval(), backend_on(trainer.args.device.type).runtime

    def evaluate() -> float:
        runtime.synchronize()
        began_s = time.perf_counter()
        trainer.prediction_step(model, dict(batch), prediction_loss_only=False)
        runtime.synchronize()
        return time.perf_counter() - began_s

    evaluate()
    times_s = tuple(evaluate() for _ in range(EVALUATION_PASSES))
    if not profile_operators:
        return EvaluationPasses(times_s)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        seconds = evaluate()
    return EvaluationPasses(times_s, OperatorProfile(_events(profiled), seconds))


def _activities(device_type: str) -> list[ProfilerActivity]:
    """The host, and the accelerator where torch can profile it."""
    wanted = ProfilerActivity.__members__.get(device_type.upper(), ProfilerActivity.CPU)
    return list({ProfilerActivity.CPU, wanted} & {*torch.profiler.supported_activities(), ProfilerActivity.CPU})


def _device_events(events: Any) -> tuple[OperatorEvent, ...]:
    """Operators of a step on an accelerator, with the time of the kernels that they and what they call started.

    Args:
        events: ``torch.autograd.profiler_util.FunctionEvent``; times in microseconds.
    """
    return _in_order(
        OperatorEvent(
            event.name,
            round(event.time_range.start * 1000),
            round(event.time_range.elapsed_us() * 1000),
            event.thread,
            round(event.device_time_total * 1000),
        )
        for event in events
        if _is_operator(event.name, event.device_type)
    )


def _events(profiled: Any) -> tuple[OperatorEvent, ...]:
    """Operators that a closed profiler saw on the host."""
    return _in_order(
        OperatorEvent(event.name(), event.start_ns(), event.duration_ns(), event.start_thread_id())
        for event in profiled.profiler.kineto_results.events()
        if _is_operator(event.name(), event.device_type())
    )


def _is_operator(name: str, device_type: torch.autograd.DeviceType) -> bool:
    """Whether an event is an operator's call; the engine's own bookkeeping (``autograd::…``) is none."""
    return device_type == torch.autograd.DeviceType.CPU and "::" in name and not name.startswith("autograd::")


def _in_order(events: Iterable[OperatorEvent]) -> tuple[OperatorEvent, ...]:
    """By time, what calls before what is called."""
    return tuple(sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)))
