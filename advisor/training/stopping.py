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
        stepping: Whether training has begun and not ended: only then is there a step to be finished.
    """

    def __init__(self, deadline_s: float = math.inf) -> None:
        self.reason: StopReason | None = None
        self._deadline_s = deadline_s
        self.stepping = False

    def interrupt(self) -> None:
        """Ask for a clean stop, as Ctrl-C does."""
        self.reason = "interrupted"

    def check(self) -> None:
        """Between phases: raises ``StopRun`` when the run has been asked to stop."""
        if self.reason is None and time.monotonic() > self._deadline_s:
            self.reason = "over_time"
        if self.reason is not None:
            raise StopRun(self.reason)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stepping = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stepping = False

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


@contextlib.contextmanager
def catching_interrupts(*switches: StopSwitch) -> Iterator[None]:
    """Ctrl-C asks the runs of this process for a clean stop; a second one, or one that comes while none of them is
    training, raises ``KeyboardInterrupt`` at once. Main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = 0

    def interrupted(signum: int, frame: Any) -> None:
        nonlocal interrupts
        interrupts += 1
        for switch in switches:
            switch.interrupt()
        if interrupts > 1 or not any(switch.stepping for switch in switches):
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def finite_weights(model: nn.Module) -> bool:
    """Whether all trained weights are finite numbers."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(parameter.isfinite().all()) for parameter in trained if parameter.is_floating_point())
