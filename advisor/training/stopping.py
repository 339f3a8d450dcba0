"""Ending a run early and cleanly: Ctrl-C, the time limit, and weights that are no numbers any more."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

from torch import nn
from transformers import TrainerCallback

StopReason = Literal["interrupted", "over_time", "diverged"]


class StopRun(Exception):
    """Ends an evaluation or a phase that cannot be finished half-way; the last checkpoint is what remains."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


class StopSwitch(TrainerCallback):
    """Stops the run after the current optimizer step, with a checkpoint, once asked to.

    Args:
        deadline_s: ``time.monotonic()`` value after which no further step is begun.

    Attributes:
        reason: Why the run was stopped; ``None`` while it was not.
    """

    def __init__(self, deadline_s: float = math.inf) -> None:
        self.reason: StopReason | None = None
        self._deadline_s = deadline_s
        self._stepping = False
        self._interrupts = 0

    @contextlib.contextmanager
    def catching_interrupts(self) -> Iterator[None]:
        """Ctrl-C asks for a clean stop; a second one raises ``KeyboardInterrupt`` at once. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, lambda signum, frame: self._interrupted())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def check(self) -> None:
        """Between phases: raises ``StopRun`` when the run has been asked to stop."""
        if self.reason is None and time.monotonic() > self._deadline_s:
            self.reason = "over_time"
        if self.reason is not None:
            raise StopRun(self.reason)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stepping = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stepping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        finished = state.global_step >= state.max_steps
        if self.reason is None and time.monotonic() > self._deadline_s and not finished:
            self.reason = "over_time"
        if self.reason is not None:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **kwargs: Any) -> None:
        """A single loss may overflow in half precision, and the step is skipped; weights do not recover."""
        if self.reason is None and not math.isfinite((logs or {}).get("loss", 0.0)) and not finite_weights(model):
            self.reason = "diverged"
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.reason is not None:
            control.should_evaluate = False

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.check()

    def _interrupted(self) -> None:
        self._interrupts += 1
        self.reason = "interrupted"
        if self._interrupts > 1 or not self._stepping:
            raise KeyboardInterrupt


def finite_weights(model: nn.Module) -> bool:
    """Whether all trained weights are finite numbers."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(parameter.isfinite().all()) for parameter in trained if parameter.is_floating_point())
