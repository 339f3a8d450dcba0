"""How long every operator of one real, unpatched Trainer step takes, in the step itself.

An operator timed alone finds its operands in the cache and its result's memory already mapped; inside a step it finds
neither. ``torch.profiler`` records each dispatched operator where it really runs, at about a microsecond apiece.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from advisor.hardware.backends import backend_on

EVALUATION_PASSES = 3


@dataclass(frozen=True, slots=True)
class OperatorEvent:
    """One call that the profiler saw on the CPU.

    Attributes:
        name: With its namespace, ``"aten::addmm"``.
        start_ns, duration_ns: Of the call with everything that it calls in turn.
        thread: The profiler's number of the calling thread.
    """

    name: str
    start_ns: int
    duration_ns: int
    thread: int = 0

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

    Attributes:
        result: Set once the step is over.
    """

    def __init__(self, at_step: int) -> None:
        self.result: OperatorProfile | None = None
        self._at_step = at_step
        self._open = ExitStack()
        self._profile: Any = None
        self._began_s = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step + 1 == self._at_step:
            self._profile = self._open.enter_context(profile(activities=[ProfilerActivity.CPU]))
            self._began_s = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._profile is None:
            return
        seconds = time.perf_counter() - self._began_s
        self.close()
        self.result = OperatorProfile(_events(self._profile), seconds)
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


def _events(profiled: Any) -> tuple[OperatorEvent, ...]:
    """What a closed profiler saw; the engine's own bookkeeping (``autograd::…``) is no operator."""
    events = [
        OperatorEvent(event.name(), event.start_ns(), event.duration_ns(), event.start_thread_id())
        for event in profiled.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CPU
        and "::" in event.name()
        and not event.name().startswith("autograd::")
    ]
    return tuple(sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)))
