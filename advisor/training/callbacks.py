"""What watches a Trainer run without changing it: step times, progress events, and the switch that ends it early."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback

from advisor.core.events import OnEvent
from advisor.hardware.backends import backend_on
from advisor.hardware.backends.base import Mark
from advisor.training.metrics import held_out_metrics

EVENT_SPACING_S = 0.2
"""Step events closer together than this are not sent: nobody reads a faster progress bar."""

MILLISECONDS = 1000
"""In a second; a device's marks count in milliseconds."""


class StepClock(TrainerCallback):
    """Wall-clock time of every optimizer step, from the first forward pass to the cleared gradients.

    Fetching and collating the batch, logging, evaluation and saving lie outside the measured span.

    Args:
        waiting: Wait for the device at both ends of a step, as a measurement of single steps does. Otherwise a device
            that can takes the time itself (CUDA events), and the host prepares the next step meanwhile.

    Attributes:
        first_began_s: ``time.perf_counter()`` when this process's first step began.
    """

    def __init__(self, *, waiting: bool = True) -> None:
        self.first_began_s: float | None = None
        self._times_s: list[float] = []
        self._started_s: float | None = None
        self._waiting = waiting
        self._marks: list[tuple[Mark, Mark]] = []
        self._mark: Mark | None = None

    @property
    def step_times_s(self) -> list[float]:
        """One entry per finished optimizer step, in order; pre-filled when a run is resumed."""
        for begun, ended in self._marks:
            ended.synchronize()
            self._times_s.append(begun.elapsed_time(ended) / MILLISECONDS)
        self._marks.clear()
        return self._times_s

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first_began_s = self.first_began_s or time.perf_counter()
        runtime = backend_on(args.device.type).runtime
        self._mark = None if self._waiting else runtime.mark()
        if self._mark is None:
            runtime.synchronize()
            self._started_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        runtime = backend_on(args.device.type).runtime
        if self._mark is not None:
            ended = runtime.mark()
            self._marks += [(self._mark, ended)] if ended is not None else []
            self._mark = None
            return
        runtime.synchronize()
        if self._started_s is not None:
            self._times_s.append(time.perf_counter() - self._started_s)
            self._started_s = None


class NeutralEvaluation(TrainerCallback):
    """Keeps an evaluation from moving the random numbers of the training that follows.

    A data loader draws its seed from torch's global generator when it is iterated. Without this, a run that resumes
    behind an evaluation would go on with other numbers than one that was never interrupted.
    """

    def __init__(self) -> None:
        self._before: torch.Tensor | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate:
            self._before = torch.get_rng_state()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = torch.get_rng_state()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._before is not None:
            torch.set_rng_state(self._before)
            self._before = None


class ProgressEvents(TrainerCallback):
    """Turns the Trainer's callbacks into event dictionaries for whoever draws the progress.

    Attributes:
        train_losses: ``(optimizer step, mean loss since the previous entry)`` as the Trainer logs them.
        metric_history: ``(optimizer step, held-out metrics)``.
        evaluation_s: Wall clock of all evaluations so far, as the Trainer reports it.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self.train_losses: list[tuple[int, float]] = []
        self.metric_history: list[tuple[int, dict[str, float]]] = []
        self.evaluation_s = 0.0
        self._on_event = on_event
        self._last_sent_s = -math.inf
        self._evaluated_batches = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and math.isfinite(logs.get("loss", math.nan)):
            self.train_losses.append((state.global_step, float(logs["loss"])))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now_s = time.perf_counter()
        if now_s - self._last_sent_s < EVENT_SPACING_S and state.global_step < state.max_steps:
            return
        self._last_sent_s = now_s
        loss = self.train_losses[-1][1] if self.train_losses else None
        self._on_event({"kind": "step", "step": state.global_step, "total": state.max_steps, "loss": loss})

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluated_batches += 1
        now_s = time.perf_counter()
        if now_s - self._last_sent_s < EVENT_SPACING_S:
            return
        self._last_sent_s = now_s
        loader = kwargs.get("eval_dataloader")
        self._on_event(
            {
                "kind": "evaluation",
                "batch": self._evaluated_batches,
                "total": len(loader) if loader is not None else None,
            }
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self._evaluated_batches = 0
        self.evaluation_s += (metrics or {}).get("eval_runtime", 0.0)
        kept = held_out_metrics(metrics or {})
        self.metric_history.append((state.global_step, kept))
        self._on_event({"kind": "metrics", "step": state.global_step, "metrics": kept})
